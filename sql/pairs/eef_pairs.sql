-- eef_pairs: the expert's beneficial actions as the chosen side.
-- One row per pair: where an expert's simulated state is not solved and the next one is, the actions between the two
-- were good. The solution through them is chosen (`best_solution_through`), each failed policy rollout of the current
-- iteration from the former state rejected; both from that state on.
-- Grain: chosen_id, rejected_id, from_step.
-- Source: named as future work by EEF (https://arxiv.org/abs/2504.13145); the rule is ours.

-- distinct, since experts may share both states
SELECT DISTINCT
    'step' AS level, -- trajectory: whole trajectories are compared; step: what follows a shared state
    t.task_id,
    t.previous_step AS from_step, -- the step of the first action that is compared
    CAST(NULL AS INTEGER) AS end_step, -- the first step that is left out; null: to the end
    t.trajectory_id AS chosen_id, -- the trajectory that is preferred
    r.rollout_id AS rejected_id, -- the trajectory that is not
    o.value AS chosen_reward, -- the chosen trajectory's value
    r.value AS rejected_reward -- the rejected trajectory's value
FROM best_solution_through AS t
INNER JOIN expert_rollouts AS r ON t.expert_id = r.expert_id AND t.previous_step = r.step
INNER JOIN current_iteration AS c ON r.iteration = c.iteration
INNER JOIN outcomes AS f ON r.rollout_id = f.trajectory_id
INNER JOIN outcomes AS o ON t.trajectory_id = o.trajectory_id
WHERE NOT r.solved AND f.n_steps > 0
