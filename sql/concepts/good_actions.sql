-- good_actions: the stretches of the experts' actions that bring the policy from failure to success.
-- One row per (expert, two simulated states in a row of which the former is not solved and the latter is): one of the
-- actions previous_step ... step - 1 was beneficial.
-- Grain: expert_id, step.
-- Source: named as future work by EEF (https://arxiv.org/abs/2504.13145); the rule is ours.
SELECT
    expert_id, -- the expert trajectory
    task_id,
    previous_step, -- the simulated state before the stretch, from which the policy fails
    step -- the simulated state after it, from which the policy succeeds
FROM simulated_states
WHERE NOT previous_solved AND solved
