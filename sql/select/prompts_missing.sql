-- prompts_missing: examples whose prompt is to end with a suffix, and that have no prompt.
-- One row per such example.
-- Grain: trajectory_id, from_step.
SELECT
    trajectory_id,
    from_step
FROM excerpts
WHERE suffix IS NOT NULL AND suffix_seq IS NULL
