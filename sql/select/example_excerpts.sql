-- example_excerpts: what of which conversation each selected example holds.
-- One row per example. from_step is the first step that is trained on, end_step the first left out (null: none), and
-- suffix the text that the message at suffix_seq ends with: the last user message before the first action, where
-- there is none the last other one that is not the assistant's, where there is none of these null.
-- Grain: excerpt_number.
WITH suffixed AS (
    SELECT
        e.row_number,
        max({
            'is_user': m.role = 'user',
            'seq': m.seq
        }) AS place
    FROM selected AS e
    INNER JOIN path_segments AS s ON e.trajectory_id = s.trajectory_id
    INNER JOIN messages AS m ON s.owner_id = m.trajectory_id
    WHERE e.suffix IS NOT NULL AND s.first_step = 0 AND m.step = 0 AND m.role != 'assistant'
    GROUP BY e.row_number
)

SELECT
    e.row_number AS excerpt_number,
    e.trajectory_id,
    e.n_steps,
    e.from_step,
    CAST(NULL AS INTEGER) AS end_step,
    e.suffix,
    s.place.seq AS suffix_seq,
    CAST(NULL AS MAP (INTEGER, DOUBLE)) AS step_values
FROM selected AS e
LEFT JOIN suffixed AS s ON e.row_number = s.row_number
