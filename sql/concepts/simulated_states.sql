-- simulated_states: the expert states that were simulated in the current iteration, each beside the one before it.
-- One row per (expert, step) of branch_points of the current iteration with an outcome, s_0 included.
-- Grain: expert_id, step.
-- Plans: skip_length.
-- Source: EEF, section 3.2, "important state selection" (https://arxiv.org/abs/2504.13145).
SELECT
    b.expert_id,
    b.task_id,
    b.step,
    b.solved, -- whether the policy succeeds from here (`branch_points`)
    -- the simulated state before it; null for the first
    lag(b.step) OVER (PARTITION BY b.expert_id ORDER BY b.step) AS previous_step,
    -- whether the policy succeeds from that one; null for the first
    lag(b.solved) OVER (PARTITION BY b.expert_id ORDER BY b.step) AS previous_solved
FROM branch_points AS b
INNER JOIN current_iteration AS c ON b.iteration = c.iteration
WHERE b.solved IS NOT NULL
