-- action_sequences: a digest of the actions along a whole path, to tell equal action sequences.
-- One row per expert trajectory and per trajectory from s_0. It is the recorded digest of the trajectory's own
-- actions; for a branch, and where a hand-made file has none, it is computed from the messages just as trajkit
-- does it when it records.
-- Grain: trajectory_id.
WITH compared AS (
    SELECT
        t.trajectory_id,
        CASE WHEN t.branch_step = 0 THEN t.actions_digest END AS actions_digest
    FROM trajectories AS t
    WHERE t.branch_step = 0 OR t.role = 'expert'
),

undigested AS (
    SELECT trajectory_id FROM compared
    WHERE actions_digest IS NULL
),

segments AS (
    SELECT
        s.trajectory_id,
        s.owner_id,
        s.first_step,
        s.end_step
    FROM undigested AS u
    INNER JOIN path_segments AS s ON u.trajectory_id = s.trajectory_id
),

actions AS (
    SELECT
        s.trajectory_id,
        m.seq,
        md5(
            coalesce(m.content, '') || chr(31) || coalesce(m.reasoning, '') || chr(31)
            || canonical_calls(m.tool_calls)
        ) AS digest
    FROM segments AS s
    INNER JOIN messages AS m ON s.owner_id = m.trajectory_id
    WHERE s.first_step <= m.step AND m.step < s.end_step AND m.role = 'assistant' AND NOT coalesce(m.context, FALSE)
),

computed AS (
    SELECT
        trajectory_id,
        md5(string_agg(digest, '' ORDER BY seq)) AS digest
    FROM actions
    GROUP BY trajectory_id
)

SELECT
    t.trajectory_id,
    -- a digest of the actions along the whole path: equal actions, equal digests
    coalesce(t.actions_digest, c.digest, md5('')) AS actions_digest
FROM compared AS t
LEFT JOIN computed AS c ON t.trajectory_id = c.trajectory_id
