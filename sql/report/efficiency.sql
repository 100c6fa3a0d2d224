-- efficiency: how often a policy solves tasks, beside the simulations that were made before it.
-- One row per (split, actor, iteration) of the policies in win_rate.
-- What a policy was trained on is not recorded: everything made before its iteration is counted.
-- Grain: split, actor, iteration.
-- Source: EEF, Fig. 3 (https://arxiv.org/abs/2504.13145).
WITH policies AS (
    SELECT
        split,
        actor,
        iteration,
        tasks,
        win_rate,
        win_rate_low,
        win_rate_high
    FROM win_rate
    WHERE role = 'policy'
),

made_before AS (
    SELECT
        p.iteration,
        max(c.n_policy_rollouts) AS n_policy_rollouts -- they grow
    FROM (SELECT DISTINCT iteration FROM policies) AS p
    INNER JOIN coverage AS c ON p.iteration > c.iteration
    GROUP BY p.iteration
)

SELECT
    p.split,
    p.actor,
    p.iteration,
    p.tasks, -- as in win_rate
    p.win_rate, -- as in win_rate
    p.win_rate_low, -- as in win_rate
    p.win_rate_high, -- as in win_rate
    -- simulations of train tasks in the iterations before, as in coverage
    coalesce(m.n_policy_rollouts, 0) AS n_policy_rollouts,
    -- the same per train task
    coalesce(m.n_policy_rollouts / (SELECT max(c.tasks) FROM coverage AS c), 0) AS rollouts_per_task
FROM policies AS p
LEFT JOIN made_before AS m ON p.iteration = m.iteration
