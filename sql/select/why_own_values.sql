-- why_own_values: which actions a user's own method gave a value, and the general reason against the rest.
-- One row per value of `chosen`, and one per trajectory that has none. Columns as in sql/explain/.
-- Grain: trajectory_id, step.
SELECT
    c.task_id,
    c.role AS kind,
    CAST(NULL AS VARCHAR) AS expert_id,
    a.step,
    c.trajectory_id,
    a.step IS NOT NULL AS chosen,
    CASE
        WHEN a.step IS NOT NULL THEN 'value ' || printf('%.6g', a.step_reward)
        WHEN c.place = 7 THEN 'solved, but without a value'
        ELSE c.reason
    END AS reason
FROM candidates AS c
LEFT JOIN chosen AS a ON c.trajectory_id = a.trajectory_id
