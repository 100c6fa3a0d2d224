-- text_lengths: how long the trajectories are in tokens and in characters.
-- One row per (unit, role, outcome, bin of lengths) that holds a trajectory, of any split and iteration.
--   unit                    sampled tokens: the `token_ids` of a trajectory's own actions, where they were kept;
--                           characters: of all messages on its path (text, reasoning and tool calls), of every one
--   outcome                 solved, failed, or no outcome
--   from_length, to_length  the bin's lengths, both ends counted in: 0, 1, 2, 3, 4-5, 6-7, 8-11, 12-15, 16-23, ...
--   n_trajectories          those of that length
-- It reads every message.
-- Grain: unit, role, outcome, from_length.
WITH texts AS (
    SELECT
        trajectory_id,
        step,
        coalesce(length(content), 0) + coalesce(length(reasoning), 0) + coalesce(length(tool_calls), 0) AS n_characters,
        array_length(token_ids) AS n_tokens
    FROM messages
),

own AS (
    SELECT
        trajectory_id,
        sum(n_characters) AS n_characters,
        sum(n_tokens) AS n_tokens
    FROM texts
    GROUP BY trajectory_id
),

-- of a branch: what its path holds before the state that it starts from
inherited AS (
    SELECT
        s.trajectory_id,
        sum(t.n_characters) AS n_characters
    FROM path_segments AS s
    INNER JOIN texts AS t ON s.owner_id = t.trajectory_id AND s.first_step <= t.step AND s.end_step > t.step
    WHERE s.owner_id != s.trajectory_id
    GROUP BY s.trajectory_id
),

lengths AS (
    SELECT
        'characters' AS unit,
        o.trajectory_id,
        coalesce(w.n_characters, 0) + coalesce(i.n_characters, 0) AS n
    FROM outcomes AS o
    LEFT JOIN own AS w ON o.trajectory_id = w.trajectory_id
    LEFT JOIN inherited AS i ON o.trajectory_id = i.trajectory_id
    UNION ALL
    SELECT
        'sampled tokens' AS unit,
        trajectory_id,
        n_tokens AS n
    FROM own
    WHERE n_tokens IS NOT NULL
),

binned AS (
    SELECT
        l.unit,
        o.role,
        CASE WHEN o.solved THEN 'solved' WHEN NOT o.solved THEN 'failed' ELSE 'no outcome' END AS outcome,
        CAST(CASE WHEN l.n > 0 THEN power(2, floor(log2(l.n))) ELSE 0 END AS BIGINT) AS octave,
        l.n
    FROM lengths AS l
    INNER JOIN outcomes AS o ON l.trajectory_id = o.trajectory_id
)

SELECT
    unit, -- sampled tokens, or characters
    role,
    outcome, -- solved, failed, or no outcome
    CASE WHEN n * 2 >= octave * 3 THEN octave * 3 // 2 ELSE octave END AS from_length, -- the shortest length of the bin
    -- the longest length of the bin
    CASE WHEN n * 2 >= octave * 3 THEN octave * 2 ELSE octave * 3 // 2 END - 1 AS to_length,
    count(*) AS n_trajectories -- trajectories of such a length
FROM binned
GROUP BY ALL
