-- why_eto_step: why `eto_step` pairs what it pairs, and nothing else.
-- One row per (expert, policy rollout from its s_step), and one with expert_id null per other trajectory.
-- Grain: expert_id, trajectory_id.
SELECT
    c.task_id,
    'step' AS kind, -- trajectory: whole trajectories; step: from a state on; null: in no pair
    c.expert_id, -- the expert trajectory beside it; null: none
    c.step, -- the state s_step from which the two are compared
    c.trajectory_id,
    p.chosen_id, -- the chosen side; null: no pair
    p.rejected_id, -- the rejected side; null: no pair
    p.chosen_id IS NOT NULL AS chosen, -- whether the method pairs them
    CASE
        WHEN c.why_not IS NOT NULL THEN c.why_not
        WHEN p.chosen_id = c.expert_id
            THEN 'the expert ends better: reward ' || printf('%.6g > %.6g', c.expert_value, c.rollout_value)
        WHEN p.chosen_id = c.trajectory_id
            THEN 'it ends better than the expert: reward ' || printf('%.6g > %.6g', c.rollout_value, c.expert_value)
        WHEN c.expert_value = c.rollout_value
            THEN 'the expert''s reward is the same: ' || printf('%.6g', c.rollout_value)
        ELSE 'its action from s_' || c.step || ' is the expert''s'
    END AS reason -- why, or the first thing that speaks against it
FROM expert_comparisons AS c
LEFT JOIN eto_step AS p
    ON
        c.step = p.from_step
        AND least(c.expert_id, c.trajectory_id) = least(p.chosen_id, p.rejected_id)
        AND greatest(c.expert_id, c.trajectory_id) = greatest(p.chosen_id, p.rejected_id)
