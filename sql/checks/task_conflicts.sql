-- task_conflicts: a task of which the files say two splits or two environments.
-- One row per task and split (environment) that is said of it, with the smallest trajectory_id that says it (null: the
-- table tasks alone does). `select` and the plans leave such a task out.
-- Grain: task_id, problem.
-- Select refuses: nothing.
WITH said AS (
    SELECT
        task_id,
        trajectory_id,
        env,
        split
    FROM all_trajectories
    UNION ALL
    SELECT
        task_id,
        CAST(NULL AS VARCHAR) AS trajectory_id,
        env,
        split
    FROM all_tasks
),

doubtful AS (
    SELECT s.* FROM said AS s
    INNER JOIN task_worlds AS w ON s.task_id = w.task_id
    WHERE w.problem IS NOT NULL
),

told AS (
    SELECT
        task_id,
        'splits' AS what,
        split AS value,
        min(trajectory_id) AS trajectory_id
    FROM doubtful
    WHERE split IS NOT NULL
    GROUP BY task_id, split
    UNION ALL
    SELECT
        task_id,
        'envs' AS what,
        env AS value,
        min(trajectory_id) AS trajectory_id
    FROM doubtful
    WHERE env IS NOT NULL
    GROUP BY task_id, env
),

compared AS (
    SELECT
        *,
        min(value) OVER (PARTITION BY task_id, what) AS one_value,
        max(value) OVER (PARTITION BY task_id, what) AS other_value
    FROM told
)

SELECT
    task_id,
    trajectory_id,
    'the task ' || task_id || ' has two ' || what || ': ' || value
    || CASE WHEN trajectory_id IS NULL THEN ' in tasks, ' ELSE ' here, ' END
    || CASE WHEN value = one_value THEN other_value ELSE one_value END || ' elsewhere' AS problem
FROM compared
WHERE one_value != other_value
