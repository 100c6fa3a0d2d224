-- why_own_pairs: what a user's own method paired, and the general reason against the rest.
-- One row per pair of `chosen`, and one per trajectory that is in none. Columns as in sql/explain/.
-- Grain: trajectory_id, kind, chosen_id, rejected_id, step.
WITH paired AS (
    SELECT chosen_id AS trajectory_id FROM chosen
    UNION
    SELECT rejected_id AS trajectory_id FROM chosen
)

SELECT
    c.task_id,
    a.level AS kind,
    CAST(NULL AS VARCHAR) AS expert_id,
    a.from_step AS step,
    c.trajectory_id,
    a.chosen_id,
    a.rejected_id,
    TRUE AS chosen,
    'paired, from s_' || a.from_step || ' on' AS reason
FROM candidates AS c
INNER JOIN chosen AS a ON c.trajectory_id = a.rejected_id
UNION ALL
SELECT
    c.task_id,
    CAST(NULL AS VARCHAR) AS kind,
    CAST(NULL AS VARCHAR) AS expert_id,
    0 AS step,
    c.trajectory_id,
    CAST(NULL AS VARCHAR) AS chosen_id,
    CAST(NULL AS VARCHAR) AS rejected_id,
    FALSE AS chosen,
    CASE WHEN c.place > 5 THEN replace(c.reason, ', not chosen', '') || ', in no pair' ELSE c.reason END AS reason
FROM candidates AS c
LEFT JOIN paired AS p ON c.trajectory_id = p.trajectory_id
WHERE p.trajectory_id IS NULL
