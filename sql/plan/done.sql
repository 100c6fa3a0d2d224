-- done: the rollouts that need not be made again.
-- One row per (task, parent, branch_step, sample, role) of the trajectories that did not end in error: what did is
-- tried again; drift is the environment's answer and would come again.
--   role policy  those of the iteration that is given
--   role scorer  those of a train task of any iteration, since the scorer stays what it is; `scorer` names its actor
-- Grain: task_id, parent_id, branch_step, sample, role.
SELECT DISTINCT
    o.task_id,
    CASE WHEN o.branch_step > 0 THEN o.parent_id END AS parent_id,
    o.branch_step,
    o.sample,
    o.role
FROM outcomes AS o
INNER JOIN trajectories AS t ON o.trajectory_id = t.trajectory_id
CROSS JOIN params AS p
WHERE
    coalesce(o.ended, '') != 'error'
    AND (
        (o.role = 'policy' AND o.iteration = p.iteration)
        OR (o.role = 'scorer' AND o.split = 'train' AND coalesce(t.actor = p.scorer, p.scorer IS NULL))
    )
