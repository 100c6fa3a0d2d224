-- experts: the expert trajectories whose states can be explored.
-- One row per expert trajectory of a train task that ended in neither error nor drift, solved or not.
-- Grain: expert_id.
SELECT
    trajectory_id AS expert_id, -- the expert trajectory
    task_id,
    n_actions, -- actions on its whole path
    solved -- null: no outcome
FROM outcomes
WHERE role = 'expert' AND split = 'train' AND coalesce(ended, '') NOT IN ('error', 'drift')
