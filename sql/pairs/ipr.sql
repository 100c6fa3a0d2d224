-- ipr: Iterative step-level Process Refinement.
-- One row per pair. Level step: at every state of every expert trajectory, what the expert did from there to its end
-- against what each policy rollout of the current iteration did from there, where the rollout's first action has a step
-- reward lower than the expert's by more than tau, and its value is lower in the end. The expert's side is chosen. A
-- rollout whose first action says what the expert's says gives no pair: what differs in worth is then not the action.
-- Level trajectory: the pairs of `eto`.
-- Grain: level, chosen_id, rejected_id, from_step.
-- Source: IPR, section 3.3 (https://arxiv.org/abs/2406.11176).
SELECT
    'step' AS level, -- trajectory: whole trajectories are compared; step: what follows a shared state
    c.task_id,
    c.step AS from_step, -- the step of the first action that is compared
    CAST(NULL AS INTEGER) AS end_step, -- the first step that is left out; null: to the end
    c.expert_id AS chosen_id, -- the trajectory that is preferred
    c.rollout_id AS rejected_id, -- the trajectory that is not
    c.expert_value AS chosen_reward, -- the chosen trajectory's value
    c.rollout_value AS rejected_reward -- the rejected trajectory's value
FROM compared_rollouts AS c
INNER JOIN path_segments AS s ON c.expert_id = s.trajectory_id -- who took the expert's action: it, or an ancestor
INNER JOIN step_rewards AS e ON s.owner_id = e.trajectory_id AND c.step = e.step
INNER JOIN step_rewards AS r ON c.rollout_id = r.trajectory_id AND c.step = r.step
ANTI JOIN repeated_actions AS a ON c.expert_id = a.expert_id AND c.rollout_id = a.rollout_id
CROSS JOIN params AS p
WHERE
    s.first_step <= c.step AND c.step < s.end_step
    AND c.rollout_value < c.expert_value AND e.step_reward - r.step_reward > p.tau
UNION ALL
SELECT * FROM eto
