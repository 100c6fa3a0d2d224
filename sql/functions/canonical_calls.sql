-- canonical_calls: a message's tool calls in a form in which equal calls are equal text.
-- One text per message, a list of names and arguments (canonical_arguments); '' where there are no calls. A server's
-- call ids do not count. A call without `function` is read as the function itself. trajkit/runs/canonical.py computes
-- the same.
CREATE OR REPLACE MACRO main.canonical_calls(tool_calls) AS (
    coalesce(nullif('[' || array_to_string(list_transform(
        CAST(try(json_extract(CAST(tool_calls AS JSON), '$[*]')) AS JSON[]),
        LAMBDA c: '{"arguments":'
        || main.canonical_arguments(json_extract(coalesce(json_extract(c, '$.function'), c), '$.arguments'))
        || ',"name":'
        || coalesce(CAST(json_extract(coalesce(json_extract(c, '$.function'), c), '$.name') AS VARCHAR), 'null')
        || '}'
    ), ',') || ']', '[]'), '')
);
