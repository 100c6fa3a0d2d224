-- good_actions: the stretches of the experts' actions that bring the policy from failure to success.
-- One row per (expert, two simulated states in a row of which the former is not solved and the latter is): one of the
-- actions previous_step ... step - 1 was beneficial.
-- Source: named as future work by EEF (https://arxiv.org/abs/2504.13145); the rule is ours.
SELECT
    expert_id,
    task_id,
    previous_step,
    step
FROM simulated_states
WHERE NOT previous_solved AND solved
