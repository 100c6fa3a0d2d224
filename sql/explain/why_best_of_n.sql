-- why_best_of_n: why `best_of_n` trains on what it trains on, and on nothing else.
-- One row per trajectory.
-- Grain: trajectory_id.
WITH compared AS (
    -- lost_at: in what a trajectory loses to the best one of its task; 0: it is the best one
    SELECT
        c.*,
        b.trajectory_id AS best_id,
        b.value AS best_value,
        b.n_expert_actions AS best_expert_actions,
        b.n_actions AS best_actions,
        b.iteration AS best_iteration,
        CASE
            WHEN c.place < 6 OR c.branch_step > 0 THEN NULL
            WHEN c.trajectory_id = b.trajectory_id THEN 0
            WHEN c.value < b.value THEN 1
            WHEN c.n_expert_actions > b.n_expert_actions THEN 2
            WHEN c.n_actions > b.n_actions THEN 3
            WHEN c.iteration < b.iteration THEN 4
            ELSE 5
        END AS lost_at
    FROM candidates AS c
    LEFT JOIN best_of_n AS n ON c.task_id = n.task_id
    LEFT JOIN candidates AS b ON n.trajectory_id = b.trajectory_id
),

decided AS (
    SELECT
        *,
        count(lost_at) OVER (PARTITION BY task_id) AS n_compared,
        max(lost_at) OVER (PARTITION BY task_id) AS decided_at,
        printf('%.6g', value) AS told_value
    FROM compared
)

SELECT
    task_id,
    'initial' AS kind, -- initial: trained from s_0 on
    CAST(NULL AS VARCHAR) AS expert_id, -- always null: no state of an expert is meant
    0 AS step, -- always 0
    trajectory_id,
    coalesce(trajectory_id = best_id, FALSE) AS chosen, -- whether the method trains on it
    CASE
        WHEN place < 6 THEN reason
        WHEN branch_step > 0 THEN 'does not start from s_0'
        WHEN lost_at = 0 AND n_compared = 1 THEN 'the only trajectory from s_0: reward ' || told_value
        WHEN lost_at = 0
            THEN
                'of ' || n_compared || ' trajectories from s_0 the one with the highest reward: ' || told_value
                || CASE WHEN decided_at > 1 THEN ', then the fewest expert actions: ' || best_expert_actions ELSE '' END
                || CASE WHEN decided_at > 2 THEN ', then the fewest actions: ' || n_actions ELSE '' END
                || CASE WHEN decided_at > 3 THEN ', then the latest iteration: ' || iteration ELSE '' END
                || CASE WHEN decided_at > 4 THEN ', then the smallest trajectory_id' ELSE '' END
        WHEN lost_at = 1 THEN 'lower reward: ' || told_value || ' < ' || printf('%.6g', best_value)
        WHEN lost_at = 2
            THEN
                'as high a reward (' || told_value || '), but more expert actions: ' || n_expert_actions || ' > '
                || best_expert_actions
        WHEN lost_at = 3
            THEN
                'as high a reward (' || told_value || ') and as few expert actions (' || n_expert_actions
                || '), but more actions: ' || n_actions || ' > ' || best_actions
        WHEN lost_at = 4
            THEN
                'as high a reward (' || told_value || '), as few actions (' || n_actions
                || '), but an older iteration: ' || iteration || ' < ' || best_iteration
        ELSE 'equal to the chosen one, but for a larger trajectory_id'
    END AS reason -- why, or the first thing that speaks against it
FROM decided
