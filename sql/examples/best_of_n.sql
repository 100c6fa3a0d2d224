-- best_of_n: the best trajectory of every task.
-- One row per train task: of its expert and policy trajectories from s_0 that have an outcome and an action, the one
-- with the highest value; then the fewest expert actions, the fewest actions, the latest iteration, the smallest
-- trajectory_id. The best of a task may still be a failure: it is kept, as in the baseline.
-- Grain: task_id.
-- Source: the baseline Best-of-N of ETO, section 4.1 (https://arxiv.org/abs/2403.02502).
WITH ranked AS (
    SELECT
        task_id,
        trajectory_id,
        row_number() OVER (
            PARTITION BY task_id
            ORDER BY
                value DESC,
                CASE WHEN role = 'expert' THEN n_actions ELSE 0 END,
                n_actions,
                iteration DESC,
                trajectory_id
        ) AS task_rank
    FROM outcomes
    WHERE
        value IS NOT NULL AND split = 'train' AND role IN ('expert', 'policy')
        AND branch_step = 0 AND n_actions > 0
)

SELECT
    'initial' AS kind, -- initial: trained from s_0 on
    task_id,
    trajectory_id,
    CAST(NULL AS VARCHAR) AS expert_id, -- always null: no state of an expert is meant
    0 AS from_step -- the first step that is trained on
FROM ranked
WHERE task_rank = 1
