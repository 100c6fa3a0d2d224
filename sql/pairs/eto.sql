-- eto: Exploration-based Trajectory Optimization, whole trajectories.
-- One row per pair: of every train task the best expert trajectory against each policy rollout from s_0 of the current
-- iteration with an action. The one with the higher value is chosen, be it the expert's or the policy's; equal values,
-- and equal actions all along (`action_sequences`), give no pair. Ties among experts as in `best_expert`.
-- Source: ETO, section 3.2, eq. 7 and 11 (https://arxiv.org/abs/2403.02502).
WITH compared AS (
    SELECT
        e.task_id,
        e.expert_id,
        e.value AS expert_value,
        o.trajectory_id AS rollout_id,
        o.value AS rollout_value,
        e.value > o.value AS expert_won
    FROM best_expert AS e
    INNER JOIN outcomes AS o ON e.task_id = o.task_id
    INNER JOIN current_iteration AS c ON o.iteration = c.iteration
    INNER JOIN action_sequences AS a ON e.expert_id = a.trajectory_id
    INNER JOIN action_sequences AS b ON o.trajectory_id = b.trajectory_id
    WHERE
        o.role = 'policy' AND o.split = 'train' AND o.branch_step = 0 AND o.n_actions > 0 AND o.value != e.value
        AND a.actions_digest != b.actions_digest
)

SELECT
    'trajectory' AS level,
    task_id,
    0 AS from_step,
    CAST(NULL AS INTEGER) AS end_step,
    CASE WHEN expert_won THEN expert_id ELSE rollout_id END AS chosen_id,
    CASE WHEN expert_won THEN rollout_id ELSE expert_id END AS rejected_id,
    greatest(expert_value, rollout_value) AS chosen_reward,
    least(expert_value, rollout_value) AS rejected_reward
FROM compared
