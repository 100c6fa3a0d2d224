-- why_step_rewards: which actions `step_rewards` gives a value, and why it gives the others none.
-- One row per action that an expert or policy trajectory took itself, and one with step null per other trajectory.
--   chosen  the row is in `step_rewards`
WITH actions AS (
    SELECT
        trajectory_id,
        unnest(range(branch_step, n_actions)) AS step
    FROM candidates
    WHERE place > 3
)

SELECT
    c.task_id,
    c.role AS kind,
    CAST(NULL AS VARCHAR) AS expert_id,
    CAST(a.step AS INTEGER) AS step,
    c.trajectory_id,
    s.trajectory_id IS NOT NULL AS chosen,
    CASE
        WHEN c.place < 4 THEN c.reason
        WHEN s.n_rollouts = 0 THEN 'the last action: the trajectory''s own value, ' || printf('%.6g', s.step_reward)
        WHEN s.n_rollouts > 0
            THEN 'mean of ' || s.n_rollouts || ' scorer rollouts after it: ' || printf('%.6g', s.step_reward)
        WHEN a.step IS NULL THEN 'no action of its own'
        WHEN a.step = c.n_actions - 1 THEN 'the last action, and the trajectory has no outcome'
        ELSE 'no scorer rollout with an outcome after it'
    END AS reason
FROM candidates AS c
LEFT JOIN actions AS a ON c.trajectory_id = a.trajectory_id
LEFT JOIN step_rewards AS s ON a.trajectory_id = s.trajectory_id AND a.step = s.step
