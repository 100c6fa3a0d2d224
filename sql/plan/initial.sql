-- initial: simulate every task from its initial state s_0.
-- One row per rollout: every train task that `tasks` or an expert or policy trajectory names, times `samples`.
-- Grain: task_id, parent_id, branch_step, sample.
-- Role: policy.
-- Source: EEF, Algorithm 1, line 6 (https://arxiv.org/abs/2504.13145).
WITH train_tasks AS (
    SELECT t.task_id FROM tasks AS t
    INNER JOIN task_worlds AS w ON t.task_id = w.task_id
    WHERE w.problem IS NULL AND coalesce(w.split, 'train') = 'train'
    UNION
    SELECT task_id FROM outcomes
    WHERE split = 'train' AND role IN ('expert', 'policy')
)

SELECT
    t.task_id,
    CAST(NULL AS VARCHAR) AS parent_id,
    0 AS branch_step,
    CAST(s.sample AS INTEGER) AS sample,
    'policy' AS role
FROM train_tasks AS t
CROSS JOIN (SELECT unnest(range(samples)) AS sample FROM params) AS s
