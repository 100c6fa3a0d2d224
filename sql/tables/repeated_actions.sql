-- repeated_actions: the policy rollouts that begin with the very action that the expert took.
-- One row per (expert, policy rollout of the current iteration from one of its states) where both have an action there
-- and these say the same: text, reasoning, and the calls' functions (their ids are drawn anew by a server).
-- In that state the two actions are one: there is nothing to prefer, and its step reward is the expert's.
WITH compared AS (
    SELECT
        r.expert_id,
        r.rollout_id,
        r.step,
        s.owner_id
    FROM expert_rollouts AS r
    INNER JOIN current_iteration AS c ON r.iteration = c.iteration
    INNER JOIN path_segments AS s ON r.expert_id = s.trajectory_id
    WHERE s.first_step <= r.step AND r.step < s.end_step
),

actions AS (
    SELECT
        trajectory_id,
        step,
        coalesce(content, '') AS content,
        coalesce(reasoning, '') AS reasoning,
        coalesce(CAST(to_json(json_extract(tool_calls, '$[*].function')) AS VARCHAR), '[]') AS calls
    FROM messages
    WHERE role = 'assistant' AND NOT coalesce(context, FALSE)
),

-- materialized, or every action would first meet every other that says the same
expert_actions_there AS MATERIALIZED (
    SELECT
        c.expert_id,
        c.rollout_id,
        c.step,
        a.content,
        a.reasoning,
        a.calls
    FROM compared AS c
    INNER JOIN actions AS a ON c.owner_id = a.trajectory_id AND c.step = a.step
)

SELECT
    e.expert_id,
    e.rollout_id,
    e.step
FROM expert_actions_there AS e
INNER JOIN actions AS r ON e.rollout_id = r.trajectory_id AND e.step = r.step
WHERE e.content = r.content AND e.reasoning = r.reasoning AND e.calls = r.calls
