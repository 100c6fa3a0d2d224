-- first_recovery_state: the first expert state from which the policy starts to fail.
-- One row per state that is the one of some expert (`expert_recovery_states`), at most one per expert. What several
-- experts share is one state; expert_id is then the smallest of theirs.
-- The expert's actions previous_step ... step - 1 hold a harmful one.
-- Grain: owner_id, step.
-- Source: EEF, section 3.2, "important state selection" (https://arxiv.org/abs/2504.13145).
SELECT
    expert_id, -- the expert trajectory; of several that share the state the smallest id
    task_id,
    step, -- the state s_step from which the policy starts to fail
    previous_step, -- the simulated state before it, from which the policy succeeds
    owner_id -- who took the action before the state: the expert, or the trajectory that it branched from
FROM expert_recovery_states
WHERE expert_id = first_expert_id
