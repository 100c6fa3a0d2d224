-- old_digests: digests of an earlier version beside those of this one, which tell the same calls apart.
-- One row per trajectory with tool calls whose actions_digest is the earlier version's, where there are others with
-- this version's. `trajkit compact` renews them.
-- `checked` has the trajectories to look at.
WITH actions AS (
    SELECT
        m.trajectory_id,
        m.seq,
        m.tool_calls IS NOT NULL AS calls,
        coalesce(m.content, '') || chr(31) || coalesce(m.reasoning, '') || chr(31) AS said,
        coalesce(CAST(to_json(json_extract(m.tool_calls, '$[*].function')) AS VARCHAR), '') AS old_calls,
        canonical_calls(m.tool_calls) AS new_calls
    FROM messages AS m
    SEMI JOIN (SELECT trajectory_id, tool_calls FROM messages) AS c
        ON c.tool_calls IS NOT NULL AND m.trajectory_id = c.trajectory_id
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
),

recorded AS (
    SELECT
        t.trajectory_id,
        t.actions_digest = d.new_digest AS is_new,
        t.actions_digest = d.old_digest AND d.old_digest != d.new_digest AS is_old
    FROM digests AS d
    INNER JOIN trajectories AS t ON d.trajectory_id = t.trajectory_id
)

SELECT
    r.trajectory_id,
    'its actions_digest is an earlier version''s, and others are not: equal calls may count as different. '
    || '`trajkit compact` renews it' AS problem
FROM recorded AS r
SEMI JOIN checked AS c ON r.trajectory_id = c.trajectory_id
WHERE r.is_old AND (SELECT bool_or(n.is_new) FROM recorded AS n)
