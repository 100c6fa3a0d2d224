-- stray_messages: messages of a trajectory that is not there.
-- One row per trajectory_id, with the first such message (`seq` says where).
-- Grain: trajectory_id.
-- Select refuses: nothing.
SELECT
    m.trajectory_id,
    CASE
        WHEN m.trajectory_id IS NULL THEN 'messages have no trajectory_id'
        ELSE 'messages name it, but no trajectory has this id'
    END AS problem,
    min(m.seq) AS seq
FROM messages AS m
ANTI JOIN trajectories AS t ON m.trajectory_id = t.trajectory_id
GROUP BY m.trajectory_id
