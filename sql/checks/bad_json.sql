-- bad_json: tools or meta that is no JSON, and tools that are no list of definitions.
-- One row per trajectory and column.
-- Grain: trajectory_id, problem.
-- Select refuses: chosen trajectories.
SELECT
    t.trajectory_id,
    'tools is no JSON' AS problem
FROM trajectories AS t
SEMI JOIN checked AS c ON t.trajectory_id = c.trajectory_id
WHERE NOT json_valid(t.tools)
UNION ALL
SELECT
    t.trajectory_id,
    'meta is no JSON' AS problem
FROM trajectories AS t
SEMI JOIN checked AS c ON t.trajectory_id = c.trajectory_id
WHERE NOT json_valid(t.meta)
UNION ALL
SELECT
    t.trajectory_id,
    'tools is no list of definitions' AS problem
FROM trajectories AS t
SEMI JOIN checked AS c ON t.trajectory_id = c.trajectory_id
WHERE
    json_valid(t.tools)
    AND left(replace(replace(replace(t.tools, ' ', ''), chr(10), ''), chr(13), ''), 2) NOT IN ('[{', '[]', 'nu')
