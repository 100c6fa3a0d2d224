-- why_nat: why `nat` trains on what it trains on, and on nothing else.
-- One row per trajectory. kind: positive or negative; null where it is not trained on.
-- Grain: trajectory_id.
SELECT
    c.task_id,
    n.kind, -- positive or negative; null: it is not trained on
    CAST(NULL AS VARCHAR) AS expert_id, -- always null: no state of an expert is meant
    0 AS step, -- always 0
    c.trajectory_id,
    n.trajectory_id IS NOT NULL AS chosen, -- whether the method trains on it
    CASE
        WHEN n.kind = 'positive' THEN 'an expert''s trajectory that solved its task'
        WHEN n.kind = 'negative' THEN 'an expert''s trajectory that failed: the prompt asks for a wrong one'
        WHEN c.place < 3 THEN c.reason
        WHEN c.role = 'policy' THEN 'a policy''s; only experts are taken'
        ELSE c.reason
    END AS reason -- why, or the first thing that speaks against it
FROM candidates AS c
LEFT JOIN nat AS n ON c.trajectory_id = n.trajectory_id
