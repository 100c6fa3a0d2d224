-- task_outcomes: who solves each task.
-- One row per task and iteration in which the policy has a trajectory of it (the experts' trajectories, of whatever
-- iteration, count in each), and one per task with iteration null, of all iterations together.
--   solver  policy (a rollout from s_0), else expert, else branch (only a rollout from a state on the way), else
--           unsolved (no trajectory that has an outcome), else none (no trajectory has an outcome)
-- Grain: task_id, iteration.
WITH counted AS (
    SELECT
        task_id,
        iteration,
        solved,
        CASE WHEN role = 'expert' THEN 'expert' WHEN branch_step = 0 THEN 'policy' ELSE 'branch' END AS solver
    FROM outcomes
    WHERE role IN ('expert', 'policy')
),

explored AS (
    SELECT DISTINCT
        task_id,
        iteration
    FROM counted
    WHERE solver != 'expert'
),

-- all trajectories of a task, and for each iteration those that count in it
shown AS (
    SELECT
        task_id,
        CAST(NULL AS INTEGER) AS iteration,
        solver,
        solved
    FROM counted
    UNION ALL
    SELECT
        task_id,
        iteration,
        solver,
        solved
    FROM counted
    WHERE solver != 'expert'
    UNION ALL
    SELECT
        e.task_id,
        i.iteration,
        e.solver,
        e.solved
    FROM counted AS e
    INNER JOIN explored AS i ON e.task_id = i.task_id
    WHERE e.solver = 'expert'
)

SELECT
    task_id,
    iteration, -- null: all iterations together
    CASE
        WHEN count(CASE WHEN solver = 'policy' AND solved THEN 1 END) > 0 THEN 'policy'
        WHEN count(CASE WHEN solver = 'expert' AND solved THEN 1 END) > 0 THEN 'expert'
        WHEN count(CASE WHEN solved THEN 1 END) > 0 THEN 'branch'
        WHEN count(solved) > 0 THEN 'unsolved'
        ELSE 'none'
    END AS solver -- policy, expert, branch, unsolved or none
FROM shown
GROUP BY task_id, iteration
