-- bad_values: a value that must be there and is not, or that the tables do not know.
-- One row per trajectory.
-- `checked` has the trajectories to check, with the columns of `outcomes`.
-- Grain: trajectory_id.
-- Select refuses: every method.
WITH mistakes AS (
    SELECT
        trajectory_id,
        CASE WHEN coalesce(trajectory_id, '') = '' THEN 'trajectory_id is null or empty' END AS bad_id,
        CASE WHEN coalesce(task_id, '') = '' THEN 'task_id is null or empty' END AS bad_task,
        CASE
            WHEN role IS NULL OR role NOT IN ('expert', 'policy', 'scorer')
                THEN 'role is ' || coalesce(role, 'null') || '; it must be expert, policy or scorer'
        END AS bad_role,
        CASE
            WHEN ended NOT IN ('done', 'max_steps', 'max_tokens', 'error', 'drift')
                THEN 'ended is ' || ended || '; it must be done, max_steps, max_tokens, error, drift or null'
        END AS bad_ended,
        CASE
            WHEN branch_step IS NULL OR branch_step < 0
                THEN 'branch_step is ' || coalesce(CAST(branch_step AS VARCHAR), 'null') || '; it counts from 0'
        END AS bad_branch_step,
        CASE
            WHEN n_steps IS NULL OR n_steps < 0
                THEN 'n_steps is ' || coalesce(CAST(n_steps AS VARCHAR), 'null') || '; it counts from 0'
        END AS bad_n_steps
    FROM checked
)

SELECT
    trajectory_id,
    concat_ws('; ', bad_id, bad_task, bad_role, bad_ended, bad_branch_step, bad_n_steps) AS problem
FROM mistakes
WHERE coalesce(bad_id, bad_task, bad_role, bad_ended, bad_branch_step, bad_n_steps) IS NOT NULL
