-- why_rft: why `rft` trains on what it trains on, and on nothing else.
-- One row per trajectory.
-- Grain: trajectory_id.
WITH solving AS (
    -- kept_id: of the trajectories with the same actions the one that is kept; an expert's where there is one
    SELECT
        c.trajectory_id,
        c.task_id,
        c.role,
        c.value,
        c.n_actions,
        c.iteration,
        first_value(c.trajectory_id) OVER (
            PARTITION BY c.task_id, a.actions_digest
            ORDER BY c.role, c.iteration DESC, c.trajectory_id -- expert before policy
        ) AS kept_id
    FROM candidates AS c
    INNER JOIN action_sequences AS a ON c.trajectory_id = a.trajectory_id
    WHERE c.place = 7 AND (c.role = 'expert' OR c.branch_step = 0)
),

ranked AS (
    SELECT
        trajectory_id,
        row_number() OVER (
            PARTITION BY task_id
            ORDER BY value DESC, n_actions, iteration DESC, trajectory_id
        ) AS task_rank
    FROM solving
    WHERE role = 'policy' AND trajectory_id = kept_id
)

SELECT
    c.task_id,
    'initial' AS kind, -- initial: trained from s_0 on
    CAST(NULL AS VARCHAR) AS expert_id, -- always null: no state of an expert is meant
    0 AS step, -- always 0
    c.trajectory_id,
    f.trajectory_id IS NOT NULL AS chosen, -- whether the method trains on it
    CASE
        WHEN c.place < 7 THEN c.reason
        WHEN c.role = 'expert' THEN 'an expert''s trajectory that solved its task'
        WHEN c.branch_step > 0 THEN 'solved, but does not start from s_0'
        WHEN s.kept_id != c.trajectory_id THEN 'solved by the same actions as ' || s.kept_id
        WHEN f.trajectory_id IS NOT NULL THEN 'solved from s_0, by actions that no other kept trajectory has'
        ELSE 'rank ' || r.task_rank || ' among the distinct solutions of its task; per_task keeps ' || p.per_task
    END AS reason -- why, or the first thing that speaks against it
FROM candidates AS c
CROSS JOIN params AS p
LEFT JOIN solving AS s ON c.trajectory_id = s.trajectory_id
LEFT JOIN ranked AS r ON c.trajectory_id = r.trajectory_id
LEFT JOIN rft AS f ON c.trajectory_id = f.trajectory_id
