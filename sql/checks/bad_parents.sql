-- bad_parents: a branch whose parent cannot be what it branched from.
-- One row per trajectory: its parent is in no file, is of another task, is the scorer's while it is not itself, or
-- ends before branch_step; or it has a branch_step over 0 and no parent.
-- Grain: trajectory_id.
-- Select refuses: methods that read expert_actions, expert_rollouts, solutions, step_rewards, path_segments itself.
SELECT
    t.trajectory_id,
    CASE
        WHEN t.parent_id IS NULL THEN 'branch_step is ' || t.branch_step || ' but it has no parent_id'
        WHEN parent.trajectory_id IS NULL THEN 'its parent ' || t.parent_id || ' is in no file'
        WHEN t.task_id != parent.task_id
            THEN 'its task is ' || t.task_id || ' but its parent ' || t.parent_id || ' is of task ' || parent.task_id
        WHEN t.branch_step > 0 AND t.role != 'scorer' AND parent.role = 'scorer'
            THEN 'its parent ' || t.parent_id || ' is the scorer''s, whose actions are never trained on'
        ELSE
            'branch_step is ' || t.branch_step || ' but its parent ' || t.parent_id || ' ends after '
            || parent.n_actions || ' actions'
    END AS problem
FROM checked AS t
LEFT JOIN outcomes AS parent ON t.parent_id = parent.trajectory_id
WHERE
    (t.parent_id IS NULL AND t.branch_step > 0)
    OR (t.parent_id IS NOT NULL AND parent.trajectory_id IS NULL)
    OR t.task_id != parent.task_id
    OR (t.branch_step > 0 AND t.role != 'scorer' AND parent.role = 'scorer')
    OR t.branch_step > parent.n_actions
