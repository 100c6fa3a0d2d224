-- branch_points: the expert states from which the policy was simulated, and how that went.
-- One row per (expert, step, iteration). Step 0 stands for the rollouts from s_0 of the expert's task.
-- Grain: expert_id, step, iteration.
-- Source: EEF, Algorithm 1, lines 6-8 (https://arxiv.org/abs/2504.13145).
WITH counted AS (
    SELECT
        expert_id,
        task_id,
        step,
        iteration,
        count(solved) AS n_rollouts,
        count(CASE WHEN solved THEN 1 END) AS n_solved,
        count(*) - count(solved) AS n_no_outcome
    FROM expert_rollouts
    GROUP BY expert_id, task_id, step, iteration
)

SELECT
    c.expert_id, -- the expert trajectory whose state it is
    c.task_id,
    c.step, -- the state s_step; 0: s_0
    c.iteration,
    c.n_rollouts, -- rollouts with an outcome
    c.n_solved, -- those of them that are solved
    c.n_no_outcome, -- rollouts without an outcome (error, drift, neither success nor reward): they count for nothing
    -- n_solved / n_rollouts >= solved_rate; null: no rollout has an outcome
    CASE WHEN c.n_rollouts > 0 THEN c.n_solved / c.n_rollouts >= p.solved_rate END AS solved
FROM counted AS c
CROSS JOIN params AS p
