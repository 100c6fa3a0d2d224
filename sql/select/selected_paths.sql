-- selected_paths: whose messages make up each excerpt.
-- One row per (excerpt, trajectory with messages on its path): the messages with step < path_end are taken, all of them
-- where path_end is null.
-- Grain: excerpt_number, owner_id.
SELECT
    e.excerpt_number,
    e.from_step,
    e.end_step,
    e.suffix,
    e.suffix_seq,
    e.step_values,
    s.owner_id,
    least(s.end_step, coalesce(e.end_step, s.end_step)) AS path_end
FROM excerpts AS e
INNER JOIN path_segments AS s ON e.trajectory_id = s.trajectory_id
WHERE s.owner_id != s.trajectory_id
UNION ALL
SELECT
    excerpt_number,
    from_step,
    end_step,
    suffix,
    suffix_seq,
    step_values,
    trajectory_id AS owner_id,
    end_step AS path_end
FROM excerpts
