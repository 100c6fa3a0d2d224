-- candidates: what the methods look at in every trajectory.
-- One row per trajectory: its outcome, place and reason as in `general_reasons`.
-- Grain: trajectory_id.
SELECT
    o.trajectory_id,
    o.task_id,
    o.role,
    o.iteration,
    o.branch_step,
    o.n_steps,
    o.n_actions,
    o.solved,
    o.value,
    coalesce(e.n_expert_actions, 0) AS n_expert_actions, -- expert actions on its whole path
    g.place,
    CASE
        WHEN g.place = 6 THEN g.reason || coalesce(': reward ' || printf('%.6g', o.reward), '') ELSE g.reason
    END AS reason -- as in `general_reasons`, with the reward where it is not solved
FROM outcomes AS o
INNER JOIN general_reasons AS g ON o.trajectory_id = g.trajectory_id
LEFT JOIN expert_actions AS e ON o.trajectory_id = e.trajectory_id
