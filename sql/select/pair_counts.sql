-- pair_counts: how many pairs are written, by what they compare (trajectory or step).
-- One row per level.
-- Grain: kind.
SELECT
    level AS kind, -- trajectory: the sides are whole trajectories; step: what follows a shared state
    count(*) AS n, -- pairs
    CAST(sum(n_chosen_steps + n_rejected_steps) AS BIGINT) AS n_trained_steps -- actions with loss, on both sides
FROM selected
GROUP BY level
