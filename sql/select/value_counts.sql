-- value_counts: how many trajectories with values are written, by their role.
-- One row per role.
-- Grain: kind.
SELECT
    o.role AS kind, -- expert or policy
    count(*) AS n, -- trajectories
    CAST(sum(s.n_values) AS BIGINT) AS n_trained_steps -- actions with a value
FROM selected AS s
INNER JOIN outcomes AS o ON s.trajectory_id = o.trajectory_id
GROUP BY o.role
