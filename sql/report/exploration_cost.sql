-- exploration_cost: what the trajectories took to make.
-- One row per (iteration, role), all splits together.
-- Grain: iteration, role.
WITH made AS (
    SELECT
        iteration,
        role,
        count(*) AS n_trajectories,
        count(CASE WHEN ended = 'error' THEN 1 END) AS n_error,
        count(CASE WHEN ended = 'drift' THEN 1 END) AS n_drift,
        CAST(sum(n_steps) AS BIGINT) AS n_steps,
        CAST(sum(branch_step) AS BIGINT) AS n_replayed_steps
    FROM outcomes
    GROUP BY iteration, role
),

replays AS (
    SELECT
        iteration,
        role,
        max(branch_step) AS n_steps
    FROM outcomes
    WHERE branch_step > 0
    GROUP BY iteration, role, parent_id
),

replayed AS (
    SELECT
        iteration,
        role,
        CAST(sum(n_steps) AS BIGINT) AS n_steps
    FROM replays
    GROUP BY iteration, role
),

sampled AS (
    SELECT
        o.iteration,
        o.role,
        CAST(sum(array_length(m.token_ids)) AS BIGINT) AS n_tokens
    FROM messages AS m
    INNER JOIN outcomes AS o ON m.trajectory_id = o.trajectory_id
    WHERE m.token_ids IS NOT NULL
    GROUP BY o.iteration, o.role
)

SELECT
    m.iteration,
    m.role,
    m.n_trajectories, -- all of them
    m.n_error, -- those that ended in error
    m.n_drift, -- those that ended in drift
    m.n_steps, -- environment steps: the actions that they took themselves
    m.n_replayed_steps, -- steps to reach the states that branches start from, each branch replaying its own
    -- the same where one replay serves all branches of a parent (snapshots)
    coalesce(r.n_steps, 0) AS n_replayed_steps_once,
    s.n_tokens AS n_sampled_tokens -- tokens that a server sampled for their actions; null: no `token_ids` were kept
FROM made AS m
LEFT JOIN replayed AS r ON m.iteration = r.iteration AND m.role = r.role
LEFT JOIN sampled AS s ON m.iteration = s.iteration AND m.role = s.role
