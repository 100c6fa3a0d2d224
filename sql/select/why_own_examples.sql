-- why_own_examples: what a user's own method chose, and the general reason against the rest.
-- One row per example of `chosen`, and one per other trajectory. Columns as in sql/explain/.
-- Grain: trajectory_id, kind, expert_id, step.
SELECT
    c.task_id,
    a.kind,
    a.expert_id,
    coalesce(a.from_step, 0) AS step,
    c.trajectory_id,
    a.trajectory_id IS NOT NULL AS chosen,
    CASE WHEN a.trajectory_id IS NULL THEN c.reason ELSE 'chosen, trained from s_' || a.from_step || ' on' END AS reason
FROM candidates AS c
LEFT JOIN chosen AS a ON c.trajectory_id = a.trajectory_id
