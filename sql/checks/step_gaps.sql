-- step_gaps: a message whose step is not the number of actions before it.
-- One row per trajectory, with the first such message (`seq` says where).
-- Grain: trajectory_id.
-- Select refuses: chosen trajectories.
WITH counted AS (
    SELECT
        m.trajectory_id,
        m.seq,
        m.step,
        t.branch_step + count(CASE WHEN m.role = 'assistant' AND NOT coalesce(m.context, FALSE) THEN 1 END) OVER (
            PARTITION BY m.trajectory_id
            ORDER BY m.seq
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS expected_step
    FROM messages AS m
    INNER JOIN checked AS t ON m.trajectory_id = t.trajectory_id
)

SELECT
    trajectory_id,
    'message ' || min(seq) || ' has step ' || min_by(step, seq) || '; ' || min_by(expected_step, seq)
    || ' actions lie before it' AS problem,
    min(seq) AS seq
FROM counted
WHERE step != expected_step
GROUP BY trajectory_id
