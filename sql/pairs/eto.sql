-- eto: Exploration-based Trajectory Optimization, whole trajectories.
-- One row per pair: of every train task the best expert trajectory against each policy rollout from s_0 of the current
-- iteration with an action. The one with the higher value is chosen, be it the expert's or the policy's; equal values,
-- and equal actions all along (`action_sequences`), give no pair. Ties among experts as in `best_expert`.
-- Grain: chosen_id, rejected_id.
-- Source: ETO, section 3.2, eq. 7 and 11 (https://arxiv.org/abs/2403.02502).
WITH compared AS (
    SELECT
        e.task_id,
        e.expert_id,
        e.value AS expert_value,
        o.trajectory_id AS rollout_id,
        o.value AS rollout_value,
        e.value > o.value AS expert_won,
        e.n_actions = o.n_actions AS as_long
    FROM best_expert AS e
    INNER JOIN outcomes AS o ON e.task_id = o.task_id
    INNER JOIN current_iteration AS c ON o.iteration = c.iteration
    WHERE o.role = 'policy' AND o.split = 'train' AND o.branch_step = 0 AND o.n_actions > 0 AND o.value != e.value
),

-- what differs in length differs: few are left to compare
repeated AS (
    SELECT c.rollout_id
    FROM compared AS c
    INNER JOIN action_sequences AS a ON c.expert_id = a.trajectory_id
    INNER JOIN action_sequences AS b ON c.rollout_id = b.trajectory_id
    WHERE c.as_long AND a.actions_digest = b.actions_digest
)

SELECT
    'trajectory' AS level, -- trajectory: whole trajectories are compared; step: what follows a shared state
    c.task_id,
    0 AS from_step, -- the step of the first action that is compared
    CAST(NULL AS INTEGER) AS end_step, -- the first step that is left out; null: to the end
    CASE WHEN c.expert_won THEN c.expert_id ELSE c.rollout_id END AS chosen_id, -- the trajectory that is preferred
    CASE WHEN c.expert_won THEN c.rollout_id ELSE c.expert_id END AS rejected_id, -- the trajectory that is not
    greatest(c.expert_value, c.rollout_value) AS chosen_reward, -- the chosen trajectory's value
    least(c.expert_value, c.rollout_value) AS rejected_reward -- the rejected trajectory's value
FROM compared AS c
ANTI JOIN repeated AS r ON c.rollout_id = r.rollout_id
