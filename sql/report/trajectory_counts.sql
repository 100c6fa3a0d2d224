-- trajectory_counts: what lies in the runs.
-- One row per (role, actor, iteration, split): its tasks, its trajectories from s_0 and from states on the way, and how
-- they ended. What has no outcome ended in error or drift, or has neither success nor reward.
-- split is null where two splits or envs are said of the tasks.
SELECT
    o.role,
    t.actor,
    o.iteration,
    o.split,
    count(DISTINCT o.task_id) AS n_tasks,
    count(CASE WHEN o.branch_step = 0 THEN 1 END) AS n_from_s0,
    count(CASE WHEN o.branch_step > 0 THEN 1 END) AS n_branches,
    count(CASE WHEN o.solved THEN 1 END) AS n_solved,
    count(CASE WHEN NOT o.solved THEN 1 END) AS n_failed,
    count(*) - count(o.solved) AS n_no_outcome
FROM outcomes AS o
INNER JOIN trajectories AS t ON o.trajectory_id = t.trajectory_id
GROUP BY o.role, t.actor, o.iteration, o.split
