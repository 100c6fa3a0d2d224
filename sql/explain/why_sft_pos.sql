-- why_sft_pos: why `sft_pos` trains on what it trains on, and on nothing else.
-- One row per trajectory.
--   chosen  the row is in `sft_pos`
--   reason  why, or the first thing that speaks against it
SELECT
    c.task_id,
    'initial' AS kind,
    CAST(NULL AS VARCHAR) AS expert_id,
    0 AS step,
    c.trajectory_id,
    a.trajectory_id IS NOT NULL AS chosen,
    CASE
        WHEN a.trajectory_id IS NOT NULL THEN 'an expert''s trajectory that solved its task'
        WHEN c.place < 3 THEN c.reason
        WHEN c.role = 'policy' THEN 'a policy''s; only experts are cloned'
        ELSE c.reason
    END AS reason
FROM candidates AS c
LEFT JOIN sft_pos AS a ON c.trajectory_id = a.trajectory_id
