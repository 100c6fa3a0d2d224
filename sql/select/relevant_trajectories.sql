-- relevant_trajectories: the trajectories that rules look at. A mistake in any other row changes no answer.
-- One row per trajectory, with the columns of `outcomes`.
-- Grain: trajectory_id.
SELECT *
FROM outcomes
WHERE split = 'train' AND coalesce(ended, '') NOT IN ('error', 'drift')
