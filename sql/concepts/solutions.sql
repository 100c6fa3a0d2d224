-- solutions: the solved trajectories that run through each important state.
-- One row per (important state, solved expert or policy trajectory of any iteration whose path runs through it
-- and goes on with at least one action).
-- Grain: kind, task_id, expert_id, step, trajectory_id.
-- Source: EEF, section 3.2, "solution selection" (https://arxiv.org/abs/2504.13145).
WITH solving AS (
    SELECT
        o.trajectory_id,
        o.task_id,
        o.iteration,
        o.n_actions,
        coalesce(e.n_expert_actions, 0) AS n_expert_actions
    FROM outcomes AS o
    LEFT JOIN expert_actions AS e ON o.trajectory_id = e.trajectory_id
    WHERE o.solved AND o.split = 'train' AND o.role IN ('expert', 'policy') AND o.n_actions > 0
),

-- expert actions before the recovery state: the same in every trajectory that runs through it
expert_prefixes AS (
    SELECT
        r.expert_id,
        CAST(sum(least(s.end_step, r.step) - s.first_step) AS INTEGER) AS n_expert_actions
    FROM first_recovery_state AS r
    INNER JOIN path_segments AS s ON r.expert_id = s.trajectory_id
    WHERE s.owner_role = 'expert' AND s.first_step < r.step
    GROUP BY r.expert_id
)

SELECT
    'initial' AS kind, -- initial: the task's s_0; recovery: an expert's state that needs recovery
    task_id,
    CAST(NULL AS VARCHAR) AS expert_id, -- the expert trajectory whose state it is; null for s_0
    0 AS step, -- the state s_step
    trajectory_id, -- the solution
    n_expert_actions, -- the solution's expert actions from that state on
    n_actions, -- the solution's actions from that state on
    iteration -- the solution's iteration
FROM solving
UNION ALL
SELECT
    'recovery' AS kind,
    r.task_id,
    r.expert_id,
    r.step,
    t.trajectory_id,
    t.n_expert_actions - coalesce(p.n_expert_actions, 0) AS n_expert_actions,
    t.n_actions - r.step AS n_actions,
    t.iteration
FROM first_recovery_state AS r
INNER JOIN path_segments AS s ON r.owner_id = s.owner_id
INNER JOIN solving AS t ON s.trajectory_id = t.trajectory_id
LEFT JOIN expert_prefixes AS p ON r.expert_id = p.expert_id
WHERE s.first_step < r.step AND r.step <= s.end_step AND r.step < t.n_actions
