-- best_expert: the best expert trajectory of every task.
-- One row per train task with an expert trajectory that has an outcome and an action: the one with the highest value;
-- then the fewest actions, the latest iteration, the smallest trajectory_id.
-- Grain: task_id.
WITH ranked AS (
    SELECT
        task_id,
        trajectory_id AS expert_id,
        value,
        n_actions,
        row_number() OVER (
            PARTITION BY task_id
            ORDER BY value DESC, n_actions, iteration DESC, trajectory_id
        ) AS task_rank
    FROM outcomes
    WHERE role = 'expert' AND split = 'train' AND value IS NOT NULL AND n_actions > 0
)

SELECT
    task_id,
    expert_id, -- the best expert trajectory
    value, -- its value
    n_actions -- actions on its whole path
FROM ranked
WHERE task_rank = 1
