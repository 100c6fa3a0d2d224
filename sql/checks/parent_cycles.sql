-- parent_cycles: a trajectory that is its own ancestor.
-- One row per trajectory on a cycle of parents.
-- Grain: trajectory_id.
-- Select refuses: methods that read expert_actions, expert_rollouts, solutions, step_rewards, path_segments itself.
WITH RECURSIVE climbed AS MATERIALIZED (
    -- whatever lies on a cycle is a parent itself: few are
    SELECT
        t.trajectory_id,
        t.parent_id
    FROM outcomes AS t
    SEMI JOIN (SELECT DISTINCT parent_id FROM outcomes) AS p ON t.trajectory_id = p.parent_id
    WHERE t.parent_id IS NOT NULL
),

ancestors AS (
    SELECT
        trajectory_id,
        parent_id AS ancestor_id,
        [trajectory_id] AS passed -- ends the climb around a cycle
    FROM climbed
    UNION ALL
    SELECT
        a.trajectory_id,
        b.parent_id AS ancestor_id,
        list_append(a.passed, a.ancestor_id) AS passed
    FROM ancestors AS a
    INNER JOIN climbed AS b ON a.ancestor_id = b.trajectory_id
    WHERE NOT list_contains(a.passed, a.ancestor_id)
)

SELECT
    c.trajectory_id,
    'its parents lead back to itself' AS problem
FROM checked AS c
SEMI JOIN ancestors AS a ON c.trajectory_id = a.trajectory_id AND a.ancestor_id = a.trajectory_id
