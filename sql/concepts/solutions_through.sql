-- solutions_through: the solved trajectories that hold an expert's good actions.
-- One row per (stretch of `good_actions`, solved expert or policy trajectory of any iteration that holds the expert's
-- actions up to its end).
-- Grain: expert_id, previous_step, trajectory_id.
WITH ends AS (
    -- who owns the last action of the stretch
    SELECT
        g.*,
        s.owner_id
    FROM good_actions AS g
    INNER JOIN path_segments AS s ON g.expert_id = s.trajectory_id
    WHERE s.first_step < g.step AND g.step <= s.end_step
)

SELECT
    g.expert_id, -- the expert trajectory of the good actions
    g.task_id,
    g.previous_step,
    g.step,
    o.trajectory_id, -- the solution
    coalesce(a.n_expert_actions, 0) AS n_expert_actions, -- expert actions on its whole path
    o.n_actions, -- actions on its whole path
    o.iteration -- the solution's iteration
FROM ends AS g
INNER JOIN path_segments AS s ON g.owner_id = s.owner_id
INNER JOIN outcomes AS o ON s.trajectory_id = o.trajectory_id
LEFT JOIN expert_actions AS a ON o.trajectory_id = a.trajectory_id
WHERE
    s.first_step < g.step AND g.step <= s.end_step
    AND o.solved AND o.split = 'train' AND o.role IN ('expert', 'policy')
