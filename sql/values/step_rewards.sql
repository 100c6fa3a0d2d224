-- step_rewards: what each action is worth, by Monte-Carlo rollouts after it.
-- One row per action that an expert or policy trajectory of a train task took itself and that has a step reward.
--   step_reward  the mean value of the scorer's rollouts from the state after the action (samples 0 ... N - 1; `scorer`
--                picks one actor's); of a trajectory's last action the trajectory's own value
--   n_rollouts   how many rollouts that is; 0: the last action
-- Rollouts without an outcome count for nothing. The values are added in ascending order: the mean is one number.
-- Grain: trajectory_id, step.
-- Materialized: yes.
-- Plans: score_expert, score_policy.
-- Source: IPR, section 3.2, eq. 5 (https://arxiv.org/abs/2406.11176).
WITH scored AS (
    SELECT
        trajectory_id,
        task_id,
        role,
        value,
        branch_step,
        n_actions
    FROM outcomes
    WHERE
        role IN ('expert', 'policy') AND split = 'train' AND n_steps > 0
        AND coalesce(ended, '') NOT IN ('error', 'drift')
),

scorer_rollouts AS (
    SELECT
        o.trajectory_id,
        o.value,
        o.branch_step
    FROM outcomes AS o
    INNER JOIN trajectories AS t ON o.trajectory_id = t.trajectory_id
    CROSS JOIN params AS p
    WHERE
        o.role = 'scorer' AND o.split = 'train' AND o.value IS NOT NULL AND o.branch_step > 0
        AND o.sample < p.n AND (p.scorer IS NULL OR t.actor = p.scorer)
),

-- by the trajectory that took the action before the state a rollout starts from
after_actions AS (
    SELECT
        s.owner_id AS trajectory_id,
        r.branch_step - 1 AS step,
        list_sort(list(r.value)) AS reward_values
    FROM scorer_rollouts AS r
    INNER JOIN path_segments AS s ON r.trajectory_id = s.trajectory_id
    WHERE s.first_step < r.branch_step AND r.branch_step <= s.end_step
    GROUP BY s.owner_id, r.branch_step
)

SELECT
    t.trajectory_id,
    t.task_id,
    t.role,
    a.step, -- the action a_step
    -- the mean value of the scorer's rollouts after it
    list_sum(a.reward_values) / array_length(a.reward_values) AS step_reward,
    CAST(array_length(a.reward_values) AS INTEGER) AS n_rollouts -- how many rollouts that is; 0: the last action
FROM scored AS t
INNER JOIN after_actions AS a ON t.trajectory_id = a.trajectory_id
WHERE a.step < t.n_actions - 1
UNION ALL
SELECT
    trajectory_id,
    task_id,
    role,
    n_actions - 1 AS step,
    value AS step_reward,
    0 AS n_rollouts
FROM scored
WHERE value IS NOT NULL
