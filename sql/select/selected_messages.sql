-- selected_messages: the messages of the selected examples, with their loss weights.
-- One row per message of an example, ordered by example and position.
-- is_sound: a message as the tables have it. Where one is not, `select` refuses (bad_messages says why).
-- token_ids: what the model sampled, so that it can be trained on as it was; null where nobody recorded them.
-- weight is 1 on the actions (assistant messages that are no context) with step >= from_step, 0 on all else.
SELECT
    p.example_number,
    m.seq,
    m.role,
    m.content,
    m.reasoning,
    m.tool_calls,
    m.tool_call_id,
    m.name,
    m.token_ids,
    m.step,
    m.role = 'assistant' AND NOT coalesce(m.context, FALSE) AS is_action,
    (
        m.seq IS NOT NULL AND m.step IS NOT NULL AND m.role IN ('system', 'user', 'assistant', 'tool')
        AND coalesce(json_valid(m.tool_calls), m.content IS NOT NULL)
    ) IS TRUE AS is_sound,
    CAST(is_action AND m.step >= p.from_step AS FLOAT) AS weight
FROM selected_paths AS p
INNER JOIN messages AS m ON p.owner_id = m.trajectory_id
WHERE p.end_step IS NULL OR m.step < p.end_step
ORDER BY p.example_number, m.seq
