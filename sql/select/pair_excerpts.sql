-- pair_excerpts: what of which conversation the two sides of each selected pair hold.
-- Two rows per pair, the chosen side first. from_step is where the sides part, end_step the first step that is left out
-- (null: none).
SELECT
    2 * row_number AS excerpt_number,
    chosen_id AS trajectory_id,
    from_step + n_chosen_steps AS n_steps,
    from_step,
    end_step,
    CAST(NULL AS VARCHAR) AS suffix,
    CAST(NULL AS INTEGER) AS suffix_seq,
    CAST(NULL AS MAP (INTEGER, DOUBLE)) AS step_values
FROM selected
UNION ALL
SELECT
    2 * row_number + 1 AS excerpt_number,
    rejected_id AS trajectory_id,
    from_step + n_rejected_steps AS n_steps,
    from_step,
    end_step,
    CAST(NULL AS VARCHAR) AS suffix,
    CAST(NULL AS INTEGER) AS suffix_seq,
    CAST(NULL AS MAP (INTEGER, DOUBLE)) AS step_values
FROM selected
