-- self_play: the policy's own trajectories against each other, where there is no expert.
-- One row per pair: every two policy rollouts from s_0 of one train task and the current iteration with an action each
-- and different values and actions (`action_sequences`), once; the one with the higher value is chosen.
-- Grain: chosen_id, rejected_id.
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
    'trajectory' AS level, -- trajectory: whole trajectories are compared; step: what follows a shared state
    better.task_id,
    0 AS from_step, -- the step of the first action that is compared
    CAST(NULL AS INTEGER) AS end_step, -- the first step that is left out; null: to the end
    better.trajectory_id AS chosen_id, -- the trajectory that is preferred
    worse.trajectory_id AS rejected_id, -- the trajectory that is not
    better.value AS chosen_reward, -- the chosen trajectory's value
    worse.value AS rejected_reward -- the rejected trajectory's value
FROM rollouts AS better
INNER JOIN rollouts AS worse ON better.task_id = worse.task_id
WHERE better.value > worse.value AND better.actions_digest != worse.actions_digest
