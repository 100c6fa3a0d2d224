-- bad_messages: a message that is none.
-- One row per trajectory and kind of mistake, with the first message that has it (`seq` says where).
-- Grain: trajectory_id, problem.
-- Select refuses: chosen trajectories.
WITH mistakes AS (
    SELECT
        m.trajectory_id,
        m.seq,
        CASE
            WHEN m.seq IS NULL THEN 'seq is null'
            WHEN m.step IS NULL THEN 'step is null'
            WHEN m.role IS NULL OR m.role NOT IN ('system', 'user', 'assistant', 'tool')
                THEN
                    'role is '
                    || coalesce('''' || m.role || '''', 'null')
                    || '; it must be system, user, assistant or tool'
            WHEN m.content IS NULL AND m.tool_calls IS NULL THEN 'neither content nor tool_calls'
            WHEN NOT json_valid(m.tool_calls) THEN 'tool_calls is no JSON'
            WHEN
                left(replace(replace(replace(m.tool_calls, ' ', ''), chr(10), ''), chr(13), ''), 2)
                NOT IN ('[{', '[]', 'nu')
                THEN 'tool_calls is no list of calls'
            -- Parquet's statistics leave NaN out, so a comparison alone may not see it
            WHEN NOT (isfinite(m.weight) AND m.weight >= 0 AND m.weight <= 1)
                THEN 'weight is ' || CAST(m.weight AS VARCHAR) || '; it must be from 0 to 1, or null'
        END AS mistake
    FROM messages AS m
    SEMI JOIN checked AS c ON m.trajectory_id = c.trajectory_id
)

SELECT
    trajectory_id,
    'message ' || coalesce(CAST(min(seq) AS VARCHAR), '?') || ': ' || mistake AS problem,
    min(seq) AS seq
FROM mistakes
WHERE mistake IS NOT NULL
GROUP BY trajectory_id, mistake
