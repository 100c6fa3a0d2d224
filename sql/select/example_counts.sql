-- example_counts: how many examples are written, by their kind.
-- One row per kind.
-- Grain: kind.
SELECT
    kind,
    count(*) AS n, -- examples
    CAST(sum(n_trained_steps) AS BIGINT) AS n_trained_steps, -- actions with loss
    CAST(sum(n_expert_steps) AS BIGINT) AS n_expert_steps -- those of them that are an expert's
FROM selected
GROUP BY kind
