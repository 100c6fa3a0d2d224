-- task_worlds: the one environment and the one split of every task.
-- One row per task_id, of all rows of trajectories and tasks in all files (`all_trajectories`, `all_tasks`). A row that
-- says nothing (null) speaks against nobody, so tasks decides where trajectories do not say.
-- Grain: task_id.
-- Materialized: yes.
-- Scope: all tasks.
WITH said AS (
    SELECT
        task_id,
        env,
        split
    FROM all_trajectories
    UNION ALL
    SELECT
        task_id,
        env,
        split
    FROM all_tasks
),

distinct_said AS (
    SELECT DISTINCT
        task_id,
        env,
        split
    FROM said
)

SELECT
    task_id,
    CASE WHEN min(env) = max(env) THEN min(env) END AS env, -- null: no row says one, or the rows say two
    -- null: no row says one (it is then train), or the rows say two
    CASE WHEN min(split) = max(split) THEN min(split) END AS split,
    CASE
        WHEN min(split) != max(split) THEN 'its task has two splits'
        WHEN min(env) != max(env) THEN 'its task has two envs'
    END AS problem -- two splits, else two environments; null: nothing. No rule takes its trajectories
FROM distinct_said
GROUP BY task_id
