-- written_trajectories: the trajectories whose messages are written, for what is chosen runs through them.
-- One row per trajectory, with the columns of `outcomes`.
-- Grain: trajectory_id.
WITH written AS (
    SELECT s.owner_id AS trajectory_id
    FROM path_segments AS s
    SEMI JOIN excerpts AS e ON s.trajectory_id = e.trajectory_id
    UNION
    SELECT trajectory_id
    FROM excerpts
)

SELECT o.*
FROM outcomes AS o
SEMI JOIN written AS w ON o.trajectory_id = w.trajectory_id
