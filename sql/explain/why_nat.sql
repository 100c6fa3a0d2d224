-- why_nat: why `nat` trains on what it trains on, and on nothing else.
-- One row per trajectory. kind: positive or negative; null where it is not trained on.
--   chosen  the row is in `nat`
--   reason  why, or the first thing that speaks against it
SELECT
    c.task_id,
    n.kind,
    CAST(NULL AS VARCHAR) AS expert_id,
    0 AS step,
    c.trajectory_id,
    n.trajectory_id IS NOT NULL AS chosen,
    CASE
        WHEN n.kind = 'positive' THEN 'an expert''s trajectory that solved its task'
        WHEN n.kind = 'negative' THEN 'an expert''s trajectory that failed: the prompt asks for a wrong one'
        WHEN c.place < 3 THEN c.reason
        WHEN c.role = 'policy' THEN 'a policy''s; only experts are taken'
        ELSE c.reason
    END AS reason
FROM candidates AS c
LEFT JOIN nat AS n ON c.trajectory_id = n.trajectory_id
