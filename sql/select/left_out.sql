-- left_out: why the other trajectories are not trained on.
-- One row per reason that applies, the first one of each trajectory counting (`general_reasons`).
-- A trajectory that is in an example, a pair or a row of values is not left out, whatever part of it is trained.
-- Grain: reason.
SELECT
    g.reason,
    count(*) AS n_trajectories
FROM general_reasons AS g
LEFT JOIN (SELECT DISTINCT trajectory_id FROM excerpts) AS e ON g.trajectory_id = e.trajectory_id
WHERE e.trajectory_id IS NULL
GROUP BY g.reason, g.place
ORDER BY g.place, g.reason
