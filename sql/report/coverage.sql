-- coverage: the train tasks that have a solution so far, and what finding them cost.
-- One row per iteration that has an expert or policy trajectory of a train task (0: the experts), all that came
-- before counted in.
-- Grain: iteration.
-- Source: EEF, Fig. 3 (https://arxiv.org/abs/2504.13145).
WITH trajectories_made AS (
    SELECT
        task_id,
        iteration,
        role,
        branch_step,
        n_steps,
        solved
    FROM outcomes
    WHERE split = 'train' AND role IN ('expert', 'policy')
),

first_solved AS (
    SELECT
        task_id,
        min(iteration) AS iteration,
        min(CASE WHEN branch_step = 0 THEN iteration END) AS iteration_from_s0
    FROM trajectories_made
    WHERE solved
    GROUP BY task_id
),

made AS (
    SELECT
        iteration,
        count(CASE WHEN role = 'policy' THEN solved END) AS n_rollouts,
        coalesce(sum(CASE WHEN role = 'policy' AND solved IS NOT NULL THEN n_steps END), 0) AS n_steps
    FROM trajectories_made
    GROUP BY iteration
),

so_far AS (
    SELECT
        m.iteration,
        count(f.task_id) AS solved,
        count(CASE WHEN f.iteration_from_s0 <= m.iteration THEN 1 END) AS solved_from_s0
    FROM made AS m
    LEFT JOIN first_solved AS f ON m.iteration >= f.iteration
    GROUP BY m.iteration
)

SELECT
    s.iteration,
    -- all train tasks (those that `initial` plans), in every row the same
    (SELECT count(DISTINCT i.task_id) FROM initial AS i) AS tasks,
    s.solved, -- tasks that any expert or policy trajectory solves
    s.solved_from_s0, -- tasks that one of them solves with actions that are all its own
    s.solved - s.solved_from_s0 AS solved_by_branches_only, -- the other solved tasks: only a branch found a solution
    -- simulations: the policy's trajectories with an outcome
    CAST(sum(m.n_rollouts) OVER (ORDER BY s.iteration) AS BIGINT) AS n_policy_rollouts,
    -- the actions they took; replayed ones are not counted
    CAST(sum(m.n_steps) OVER (ORDER BY s.iteration) AS BIGINT) AS n_policy_steps
FROM so_far AS s
INNER JOIN made AS m ON s.iteration = m.iteration
