-- best_solution_through: the one solution through every stretch of good actions that is preferred.
-- One row per stretch of `good_actions` that has a solution: the one with the fewest expert actions from the former
-- state on, then the fewest actions from it on, then the latest iteration, then the smallest trajectory_id.
-- Grain: expert_id, previous_step.
WITH best AS (
    SELECT
        expert_id,
        task_id,
        previous_step,
        step,
        min({
            'n_expert_actions': n_expert_actions,
            'n_actions': n_actions,
            'minus_iteration': -iteration,
            'trajectory_id': trajectory_id
        }) AS solution
    FROM solutions_through
    GROUP BY expert_id, task_id, previous_step, step
)

SELECT
    expert_id,
    task_id,
    previous_step,
    step,
    solution.trajectory_id, -- the solution
    solution.n_expert_actions, -- expert actions on the solution's whole path
    solution.n_actions, -- actions on the solution's whole path
    -solution.minus_iteration AS iteration -- the solution's iteration
FROM best
