-- repeated_actions: the policy rollouts that begin with the very action that the expert took.
-- One row per (expert, policy rollout of the current iteration from one of its states) where both have an action there
-- and these say the same: text, reasoning, and the calls' names and arguments (canonical_calls).
-- In that state the two actions are one: there is nothing to prefer, and its step reward is the expert's.
-- Grain: expert_id, rollout_id.
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

sides AS (
    SELECT
        owner_id AS trajectory_id,
        step
    FROM compared
    UNION
    SELECT
        rollout_id AS trajectory_id,
        step
    FROM compared
),

-- both sides' actions in one reading of what was said
actions AS MATERIALIZED (
    SELECT
        m.trajectory_id,
        m.step,
        coalesce(m.content, '') AS content,
        coalesce(m.reasoning, '') AS reasoning,
        canonical_calls(m.tool_calls) AS calls
    FROM messages AS m
    INNER JOIN sides AS s ON m.trajectory_id = s.trajectory_id AND m.step = s.step
    WHERE m.role = 'assistant' AND NOT coalesce(m.context, FALSE)
)

SELECT
    c.expert_id, -- the expert trajectory
    c.rollout_id, -- the policy's rollout
    c.step -- both act in the state s_step
FROM compared AS c
INNER JOIN actions AS e ON c.owner_id = e.trajectory_id AND c.step = e.step
INNER JOIN actions AS r ON c.rollout_id = r.trajectory_id AND c.step = r.step
WHERE e.content = r.content AND e.reasoning = r.reasoning AND e.calls = r.calls
