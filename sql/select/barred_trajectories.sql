-- barred_trajectories: the trajectories that no method may choose, its own ones among them.
-- One row per such trajectory: the first reason that applies.
-- Grain: trajectory_id.
SELECT
    trajectory_id,
    CASE
        WHEN coalesce(split, '') != 'train' THEN 'that is not of split train'
        WHEN role = 'scorer' THEN 'of the scorer'
        ELSE 'that ended in error or drift'
    END AS reason -- how a sentence goes on that begins with "a trajectory"
FROM outcomes
WHERE coalesce(split, '') != 'train' OR role = 'scorer' OR ended IN ('error', 'drift')
