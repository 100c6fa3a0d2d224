-- rft: rejection sampling fine-tuning.
-- One row per solved expert trajectory, and one per distinct action sequence among a task's solved policy rollouts
-- from s_0 that no solved expert of the task has; of equal sequences the latest iteration, then the smallest
-- trajectory_id. `per_task` keeps that many rollouts per task: highest value, then fewest actions, then the latest
-- iteration, then the smallest trajectory_id.
-- Grain: trajectory_id.
-- Source: RFT (https://arxiv.org/abs/2308.01825), as in EEF, section 2.
WITH solving AS (
    SELECT
        o.trajectory_id,
        o.task_id,
        o.role,
        o.iteration,
        o.n_actions,
        o.value,
        a.actions_digest
    FROM outcomes AS o
    INNER JOIN action_sequences AS a ON o.trajectory_id = a.trajectory_id
    WHERE
        o.solved AND o.split = 'train' AND o.n_actions > 0
        AND (o.role = 'expert' OR (o.role = 'policy' AND o.branch_step = 0))
),

solving_experts AS (
    SELECT * FROM solving
    WHERE role = 'expert'
),

ranked_rollouts AS (
    SELECT
        s.*,
        row_number() OVER (
            PARTITION BY s.task_id, s.actions_digest
            ORDER BY s.iteration DESC, s.trajectory_id
        ) AS copy_rank
    FROM solving AS s
    WHERE
        s.role = 'policy'
        AND NOT EXISTS (
            SELECT 1 FROM solving_experts AS e
            WHERE e.task_id = s.task_id AND e.actions_digest = s.actions_digest
        )
),

distinct_rollouts AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY task_id
            ORDER BY value DESC, n_actions, iteration DESC, trajectory_id
        ) AS task_rank
    FROM ranked_rollouts
    WHERE copy_rank = 1
)

SELECT
    'initial' AS kind, -- initial: trained from s_0 on
    task_id,
    trajectory_id,
    CAST(NULL AS VARCHAR) AS expert_id, -- always null: no state of an expert is meant
    0 AS from_step -- the first step that is trained on
FROM solving_experts
UNION ALL
SELECT
    'initial' AS kind,
    d.task_id,
    d.trajectory_id,
    CAST(NULL AS VARCHAR) AS expert_id,
    0 AS from_step
FROM distinct_rollouts AS d
CROSS JOIN params AS p
WHERE p.per_task IS NULL OR d.task_rank <= p.per_task
