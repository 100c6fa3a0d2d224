-- duplicate_ids: one trajectory_id with different contents.
-- One row per trajectory_id. (The same content twice is no problem: it counts once. Columns that are not the
-- tables' own, and provenance, may differ. What is said of the task, env and split, `task_conflicts` compares.)
-- `all_trajectories` and `all_messages` hold the rows as they lie in the files, `repeated` the ids that occur twice.
-- Grain: trajectory_id.
-- Select refuses: every method.
WITH contents AS (
    SELECT DISTINCT
        r.trajectory_id,
        r.task_id,
        r.role,
        r.actor,
        coalesce(r.iteration, 0) AS iteration,
        coalesce(r.sample, 0) AS sample,
        r.parent_id,
        r.branch_step,
        r.n_steps,
        r.reward,
        r.success,
        r.ended,
        r.tools
    FROM all_trajectories AS r
    SEMI JOIN repeated AS t ON r.trajectory_id = t.trajectory_id
),

message_contents AS (
    SELECT DISTINCT
        m.trajectory_id,
        m.seq,
        m.step,
        m.role,
        m.content,
        m.reasoning,
        m.tool_calls,
        m.tool_call_id,
        m.name,
        coalesce(m.context, FALSE) AS context,
        coalesce(m.weight, 1) AS weight
    FROM all_messages AS m
    SEMI JOIN repeated AS t ON m.trajectory_id = t.trajectory_id
),

-- how often each message lies there: equally often, where one trajectory was copied
message_copies AS (
    SELECT
        m.trajectory_id,
        m.seq,
        count(*) AS n_copies
    FROM all_messages AS m
    SEMI JOIN repeated AS t ON m.trajectory_id = t.trajectory_id
    GROUP BY m.trajectory_id, m.seq
),

differing AS (
    SELECT trajectory_id
    FROM contents
    GROUP BY trajectory_id
    HAVING count(*) > 1
    UNION
    SELECT trajectory_id
    FROM message_contents
    GROUP BY trajectory_id, seq
    HAVING count(*) > 1
    UNION
    SELECT trajectory_id
    FROM message_copies
    GROUP BY trajectory_id
    HAVING min(n_copies) != max(n_copies)
)

SELECT
    d.trajectory_id,
    'the same trajectory_id has different contents' AS problem
FROM differing AS d
SEMI JOIN checked AS c ON d.trajectory_id = c.trajectory_id
