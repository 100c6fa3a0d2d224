-- score_policy: what the policy's own first action from an expert's state is worth, by the scorer's rollouts after it.
-- One row per rollout: the state after the first own action of every policy rollout of the current iteration that may
-- lose to an expert (it starts before the expert's last action and came to a lower value), times N (the parameter `n`).
-- An action that says what the expert's says, and a last action, need no rollout: their step reward is known.
-- The rollouts are branches of branches. A scorer's rollouts are made once, for all iterations (`done`).
-- Source: IPR, sections 3.2 and 3.3 (https://arxiv.org/abs/2406.11176).
WITH losing AS (
    SELECT DISTINCT
        b.trajectory_id,
        b.task_id,
        b.branch_step + 1 AS step
    FROM expert_rollouts AS r
    INNER JOIN current_iteration AS c ON r.iteration = c.iteration
    INNER JOIN outcomes AS b ON r.rollout_id = b.trajectory_id
    INNER JOIN outcomes AS e ON r.expert_id = e.trajectory_id
    LEFT JOIN repeated_actions AS same ON r.expert_id = same.expert_id AND r.rollout_id = same.rollout_id
    WHERE b.n_steps >= 2 AND r.step < e.n_actions AND r.value < e.value AND same.rollout_id IS NULL
)

SELECT
    l.task_id,
    l.trajectory_id AS parent_id,
    CAST(l.step AS INTEGER) AS branch_step,
    CAST(r.sample AS INTEGER) AS sample,
    'scorer' AS role
FROM losing AS l
CROSS JOIN (SELECT unnest(range(n)) AS sample FROM params) AS r
