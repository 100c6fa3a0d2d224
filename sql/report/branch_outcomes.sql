-- branch_outcomes: from where along the experts' trajectories the policy solves the task.
-- One row per (iteration, whether the expert solved it, tenth of the expert's trajectory) with simulated states.
-- `expert_solved` is null where the expert's trajectory has no outcome.
-- Grain: iteration, expert_solved, tenth.
-- Source: EEF, section 3.2 (https://arxiv.org/abs/2504.13145).
WITH states AS (
    SELECT
        b.iteration,
        e.solved AS expert_solved,
        CASE WHEN b.step = 0 THEN 0 ELSE CAST(ceil(10 * b.step / e.n_actions) AS INTEGER) END AS tenth,
        b.n_rollouts,
        b.n_solved,
        b.n_no_outcome
    FROM branch_points AS b
    INNER JOIN experts AS e ON b.expert_id = e.expert_id
)

SELECT
    iteration,
    expert_solved, -- whether the expert solved the task; null: no outcome
    tenth, -- 0: s_0; 1 ... 10: the states after up to 10%, 20%, ... of the expert's actions
    count(*) AS n_states, -- states there that were simulated, s_0 once per expert
    -- rollouts from them with an outcome; a rollout from s_0 counts once per expert
    CAST(sum(n_rollouts) AS BIGINT) AS n_rollouts,
    CAST(sum(n_solved) AS BIGINT) AS n_solved, -- those of them that are solved
    CAST(sum(n_no_outcome) AS BIGINT) AS n_no_outcome, -- rollouts without an outcome
    -- n_solved / n_rollouts; null: no rollout has an outcome
    CASE WHEN sum(n_rollouts) > 0 THEN sum(n_solved) / sum(n_rollouts) END AS solved_share
FROM states
GROUP BY iteration, expert_solved, tenth
