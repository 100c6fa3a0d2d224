-- eef_initial: eef without its recovery examples.
-- One row per train task with a solution of its s_0, trained from step 0. Ties as in `solutions`.
SELECT
    kind,
    task_id,
    trajectory_id,
    expert_id,
    step AS from_step
FROM fewest_expert_actions
WHERE kind = 'initial'
