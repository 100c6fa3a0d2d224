-- call_digests: the digests of actions with tool calls: the one that is recorded, this version's and the first one's.
-- One row per trajectory with tool calls, of its own actions. The first version took the calls as they were written, so
-- that the same call with its arguments as text and as an object was two. `trajkit compact` renews its digests.
-- Grain: trajectory_id.
WITH actions AS (
    SELECT
        m.trajectory_id,
        m.seq,
        m.tool_calls IS NOT NULL AS calls,
        coalesce(m.content, '') || chr(31) || coalesce(m.reasoning, '') || chr(31) AS said,
        coalesce(CASE
            WHEN json_valid(m.tool_calls) THEN CAST(to_json(json_extract(m.tool_calls, '$[*].function')) AS VARCHAR)
        END, '') AS old_calls,
        canonical_calls(m.tool_calls) AS new_calls
    FROM messages AS m
    SEMI JOIN (
        SELECT
            trajectory_id,
            tool_calls
        FROM messages
        WHERE tool_calls IS NOT NULL
    ) AS c ON m.trajectory_id = c.trajectory_id
    WHERE m.role = 'assistant' AND NOT coalesce(m.context, FALSE)
),

digests AS (
    SELECT
        trajectory_id,
        md5(string_agg(md5(said || old_calls), '' ORDER BY seq)) AS old_digest,
        md5(string_agg(md5(said || new_calls), '' ORDER BY seq)) AS new_digest
    FROM actions
    GROUP BY trajectory_id
    HAVING bool_or(calls)
)

SELECT
    d.trajectory_id,
    t.actions_digest, -- the digest that is recorded
    d.new_digest, -- this version's digest
    d.old_digest -- the first version's digest
FROM digests AS d
INNER JOIN trajectories AS t ON d.trajectory_id = t.trajectory_id
