-- no_messages: a trajectory without any message.
-- One row per trajectory.
-- Grain: trajectory_id.
-- Select refuses: chosen trajectories.
SELECT
    t.trajectory_id,
    'it has no messages' AS problem
FROM checked AS t
ANTI JOIN messages AS m ON t.trajectory_id = m.trajectory_id
