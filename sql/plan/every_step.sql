-- every_step: simulate every state along every expert trajectory.
-- One row per rollout: the states 1 ... n - 1 of an expert trajectory with n actions, times `samples`
-- (`initial` plans s_0).
-- Grain: task_id, parent_id, branch_step, sample.
-- Role: policy.
-- Source: the exploration of IPR, section 3.2 (https://arxiv.org/abs/2406.11176).
WITH states AS (
    SELECT
        task_id,
        expert_id,
        unnest(range(1, n_actions)) AS step
    FROM experts
)

SELECT
    s.task_id,
    s.expert_id AS parent_id,
    CAST(s.step AS INTEGER) AS branch_step,
    CAST(r.sample AS INTEGER) AS sample,
    'policy' AS role
FROM states AS s
CROSS JOIN (SELECT unnest(range(samples)) AS sample FROM params) AS r
