-- outcomes: what came of every trajectory.
-- One row per trajectory, with the nulls of optional columns read as the tables' documentation says.
-- A trajectory that ended in error or drift, or has neither success nor reward, is no outcome: no rule counts it.
-- Grain: trajectory_id.
-- Materialized: yes.
SELECT
    t.trajectory_id,
    t.task_id,
    w.env, -- the task's environment; null: no file says one, or the files say two
    -- the task's split; null: see task_problem. No rule takes the trajectory
    CASE WHEN w.problem IS NULL THEN coalesce(w.split, 'train') END AS split,
    w.problem AS task_problem, -- what is wrong with the task (`task_worlds`); null: nothing
    t.role,
    coalesce(t.iteration, 0) AS iteration,
    coalesce(t.sample, 0) AS sample,
    t.parent_id,
    t.branch_step,
    t.n_steps,
    t.branch_step + t.n_steps AS n_actions, -- actions on its whole path, the parent's prefix counted
    t.reward,
    t.ended,
    CASE
        WHEN coalesce(t.ended, '') NOT IN ('error', 'drift')
            THEN coalesce(t.success, t.reward >= p.success_reward)
    END AS solved, -- the environment's verdict, else reward >= success_reward; null: no outcome
    CASE
        WHEN coalesce(t.ended, '') NOT IN ('error', 'drift')
            THEN coalesce(t.reward, CASE WHEN t.success THEN 1.0 WHEN NOT t.success THEN 0.0 END)
    END AS value -- the reward, else 1 for a success and 0 for a failure; null: no outcome. Pairs compare it
FROM trajectories AS t
INNER JOIN task_worlds AS w ON t.task_id IS NOT DISTINCT FROM w.task_id
CROSS JOIN params AS p
