-- why_self_play: why `self_play` pairs what it pairs, and nothing else.
-- One row per two policy rollouts from s_0 of one train task and the current iteration (trajectory_id is the one with
-- the lower reward, of equal ones the one with the larger id), and one per other trajectory.
-- Grain: kind, trajectory_id, chosen_id, rejected_id.
WITH rollouts AS (
    SELECT
        c.*,
        a.actions_digest,
        count(*) OVER (PARTITION BY c.task_id) AS n_rollouts
    FROM candidates AS c
    INNER JOIN current_iteration AS i ON c.iteration = i.iteration
    INNER JOIN action_sequences AS a ON c.trajectory_id = a.trajectory_id
    WHERE c.place > 5 AND c.role = 'policy' AND c.branch_step = 0
)

SELECT
    task_id,
    'trajectory' AS kind, -- trajectory: whole trajectories; step: from a state on; null: in no pair
    CAST(NULL AS VARCHAR) AS expert_id, -- the expert trajectory beside it; null: none
    0 AS step, -- the state s_step from which the two are compared
    rejected_id AS trajectory_id,
    chosen_id, -- the chosen side; null: no pair
    rejected_id, -- the rejected side; null: no pair
    TRUE AS chosen, -- whether the method pairs them
    -- why, or the first thing that speaks against it
    'the other one ends better: reward ' || printf('%.6g > %.6g', chosen_reward, rejected_reward) AS reason
FROM self_play
UNION ALL
SELECT
    one.task_id,
    'trajectory' AS kind,
    CAST(NULL AS VARCHAR) AS expert_id,
    0 AS step,
    one.trajectory_id,
    CAST(NULL AS VARCHAR) AS chosen_id,
    CAST(NULL AS VARCHAR) AS rejected_id,
    FALSE AS chosen,
    CASE
        WHEN one.value = other.value
            THEN 'the same reward as ' || other.trajectory_id || ': ' || printf('%.6g', one.value)
        ELSE
            'the same actions as ' || other.trajectory_id || ', only the reward is another: '
            || printf('%.6g < %.6g', one.value, other.value)
    END AS reason
FROM rollouts AS one
INNER JOIN rollouts AS other ON one.task_id = other.task_id
WHERE
    (one.value = other.value AND one.trajectory_id > other.trajectory_id)
    OR (one.value < other.value AND one.actions_digest = other.actions_digest)
UNION ALL
SELECT
    c.task_id,
    'trajectory' AS kind,
    CAST(NULL AS VARCHAR) AS expert_id,
    0 AS step,
    c.trajectory_id,
    CAST(NULL AS VARCHAR) AS chosen_id,
    CAST(NULL AS VARCHAR) AS rejected_id,
    FALSE AS chosen,
    CASE
        WHEN c.place < 6 THEN c.reason
        WHEN c.role = 'expert' THEN 'an expert''s; only the policy''s are compared'
        WHEN c.branch_step > 0 THEN 'does not start from s_0'
        WHEN c.iteration != i.iteration
            THEN 'of iteration ' || c.iteration || ', not of the current one, ' || i.iteration
        ELSE 'the only rollout from s_0 of this iteration'
    END AS reason
FROM candidates AS c
CROSS JOIN current_iteration AS i
LEFT JOIN rollouts AS r ON c.trajectory_id = r.trajectory_id
WHERE r.trajectory_id IS NULL OR r.n_rollouts = 1
