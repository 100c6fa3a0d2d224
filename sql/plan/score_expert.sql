-- score_expert: what each of the experts' actions is worth, by the scorer's rollouts after it.
-- One row per rollout: the states after an expert's own actions, up to s_(n - 1), times N (the parameter `n`). The last
-- action has the trajectory's own outcome, and what an expert has of its parent is scored as the parent's.
-- Grain: task_id, parent_id, branch_step, sample.
-- Role: scorer.
-- Source: IPR, section 3.2, eq. 4 (https://arxiv.org/abs/2406.11176).
WITH states AS (
    SELECT
        e.task_id,
        e.expert_id,
        unnest(range(o.branch_step + 1, o.n_actions)) AS step
    FROM experts AS e
    INNER JOIN outcomes AS o ON e.expert_id = o.trajectory_id
)

SELECT
    s.task_id,
    s.expert_id AS parent_id,
    CAST(s.step AS INTEGER) AS branch_step,
    CAST(r.sample AS INTEGER) AS sample,
    'scorer' AS role
FROM states AS s
CROSS JOIN (SELECT unnest(range(n)) AS sample FROM params) AS r
