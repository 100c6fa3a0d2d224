-- left_out: why the other trajectories are not trained on.
-- One row per reason that applies, the first one of each trajectory counting; `place` orders the reasons.
-- A trajectory that is in an example, a pair or a row of values is not left out, whatever part of it is trained.
WITH reasons AS (
    SELECT
        CASE
            WHEN split != 'train' THEN 'split ' || split || ' is held out'
            WHEN role = 'scorer' THEN 'scorer rollouts are never trained on'
            WHEN ended IN ('error', 'drift') THEN 'ended in ' || ended
            WHEN solved IS NULL THEN 'neither success nor reward'
            WHEN n_actions = 0 THEN 'no action'
            WHEN NOT solved THEN 'not solved'
            ELSE 'solved, not chosen'
        END AS reason,
        CASE
            WHEN split != 'train' THEN 1
            WHEN role = 'scorer' THEN 2
            WHEN ended IN ('error', 'drift') THEN 3
            WHEN solved IS NULL THEN 4
            WHEN n_actions = 0 THEN 5
            WHEN NOT solved THEN 6
            ELSE 7
        END AS place
    FROM outcomes AS o
    WHERE NOT EXISTS (
        SELECT 1 FROM excerpts AS e
        WHERE e.trajectory_id = o.trajectory_id
    )
)

SELECT
    reason,
    count(*) AS n_trajectories
FROM reasons
GROUP BY reason, place
ORDER BY place, reason
