-- first_recovery_state: the first expert state from which the policy starts to fail.
-- One row per expert that has one: its simulated states of the current iteration in order of step, s_0
-- included; the smallest step that is not solved while the simulated state before it is.
-- The expert's actions previous_step ... step - 1 hold a harmful one.
-- Source: EEF, section 3.2, "important state selection" (https://arxiv.org/abs/2504.13145).
SELECT
    expert_id,
    task_id,
    min(step) AS step,
    min_by(previous_step, step) AS previous_step
FROM simulated_states
WHERE previous_solved AND NOT solved
GROUP BY expert_id, task_id
