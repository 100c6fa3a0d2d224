-- selected_messages: the messages of the excerpts, with their loss weights.
-- One row per message of an excerpt.
-- is_sound: a message as the tables have it. Where one is not, `select` refuses (bad_messages says why).
-- rest: a list of one struct, what few messages have; null where this one has nothing of it, for columns of nulls take
-- as much room in the sort as others. token_ids: what the model sampled, so that it can be trained on as it was.
-- in_prompt: it comes before the action at from_step.
-- value: what the action is worth, where the excerpt has values and the action's own weight is not 0.
-- weight: the action's own weight (1 where it has none) on the actions (assistant messages that are no context) with
-- step >= from_step, where the excerpt has values on those with one; 0 on all else.
-- Grain: excerpt_number, seq.
SELECT
    p.excerpt_number,
    m.seq,
    m.role,
    CASE
        WHEN m.seq = p.suffix_seq THEN coalesce(m.content || chr(10) || chr(10), '') || p.suffix
        ELSE m.content
    END AS content,
    CASE
        WHEN
            m.reasoning IS NOT NULL OR m.tool_calls IS NOT NULL OR m.tool_call_id IS NOT NULL OR m.name IS NOT NULL
            OR m.token_ids IS NOT NULL
            THEN [{
                'reasoning': m.reasoning,
                'tool_calls': m.tool_calls,
                'tool_call_id': m.tool_call_id,
                'name': m.name,
                'token_ids': m.token_ids
            }]
    END AS rest,
    m.step,
    m.role = 'assistant' AND NOT coalesce(m.context, FALSE) AS is_action,
    (
        m.seq IS NOT NULL AND m.step IS NOT NULL AND m.role IN ('system', 'user', 'assistant', 'tool')
        AND coalesce(json_valid(m.tool_calls), m.content IS NOT NULL)
        -- Parquet's statistics leave NaN out, so a comparison alone may not see it
        AND coalesce(isfinite(m.weight) AND m.weight >= 0 AND m.weight <= 1, TRUE)
    ) IS TRUE AS is_sound,
    m.step < p.from_step OR (m.step = p.from_step AND NOT is_action) AS in_prompt,
    CASE WHEN is_action AND coalesce(m.weight, 1) > 0 THEN p.step_values[m.step] END AS value,
    CAST(
        CASE
            WHEN CASE WHEN p.step_values IS NULL THEN is_action AND m.step >= p.from_step ELSE value IS NOT NULL END
                THEN coalesce(m.weight, 1)
            ELSE 0
        END AS FLOAT
    ) AS weight
FROM selected_paths AS p
INNER JOIN messages AS m ON p.owner_id = m.trajectory_id
WHERE p.path_end IS NULL OR m.step < p.path_end
