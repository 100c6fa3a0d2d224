-- branch_points: the expert states from which the policy was simulated, and how that went.
-- One row per (expert, step, iteration). Step 0 stands for the rollouts from s_0 of the expert's task.
--   n_rollouts    rollouts with an outcome, n_solved of them solved
--   n_no_outcome  rollouts without one (error, drift, neither success nor reward): they count for nothing
--   solved        n_solved / n_rollouts >= solved_rate; null when no rollout has an outcome
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
    c.expert_id,
    c.task_id,
    c.step,
    c.iteration,
    c.n_rollouts,
    c.n_solved,
    c.n_no_outcome,
    CASE WHEN c.n_rollouts > 0 THEN c.n_solved / c.n_rollouts >= p.solved_rate END AS solved
FROM counted AS c
CROSS JOIN params AS p
