-- trajectory_lengths: how many actions the trajectories have.
-- One row per (role, outcome, bin of lengths) that holds a trajectory, of any split and iteration.
-- Twenty bins of the same width hold 99% of the trajectories; the few that are longer share one more.
-- Grain: role, outcome, from_actions.
WITH lengths AS (
    SELECT
        role,
        CASE WHEN solved THEN 'solved' WHEN NOT solved THEN 'failed' ELSE 'no outcome' END AS outcome,
        n_actions
    FROM outcomes
),

widths AS (
    SELECT CAST(ceil((percentile_disc(0.99) WITHIN GROUP (ORDER BY n_actions) + 1) / 20) AS INTEGER) AS width
    FROM lengths
),

binned AS (
    SELECT
        l.role,
        l.outcome,
        w.width,
        least(l.n_actions // w.width, 20) AS bin
    FROM lengths AS l
    CROSS JOIN widths AS w
)

SELECT
    role,
    outcome, -- solved, failed, or no outcome
    CAST(bin * width AS INTEGER) AS from_actions, -- the fewest actions of the bin
    -- the most actions of the bin; null in the last one: and more
    CAST(CASE WHEN bin < 20 THEN (bin + 1) * width - 1 END AS INTEGER) AS to_actions,
    count(*) AS n_trajectories -- those whose whole path, the parent's prefix counted, has so many actions
FROM binned
GROUP BY role, outcome, bin, width
