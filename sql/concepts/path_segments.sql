-- path_segments: whose actions make up each trajectory's path.
-- One row per (trajectory, owner of a stretch of its path): the path's actions with
-- first_step <= step < end_step are the owner's own. Empty stretches have no row.
-- The path of a branch is its parent's path up to branch_step, then its own actions, to any depth.
-- Two paths hold the same first i actions (i >= 1) when the same owner owns action i - 1 in both.
-- Grain: trajectory_id, first_step.
-- Materialized: yes.
WITH RECURSIVE parents AS MATERIALIZED (
    -- what something branched from: few
    SELECT
        t.trajectory_id,
        t.role,
        t.parent_id,
        t.branch_step
    FROM outcomes AS t
    SEMI JOIN (
        SELECT DISTINCT parent_id FROM outcomes
        WHERE branch_step > 0
    ) AS p ON t.trajectory_id = p.parent_id
),

branches AS (
    SELECT
        t.trajectory_id,
        t.branch_step,
        t.parent_id,
        p.role AS parent_role,
        p.branch_step AS parent_branch_step,
        p.parent_id AS grandparent_id
    FROM outcomes AS t
    INNER JOIN parents AS p ON t.parent_id = p.trajectory_id
    WHERE t.branch_step > 0
),

-- ancestors above the parent; shared_steps: how many of their path's actions lie on the trajectory's path
ancestors AS (
    SELECT
        trajectory_id,
        grandparent_id AS ancestor_id,
        least(branch_step, parent_branch_step) AS shared_steps,
        [parent_id] AS passed -- parents that form a cycle (`validate` finds them) must not loop for ever
    FROM branches
    WHERE grandparent_id IS NOT NULL AND parent_branch_step > 0
    UNION ALL
    SELECT
        a.trajectory_id,
        p.parent_id AS ancestor_id,
        least(a.shared_steps, p.branch_step) AS shared_steps,
        list_append(a.passed, p.trajectory_id) AS passed
    FROM ancestors AS a
    INNER JOIN parents AS p ON a.ancestor_id = p.trajectory_id
    WHERE p.parent_id IS NOT NULL AND p.branch_step > 0 AND NOT list_contains(a.passed, p.trajectory_id)
)

SELECT
    trajectory_id,
    trajectory_id AS owner_id, -- the trajectory that took these actions itself
    role AS owner_role, -- the owner's role
    branch_step AS first_step, -- the first of these actions
    n_actions AS end_step -- the first action that is no longer one of them
FROM outcomes
WHERE n_steps > 0
UNION ALL
SELECT
    trajectory_id,
    parent_id AS owner_id,
    parent_role AS owner_role,
    parent_branch_step AS first_step,
    branch_step AS end_step
FROM branches
WHERE parent_branch_step < branch_step
UNION ALL
SELECT
    a.trajectory_id,
    a.ancestor_id AS owner_id,
    p.role AS owner_role,
    p.branch_step AS first_step,
    a.shared_steps AS end_step
FROM ancestors AS a
INNER JOIN parents AS p ON a.ancestor_id = p.trajectory_id
WHERE p.branch_step < a.shared_steps
