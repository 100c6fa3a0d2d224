-- skip_length: simulate M states along every expert trajectory, at equal intervals.
-- One row per rollout: with n the expert's actions and l = floor(n / (M + 1)), at least 1, the states
-- l, 2l, ..., M * l that lie below n, times `samples`. (The paper has no rule for n < M + 1; the least of 1 is ours.)
-- Grain: task_id, parent_id, branch_step, sample.
-- Role: policy.
-- Source: EEF, Algorithm 1, lines 7-9 (https://arxiv.org/abs/2504.13145).
WITH intervals AS (
    SELECT
        e.task_id,
        e.expert_id,
        e.n_actions,
        p.m,
        p.samples,
        greatest(1, e.n_actions // (p.m + 1)) AS skip_length
    FROM experts AS e
    CROSS JOIN params AS p
),

states AS (
    SELECT
        task_id,
        expert_id,
        n_actions,
        samples,
        skip_length,
        unnest(range(1, m + 1)) AS k
    FROM intervals
),

rollouts AS (
    SELECT
        task_id,
        expert_id,
        k * skip_length AS step,
        unnest(range(samples)) AS sample
    FROM states
    WHERE k * skip_length < n_actions
)

SELECT
    task_id,
    expert_id AS parent_id,
    CAST(step AS INTEGER) AS branch_step,
    CAST(sample AS INTEGER) AS sample,
    'policy' AS role
FROM rollouts
