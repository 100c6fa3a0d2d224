-- eto_step: Exploration-based Trajectory Optimization, single actions.
-- One row per pair: at every state of every expert trajectory, the expert's action against the action that each policy
-- rollout of the current iteration took from that state, and nothing after it. The one whose trajectory has the higher
-- value in the end is chosen; equal values, and equal actions, give no pair.
-- Grain: chosen_id, rejected_id, from_step.
-- Source: ETO, appendix C (https://arxiv.org/abs/2403.02502).
WITH different AS (
    SELECT
        *,
        expert_value > rollout_value AS expert_won
    FROM compared_rollouts
    WHERE expert_value != rollout_value
)

SELECT
    'step' AS level, -- trajectory: whole trajectories are compared; step: what follows a shared state
    d.task_id,
    d.step AS from_step, -- the step of the first action that is compared
    d.step + 1 AS end_step, -- the first step that is left out; null: to the end
    CASE WHEN d.expert_won THEN d.expert_id ELSE d.rollout_id END AS chosen_id, -- the trajectory that is preferred
    CASE WHEN d.expert_won THEN d.rollout_id ELSE d.expert_id END AS rejected_id, -- the trajectory that is not
    greatest(d.expert_value, d.rollout_value) AS chosen_reward, -- the chosen trajectory's value
    least(d.expert_value, d.rollout_value) AS rejected_reward -- the rejected trajectory's value
FROM different AS d
ANTI JOIN repeated_actions AS a ON d.expert_id = a.expert_id AND d.rollout_id = a.rollout_id
