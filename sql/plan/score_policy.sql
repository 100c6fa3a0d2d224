-- score_policy: what the policy's own first action from an expert's state is worth, by the scorer's rollouts after it.
-- One row per rollout: the state after the first own action of every policy rollout of the current iteration that may
-- lose to an expert (it starts before the expert's last action and came to a lower value), times N (the parameter `n`).
-- An action that says what the expert's says, and a last action, need no rollout: their step reward is known.
-- The rollouts are branches of branches. A scorer's rollouts are made once, for all iterations (`done`).
-- Grain: task_id, parent_id, branch_step, sample.
-- Role: scorer.
-- Source: IPR, sections 3.2 and 3.3 (https://arxiv.org/abs/2406.11176).
WITH losing AS (
    SELECT DISTINCT
        c.rollout_id,
        c.task_id,
        c.step + 1 AS step
    FROM compared_rollouts AS c
    INNER JOIN outcomes AS o ON c.rollout_id = o.trajectory_id
    ANTI JOIN repeated_actions AS a ON c.expert_id = a.expert_id AND c.rollout_id = a.rollout_id
    WHERE c.rollout_value < c.expert_value AND o.n_steps > 1
)

SELECT
    l.task_id,
    l.rollout_id AS parent_id,
    CAST(l.step AS INTEGER) AS branch_step,
    CAST(r.sample AS INTEGER) AS sample,
    'scorer' AS role
FROM losing AS l
CROSS JOIN (SELECT unnest(range(n)) AS sample FROM params) AS r
