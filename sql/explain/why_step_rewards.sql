-- why_step_rewards: which actions `step_rewards` gives a value, and why it gives the others none.
-- One row per action that an expert or policy trajectory took itself, and one with step null per other trajectory.
-- Grain: trajectory_id, step.
WITH actions AS (
    SELECT
        trajectory_id,
        unnest(range(branch_step, n_actions)) AS step
    FROM candidates
    WHERE place > 3
)

SELECT
    c.task_id,
    c.role AS kind, -- the trajectory's role
    CAST(NULL AS VARCHAR) AS expert_id, -- always null: no state of an expert is meant
    CAST(a.step AS INTEGER) AS step, -- the action a_step; null: the trajectory as a whole
    c.trajectory_id,
    s.trajectory_id IS NOT NULL AS chosen, -- whether the action has a value
    CASE
        WHEN c.place < 4 THEN c.reason
        WHEN s.n_rollouts = 0 THEN 'the last action: the trajectory''s own value, ' || printf('%.6g', s.step_reward)
        WHEN s.n_rollouts > 0
            THEN 'mean of ' || s.n_rollouts || ' scorer rollouts after it: ' || printf('%.6g', s.step_reward)
        WHEN a.step IS NULL THEN 'no action of its own'
        WHEN a.step = c.n_actions - 1 THEN 'the last action, and the trajectory has no outcome'
        ELSE 'no scorer rollout with an outcome after it'
    END AS reason -- why, or the first thing that speaks against it
FROM candidates AS c
LEFT JOIN actions AS a ON c.trajectory_id = a.trajectory_id
LEFT JOIN step_rewards AS s ON a.trajectory_id = s.trajectory_id AND a.step = s.step
