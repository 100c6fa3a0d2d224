-- seq_gaps: own messages that are not numbered one after the other.
-- One row per trajectory: seq counts on without gap or repeat, from 0, or for a branch from the message after the
-- parent's action that led to its state (where there is no such action, bad_parents says so). `seq` is its first one.
-- Grain: trajectory_id.
-- Select refuses: chosen trajectories.
WITH numbered AS (
    SELECT
        m.trajectory_id,
        min(m.seq) AS first_seq,
        max(m.seq) AS last_seq,
        count(m.seq) AS n_messages,
        count(DISTINCT m.seq) AS n_numbers
    FROM messages AS m
    SEMI JOIN checked AS c ON m.trajectory_id = c.trajectory_id
    GROUP BY m.trajectory_id
    HAVING count(*) = count(m.seq) -- bad_messages finds a seq that is null
),

-- seq of the action that led to a branch's first state
before AS (
    SELECT
        s.trajectory_id,
        max(m.seq) AS last_seq
    FROM path_segments AS s
    SEMI JOIN checked AS c ON s.trajectory_id = c.trajectory_id
    INNER JOIN outcomes AS t ON s.trajectory_id = t.trajectory_id
    INNER JOIN messages AS m ON s.owner_id = m.trajectory_id AND t.branch_step - 1 = m.step
    WHERE
        s.first_step < t.branch_step AND t.branch_step <= s.end_step AND s.owner_id != s.trajectory_id
        AND m.role = 'assistant' AND m.context IS DISTINCT FROM TRUE
    GROUP BY s.trajectory_id
)

SELECT
    n.trajectory_id,
    CASE
        WHEN n.n_numbers < n.n_messages THEN 'a seq occurs twice among its messages'
        WHEN n.last_seq - n.first_seq + 1 != n.n_messages
            THEN 'its ' || n.n_messages || ' messages have seq ' || n.first_seq || ' to ' || n.last_seq || ', with gaps'
        ELSE 'its first message has seq ' || n.first_seq || '; it should be ' || coalesce(b.last_seq + 1, 0)
    END AS problem,
    n.first_seq AS seq
FROM numbered AS n
INNER JOIN checked AS t ON n.trajectory_id = t.trajectory_id
LEFT JOIN before AS b ON n.trajectory_id = b.trajectory_id
WHERE
    n.n_numbers < n.n_messages
    OR n.last_seq - n.first_seq + 1 != n.n_messages
    OR n.first_seq != coalesce(b.last_seq + 1, CASE WHEN t.branch_step = 0 THEN 0 END)
