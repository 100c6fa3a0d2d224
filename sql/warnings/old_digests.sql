-- old_digests: digests of the first version beside those of this one, which tell the same calls apart.
-- One row per trajectory whose actions_digest is the first version's, where there are others with this version's.
-- `checked` has the trajectories to look at.
-- Grain: trajectory_id.
SELECT
    d.trajectory_id,
    'its actions_digest is an earlier version''s, and others are not: equal calls may count as different. '
    || '`trajkit compact` renews it' AS problem
FROM call_digests AS d
SEMI JOIN checked AS c ON d.trajectory_id = c.trajectory_id
WHERE
    d.actions_digest = d.old_digest AND d.old_digest != d.new_digest
    AND (
        SELECT bool_or(n.actions_digest = n.new_digest)
        FROM call_digests AS n
    )
