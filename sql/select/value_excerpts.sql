-- value_excerpts: what of which conversation each selected row of values holds: all of it.
-- One row per trajectory.
-- Grain: excerpt_number.
SELECT
    row_number AS excerpt_number,
    trajectory_id,
    n_steps,
    from_step,
    CAST(NULL AS INTEGER) AS end_step,
    CAST(NULL AS VARCHAR) AS suffix,
    CAST(NULL AS INTEGER) AS suffix_seq,
    step_values
FROM selected
