-- why_sft_pos: why `sft_pos` trains on what it trains on, and on nothing else.
-- One row per trajectory.
-- Grain: trajectory_id.
SELECT
    c.task_id,
    'initial' AS kind, -- initial: trained from s_0 on
    CAST(NULL AS VARCHAR) AS expert_id, -- always null: no state of an expert is meant
    0 AS step, -- always 0
    c.trajectory_id,
    a.trajectory_id IS NOT NULL AS chosen, -- whether the method trains on it
    CASE
        WHEN a.trajectory_id IS NOT NULL THEN 'an expert''s trajectory that solved its task'
        WHEN c.place < 3 THEN c.reason
        WHEN c.role = 'policy' THEN 'a policy''s; only experts are cloned'
        ELSE c.reason
    END AS reason -- why, or the first thing that speaks against it
FROM candidates AS c
LEFT JOIN sft_pos AS a ON c.trajectory_id = a.trajectory_id
