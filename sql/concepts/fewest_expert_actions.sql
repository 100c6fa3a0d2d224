-- fewest_expert_actions: the one solution to train on of each important state.
-- One row per important state that has a solution: the one with the fewest expert actions from that state on, then
-- the fewest actions from it on, then the latest iteration, then the smallest trajectory_id. Fewer expert actions
-- are a smaller change to the policy.
-- Grain: kind, task_id, expert_id, step.
-- Source: EEF, section 3.2, "solution selection" (https://arxiv.org/abs/2504.13145).
WITH best AS (
    SELECT
        kind,
        task_id,
        expert_id,
        step,
        min({
            'n_expert_actions': n_expert_actions,
            'n_actions': n_actions,
            'minus_iteration': -iteration,
            'trajectory_id': trajectory_id
        }) AS solution
    FROM solutions
    GROUP BY kind, task_id, expert_id, step
)

SELECT
    kind,
    task_id,
    expert_id,
    step,
    solution.trajectory_id, -- the solution to train on
    solution.n_expert_actions, -- its expert actions from the state on
    solution.n_actions, -- its actions from the state on
    -solution.minus_iteration AS iteration -- the solution's iteration
FROM best
