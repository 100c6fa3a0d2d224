-- win_rate: how often tasks are solved from s_0.
-- One row per (split, role, actor, iteration) of the experts' and the policies' rollouts from s_0;
-- tasks of which two splits or envs are said count nowhere.
-- With several rollouts per task Wilson's is, if anything, too wide: a mean of rollouts varies less than one.
-- Grain: split, role, actor, iteration.
-- Source of the interval: Wilson, J. Am. Stat. Assoc. 22 (1927), 209-212.
WITH by_task AS (
    SELECT
        o.split,
        o.role,
        t.actor,
        o.iteration,
        o.task_id,
        count(*) AS n_rollouts,
        count(CASE WHEN o.solved THEN 1 END) AS n_solved,
        avg(o.reward ORDER BY o.trajectory_id) AS reward -- in an order, or the last digits change from call to call
    FROM outcomes AS o
    INNER JOIN trajectories AS t ON o.trajectory_id = t.trajectory_id
    WHERE o.role IN ('expert', 'policy') AND o.branch_step = 0 AND o.solved IS NOT NULL AND o.split IS NOT NULL
    GROUP BY o.split, o.role, t.actor, o.iteration, o.task_id
),

rates AS (
    SELECT
        split,
        role,
        actor,
        iteration,
        count(*) AS tasks,
        CAST(sum(n_rollouts) AS BIGINT) AS n_rollouts,
        CAST(sum(n_solved) AS BIGINT) AS n_solved,
        avg(n_solved / n_rollouts ORDER BY task_id) AS win_rate,
        avg(reward ORDER BY task_id) AS reward,
        stddev_samp(reward ORDER BY task_id) / sqrt(count(reward)) AS reward_error,
        CAST(1.959963984540054 AS DOUBLE) AS z -- 95% of a normal distribution lie within z deviations
    FROM by_task
    GROUP BY split, role, actor, iteration
),

intervals AS (
    SELECT
        *,
        (win_rate + z * z / (2 * tasks)) / (1 + z * z / tasks) AS centre,
        z / (1 + z * z / tasks) * sqrt(win_rate * (1 - win_rate) / tasks + z * z / (4 * tasks * tasks)) AS half_width
    FROM rates
)

SELECT
    split,
    role,
    actor,
    iteration,
    tasks, -- tasks with a rollout that has an outcome; others count for nothing
    n_rollouts, -- those rollouts
    n_solved, -- the solved ones among them
    win_rate, -- the mean over tasks of the share of the task's rollouts that are solved
    -- the lower end of its 95% interval (Wilson's, with tasks as the trials)
    greatest(0, centre - half_width) AS win_rate_low,
    least(1, centre + half_width) AS win_rate_high, -- the upper end
    reward, -- the mean over tasks of the mean reward of the task's rollouts; null: no rewards
    -- the lower end of its 95% interval (a normal one, of the tasks' means); null: fewer than two
    reward - z * reward_error AS reward_low,
    reward + z * reward_error AS reward_high -- the upper end; null: fewer than two tasks
FROM intervals
