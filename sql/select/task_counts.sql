-- task_counts: how far the train tasks are covered.
-- One row: train tasks with an expert or policy trajectory, those of them that are solved, those with an example,
-- a pair or a value.
-- Grain: one row.
WITH train AS (
    SELECT
        o.task_id,
        o.solved,
        e.trajectory_id IS NOT NULL AS is_selected
    FROM outcomes AS o
    LEFT JOIN (SELECT DISTINCT trajectory_id FROM excerpts) AS e ON o.trajectory_id = e.trajectory_id
    WHERE o.split = 'train' AND o.role IN ('expert', 'policy')
)

SELECT
    count(DISTINCT task_id) AS n_tasks,
    count(DISTINCT CASE WHEN solved THEN task_id END) AS n_solved,
    count(DISTINCT CASE WHEN is_selected THEN task_id END) AS n_selected
FROM train
