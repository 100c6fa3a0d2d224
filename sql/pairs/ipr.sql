-- ipr: Iterative step-level Process Refinement.
-- One row per pair. Level step: at every state of every expert trajectory, what the expert did from there to its end
-- against what each policy rollout of the current iteration did from there, where the rollout's first action has a step
-- reward lower than the expert's by more than tau, and its value is lower in the end. The expert's side is chosen.
-- Level trajectory: the pairs of `eto`.
-- Source: IPR, section 3.3 (https://arxiv.org/abs/2406.11176).
WITH compared AS (
    SELECT
        r.task_id,
        r.step,
        r.expert_id,
        e.value AS expert_value,
        r.rollout_id,
        r.value AS rollout_value
    FROM expert_rollouts AS r
    INNER JOIN current_iteration AS c ON r.iteration = c.iteration
    INNER JOIN outcomes AS e ON r.expert_id = e.trajectory_id
    WHERE r.value < e.value AND r.step < e.n_actions
)

SELECT
    'step' AS level,
    c.task_id,
    c.step AS from_step,
    CAST(NULL AS INTEGER) AS end_step,
    c.expert_id AS chosen_id,
    c.rollout_id AS rejected_id,
    c.expert_value AS chosen_reward,
    c.rollout_value AS rejected_reward
FROM compared AS c
INNER JOIN path_segments AS s ON c.expert_id = s.trajectory_id -- who took the expert's action: it, or an ancestor
INNER JOIN step_rewards AS e ON s.owner_id = e.trajectory_id AND c.step = e.step
INNER JOIN step_rewards AS r ON c.rollout_id = r.trajectory_id AND c.step = r.step
CROSS JOIN params AS p
WHERE s.first_step <= c.step AND c.step < s.end_step AND e.step_reward - r.step_reward > p.tau
UNION ALL
SELECT * FROM eto
