-- canonical_arguments: a call's arguments with their keys sorted, whether they are JSON or a text that holds JSON.
-- One text per call. A text is read where it is a JSON object or array (canonical_json), else it stays text; null and
-- missing arguments are {}.
CREATE OR REPLACE MACRO main.canonical_arguments(arguments) AS (
    CASE
        WHEN coalesce(CAST(arguments AS VARCHAR), 'null') = 'null' THEN '{}'
        WHEN json_type(arguments) IN ('OBJECT', 'ARRAY')
            THEN coalesce(main.canonical_json(CAST(arguments AS VARCHAR)), CAST(arguments AS VARCHAR))
        WHEN
            json_type(arguments) = 'VARCHAR'
            AND left(main.canonical_json(json_extract_string(arguments, '$')), 1) IN ('{', '[')
            THEN main.canonical_json(json_extract_string(arguments, '$'))
        ELSE CAST(arguments AS VARCHAR)
    END
);
