-- wrong_rollouts: what is wrong with the rollouts that a plan asks for.
-- One row per kind of mistake.
-- Grain: problem.
-- `planned` is the plan's answer: task_id, parent_id, branch_step, sample, role.
WITH judged AS (
    SELECT
        CASE
            WHEN p.task_id IS NULL THEN 'have no task_id'
            WHEN w.problem IS NOT NULL OR coalesce(w.split, 'train') != 'train'
                THEN 'are of a task that is not of split train'
            WHEN p.sample IS NULL OR p.sample < 0 THEN 'have a sample that does not count from 0'
            WHEN p.branch_step IS NULL OR p.branch_step < 0 THEN 'have a branch_step that does not count from 0'
            WHEN p.branch_step = 0 AND p.parent_id IS NOT NULL
                THEN 'start from s_0 and name a parent (null is needed, for s_0 is the task''s)'
            WHEN p.branch_step > 0 AND p.parent_id IS NULL THEN 'start from a later state and name no parent'
            WHEN p.parent_id IS NOT NULL AND o.trajectory_id IS NULL THEN 'name a parent that is not there'
            WHEN p.task_id != o.task_id THEN 'name a parent of another task'
            WHEN p.branch_step >= o.n_actions THEN 'start where the parent has no action any more'
        END AS problem
    FROM planned AS p
    LEFT JOIN task_worlds AS w ON p.task_id = w.task_id
    LEFT JOIN outcomes AS o ON p.parent_id = o.trajectory_id
)

SELECT
    problem, -- how a sentence goes on that begins with "rows of the plan"
    count(*) AS n -- rows that have it
FROM judged
WHERE problem IS NOT NULL
GROUP BY problem
