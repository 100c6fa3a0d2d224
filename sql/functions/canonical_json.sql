-- canonical_json: a JSON text with its keys sorted and no spaces; null where it is no JSON by JSON's own grammar, or
-- holds a number that neither 64 bits nor a double may hold.
-- One text per text. A VARIANT has an object's keys sorted, and of a repeated key the last. DuckDB would also take
-- trailing commas, NaN and Infinity, and round large numbers.
CREATE OR REPLACE MACRO main.canonical_json(json_text) AS (
    CASE
        WHEN NOT regexp_matches(
            regexp_replace(json_text, '"(\\.|[^"\\])*"', '""', 'gs'),
            ',\s*[\]}]|(?i:nan|inf)|-[0-9]{19}|[0-9]{20}|[eE][-+]?[0-9]{3}'
        ) THEN try(CAST(to_json(CAST(CAST(json_text AS JSON) AS VARIANT)) AS VARCHAR))
    END
);
