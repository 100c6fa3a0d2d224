-- why_eto: why `eto` pairs what it pairs, and nothing else.
-- One row per trajectory, beside the expert trajectory that its task's pairs are made with (expert_id; null: none).
-- Grain: trajectory_id.
WITH pairs AS (
    SELECT
        CASE WHEN p.chosen_id = b.expert_id THEN p.rejected_id ELSE p.chosen_id END AS trajectory_id,
        p.chosen_id,
        p.rejected_id
    FROM eto AS p
    INNER JOIN best_expert AS b ON p.task_id = b.task_id
)

SELECT
    c.task_id,
    'trajectory' AS kind, -- trajectory: whole trajectories; step: from a state on; null: in no pair
    b.expert_id, -- the expert trajectory beside it; null: none
    0 AS step, -- the state s_step from which the two are compared
    c.trajectory_id,
    p.chosen_id, -- the chosen side; null: no pair
    p.rejected_id, -- the rejected side; null: no pair
    p.trajectory_id IS NOT NULL AS chosen, -- whether the method pairs them
    CASE
        WHEN p.chosen_id = b.expert_id
            THEN 'the expert ends better: reward ' || printf('%.6g > %.6g', b.value, c.value)
        WHEN p.chosen_id = c.trajectory_id
            THEN 'it ends better than the expert: reward ' || printf('%.6g > %.6g', c.value, b.value)
        WHEN c.place < 6 THEN c.reason
        WHEN c.trajectory_id = b.expert_id
            THEN 'the best expert trajectory of the task: the policy''s are compared with it'
        WHEN c.role = 'expert' AND c.value < b.value
            THEN 'another expert trajectory has a higher reward: ' || printf('%.6g < %.6g', c.value, b.value)
        WHEN c.role = 'expert' AND c.n_actions > b.n_actions
            THEN
                'another expert trajectory has as high a reward and fewer actions: ' || c.n_actions || ' > '
                || b.n_actions
        WHEN c.role = 'expert' THEN 'another expert trajectory is as good, and of a later iteration or a smaller id'
        WHEN c.branch_step > 0 THEN 'does not start from s_0'
        WHEN c.iteration != i.iteration
            THEN 'of iteration ' || c.iteration || ', not of the current one, ' || i.iteration
        WHEN b.expert_id IS NULL THEN 'no expert trajectory of the task has an outcome and an action'
        WHEN c.value != b.value
            THEN 'its actions are the expert''s, only the reward is another: ' || printf('%.6g', c.value)
        ELSE 'the expert''s reward is the same: ' || printf('%.6g', c.value)
    END AS reason -- why, or the first thing that speaks against it
FROM candidates AS c
CROSS JOIN current_iteration AS i
LEFT JOIN best_expert AS b ON c.task_id = b.task_id
LEFT JOIN pairs AS p ON c.trajectory_id = p.trajectory_id
