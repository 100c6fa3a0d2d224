-- pair_excerpts: what of which conversation the two sides of each selected pair hold.
-- One row per side of a pair, the chosen side first. from_step is where the sides part, end_step the first step that is
-- left out (null: none).
-- Grain: excerpt_number.
SELECT
    2 * p.row_number + s.side AS excerpt_number,
    CASE WHEN s.side = 0 THEN p.chosen_id ELSE p.rejected_id END AS trajectory_id,
    CASE WHEN s.side = 0 THEN p.chosen_end ELSE p.rejected_end END AS n_steps,
    p.from_step,
    p.end_step,
    CAST(NULL AS VARCHAR) AS suffix,
    CAST(NULL AS INTEGER) AS suffix_seq,
    CAST(NULL AS MAP (INTEGER, DOUBLE)) AS step_values
FROM selected AS p
CROSS JOIN (SELECT unnest(range(2)) AS side) AS s
