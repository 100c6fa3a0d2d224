-- skill: how often an action that matches `action_pattern` is tried, and how often a task is solved with it.
-- One row per (split, role, actor, iteration) of the experts' and the policies' rollouts from s_0;
-- tasks of which two splits or envs are said count nowhere.
-- `action_pattern` (RE2) is searched in the text and the tool calls of each action; the default finds WebShop's Next.
-- Grain: split, role, actor, iteration.
-- Source: EEF, Table 4 and Fig. 2, "navigation skills" (https://arxiv.org/abs/2504.13145).
WITH rollouts AS (
    SELECT
        o.trajectory_id,
        o.split,
        o.role,
        t.actor,
        o.iteration,
        o.task_id,
        o.solved
    FROM outcomes AS o
    INNER JOIN trajectories AS t ON o.trajectory_id = t.trajectory_id
    WHERE o.role IN ('expert', 'policy') AND o.branch_step = 0 AND o.solved IS NOT NULL AND o.split IS NOT NULL
),

matching AS (
    SELECT DISTINCT m.trajectory_id
    FROM rollouts AS r
    INNER JOIN messages AS m ON r.trajectory_id = m.trajectory_id
    CROSS JOIN params AS p
    WHERE
        m.role = 'assistant' AND NOT coalesce(m.context, FALSE)
        AND regexp_matches(concat_ws(chr(10), m.content, m.tool_calls), p.action_pattern)
),

by_task AS (
    SELECT
        r.split,
        r.role,
        r.actor,
        r.iteration,
        r.task_id,
        count(m.trajectory_id) > 0 AS attempted,
        count(CASE WHEN r.solved THEN m.trajectory_id END) > 0 AS solved_with
    FROM rollouts AS r
    LEFT JOIN matching AS m ON r.trajectory_id = m.trajectory_id
    GROUP BY r.split, r.role, r.actor, r.iteration, r.task_id
)

SELECT
    split,
    role,
    actor,
    iteration,
    count(*) AS tasks, -- tasks with a rollout that has an outcome
    -- share of them with a rollout that holds a matching action
    count(CASE WHEN attempted THEN 1 END) / count(*) AS attempted,
    -- share of them with a solved rollout that holds a matching action
    count(CASE WHEN solved_with THEN 1 END) / count(*) AS solved_with
FROM by_task
GROUP BY split, role, actor, iteration
