-- eto_step: Exploration-based Trajectory Optimization, single actions.
-- One row per pair: at every state of every expert trajectory, the expert's action against the action that each policy
-- rollout of the current iteration took from that state, and nothing after it. The one whose trajectory has the higher
-- value in the end is chosen; equal values, and equal actions, give no pair.
-- Source: ETO, appendix C (https://arxiv.org/abs/2403.02502).
WITH compared AS (
    SELECT
        r.task_id,
        r.step,
        r.expert_id,
        e.value AS expert_value,
        r.rollout_id,
        r.value AS rollout_value,
        e.value > r.value AS expert_won
    FROM expert_rollouts AS r
    INNER JOIN current_iteration AS c ON r.iteration = c.iteration
    INNER JOIN outcomes AS e ON r.expert_id = e.trajectory_id
    INNER JOIN outcomes AS o ON r.rollout_id = o.trajectory_id
    WHERE e.value != r.value AND r.step < e.n_actions AND o.n_steps > 0
)

SELECT
    'step' AS level,
    c.task_id,
    c.step AS from_step,
    c.step + 1 AS end_step,
    CASE WHEN c.expert_won THEN c.expert_id ELSE c.rollout_id END AS chosen_id,
    CASE WHEN c.expert_won THEN c.rollout_id ELSE c.expert_id END AS rejected_id,
    greatest(c.expert_value, c.rollout_value) AS chosen_reward,
    least(c.expert_value, c.rollout_value) AS rejected_reward
FROM compared AS c
ANTI JOIN repeated_actions AS a ON c.expert_id = a.expert_id AND c.rollout_id = a.rollout_id
