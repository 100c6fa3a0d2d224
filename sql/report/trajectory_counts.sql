-- trajectory_counts: what lies in the runs.
-- One row per (role, actor, iteration, split): its tasks, its trajectories from s_0 and from states on the way, and how
-- they ended. What has no outcome ended in error or drift, or has neither success nor reward.
-- split is null where two splits or envs are said of the tasks.
-- Grain: role, actor, iteration, split.
SELECT
    o.role,
    t.actor,
    o.iteration,
    o.split, -- null: the files say two splits or two envs of the tasks
    count(DISTINCT o.task_id) AS n_tasks, -- tasks
    count(CASE WHEN o.branch_step = 0 THEN 1 END) AS n_from_s0, -- trajectories from s_0
    count(CASE WHEN o.branch_step > 0 THEN 1 END) AS n_branches, -- trajectories from later states
    count(CASE WHEN o.solved THEN 1 END) AS n_solved, -- solved ones
    count(CASE WHEN NOT o.solved THEN 1 END) AS n_failed, -- failed ones
    count(*) - count(o.solved) AS n_no_outcome -- those that ended in error or drift, or have neither success nor reward
FROM outcomes AS o
INNER JOIN trajectories AS t ON o.trajectory_id = t.trajectory_id
GROUP BY o.role, t.actor, o.iteration, o.split
