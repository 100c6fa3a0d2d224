-- why_ipr: why `ipr` pairs what it pairs, and nothing else.
-- One row per (expert, policy rollout from its s_step), and one with expert_id null per other trajectory (kind step);
-- and one per row of `why_eto` (kind trajectory).
-- Grain: kind, expert_id, trajectory_id.
WITH compared AS (
    SELECT
        c.*,
        e.step_reward AS expert_step_reward,
        r.step_reward AS rollout_step_reward
    FROM expert_comparisons AS c
    LEFT JOIN path_segments AS s
        ON c.expert_id = s.trajectory_id AND c.step >= s.first_step AND c.step < s.end_step
    LEFT JOIN step_rewards AS e ON s.owner_id = e.trajectory_id AND c.step = e.step
    LEFT JOIN step_rewards AS r ON c.trajectory_id = r.trajectory_id AND c.step = r.step
)

SELECT
    c.task_id,
    'step' AS kind, -- trajectory: whole trajectories; step: from a state on; null: in no pair
    c.expert_id, -- the expert trajectory beside it; null: none
    c.step, -- the state s_step from which the two are compared
    c.trajectory_id,
    i.chosen_id, -- the chosen side; null: no pair
    i.rejected_id, -- the rejected side; null: no pair
    i.chosen_id IS NOT NULL AS chosen, -- whether the method pairs them
    CASE
        WHEN c.why_not IS NOT NULL THEN c.why_not
        WHEN i.chosen_id IS NOT NULL
            THEN
                'its action from s_' || c.step || ' is worth less than the expert''s: step reward '
                || printf(
                    '%.6g < %.6g, reward %.6g < %.6g',
                    c.rollout_step_reward, c.expert_step_reward, c.rollout_value, c.expert_value
                )
        WHEN a.rollout_id IS NOT NULL THEN 'its action from s_' || c.step || ' is the expert''s'
        WHEN c.rollout_value >= c.expert_value
            THEN
                'does not end worse than the expert: reward '
                || printf('%.6g >= %.6g', c.rollout_value, c.expert_value)
        WHEN c.expert_step_reward IS NULL THEN 'the expert''s action from s_' || c.step || ' has no step reward'
        WHEN c.rollout_step_reward IS NULL THEN 'its action from s_' || c.step || ' has no step reward'
        ELSE
            'its step reward is not lower by more than tau = '
            || printf('%.6g: %.6g, the expert''s %.6g', p.tau, c.rollout_step_reward, c.expert_step_reward)
    END AS reason -- why, or the first thing that speaks against it
FROM compared AS c
CROSS JOIN params AS p
LEFT JOIN ipr AS i
    ON
        i.level = 'step' AND c.step = i.from_step AND c.expert_id = i.chosen_id AND c.trajectory_id = i.rejected_id
LEFT JOIN repeated_actions AS a ON c.expert_id = a.expert_id AND c.trajectory_id = a.rollout_id
UNION ALL
SELECT * FROM why_eto
