-- experts: the expert trajectories whose states can be explored.
-- One row per expert trajectory of a train task that ended in neither error nor drift, solved or not.
SELECT
    trajectory_id AS expert_id,
    task_id,
    n_actions,
    solved
FROM outcomes
WHERE role = 'expert' AND split = 'train' AND coalesce(ended, '') NOT IN ('error', 'drift')
