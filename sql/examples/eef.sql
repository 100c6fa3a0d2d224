-- eef: Exploring Expert Failures.
-- One row per example: of every train task's s_0 its solution with the fewest expert actions, trained from step 0
-- (kind initial), and of every first recovery state the same, trained from that state on (kind recovery). A state that
-- several experts share gives one example, whose expert_id is the smallest.
-- Both are kept when both are the same trajectory. Ties as in `solutions`.
-- Grain: kind, task_id, expert_id, from_step.
-- Source: EEF, Algorithm 1, lines 10-13 (https://arxiv.org/abs/2504.13145).
SELECT
    kind,
    task_id,
    trajectory_id, -- the solution to train on
    expert_id,
    step AS from_step -- the first step that is trained on
FROM fewest_expert_actions
