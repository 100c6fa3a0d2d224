-- self_play: the policy's own trajectories against each other, where there is no expert.
-- One row per pair: every two policy rollouts from s_0 of one train task and the current iteration with an action each
-- and different values and actions (`action_sequences`), once; the one with the higher value is chosen.
-- Source: ETO, section 4.5 (https://arxiv.org/abs/2403.02502).
WITH rollouts AS (
    SELECT
        o.task_id,
        o.trajectory_id,
        o.value,
        a.actions_digest
    FROM outcomes AS o
    INNER JOIN current_iteration AS c ON o.iteration = c.iteration
    INNER JOIN action_sequences AS a ON o.trajectory_id = a.trajectory_id
    WHERE
        o.role = 'policy' AND o.split = 'train' AND o.branch_step = 0 AND o.n_actions > 0
        AND o.value IS NOT NULL
)

SELECT
    'trajectory' AS level,
    better.task_id,
    0 AS from_step,
    CAST(NULL AS INTEGER) AS end_step,
    better.trajectory_id AS chosen_id,
    worse.trajectory_id AS rejected_id,
    better.value AS chosen_reward,
    worse.value AS rejected_reward
FROM rollouts AS better
INNER JOIN rollouts AS worse ON better.task_id = worse.task_id
WHERE better.value > worse.value AND better.actions_digest != worse.actions_digest
