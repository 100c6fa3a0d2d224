-- expert_comparisons: which policy rollouts can be compared with what an expert did from the same state.
-- One row per (expert, policy rollout of any iteration that starts from one of its states), and one with expert_id null
-- per other trajectory.
-- Grain: expert_id, trajectory_id.
SELECT
    c.task_id,
    r.expert_id, -- the expert trajectory; null: the trajectory starts from no state of an expert
    c.branch_step AS step, -- the trajectory starts from s_step
    c.trajectory_id,
    e.value AS expert_value, -- the expert trajectory's value
    c.value AS rollout_value, -- the trajectory's value
    CASE
        WHEN c.place < 5 THEN c.reason
        WHEN c.role = 'expert' THEN 'an expert''s: the policy''s rollouts from its states are compared with it'
        WHEN r.expert_id IS NULL THEN 'starts from no state of an expert trajectory that is compared'
        WHEN r.iteration != i.iteration
            THEN 'of iteration ' || r.iteration || ', not of the current one, ' || i.iteration
        WHEN e.place < 5 THEN 'the expert''s trajectory has no outcome'
        WHEN c.branch_step >= e.n_actions THEN 'the expert took no action from s_' || c.branch_step
        WHEN c.n_steps = 0 THEN 'took no action from s_' || c.branch_step
    END AS why_not -- why the two are not compared; null: they are in `compared_rollouts`
FROM candidates AS c
CROSS JOIN current_iteration AS i
LEFT JOIN expert_rollouts AS r ON c.trajectory_id = r.rollout_id
LEFT JOIN candidates AS e ON r.expert_id = e.trajectory_id
