-- input_fingerprint: a digest of the trajectories' rows (not of their text).
-- One row: the sum of a digest of each trajectory, the same for any order and any split over files; null of none.
SELECT
    sum(CAST(md5_number_lower(concat_ws(
        chr(31), trajectory_id, task_id, split, coalesce(role, ''),
        coalesce(CAST(solved AS VARCHAR), ''), coalesce(printf('%.12e', value), ''), branch_step, n_steps
    )) AS DECIMAL(38, 0))) AS fingerprint
FROM outcomes
