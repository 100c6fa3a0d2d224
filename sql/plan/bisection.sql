-- bisection: find each expert's first recovery state by halving, instead of at equal intervals.
-- One row per rollout of the next round: at most one state per expert, times `samples`. The simulated states of the
-- current iteration (`initial` plans s_0, which comes first) tell which; a failed expert's end counts as not solved.
-- Where a solved state is followed by one that is not, it is the state halfway between the first two such. They become
-- neighbours after about log2(n) rounds, and the later one is then the first recovery state, to the very step.
-- Where there are no such two yet, it is halfway in the widest gap (the earliest of equals), for at most M states.
-- `explore` goes on, round after round, until there is nothing left to run.
-- Grain: task_id, parent_id, branch_step, sample.
-- Rounds: until it asks for nothing.
-- Role: policy.
-- Source: named as future work by EEF (https://arxiv.org/abs/2504.13145); the rule is ours.
WITH known AS (
    SELECT
        b.expert_id,
        b.step,
        b.solved
    FROM branch_points AS b
    INNER JOIN experts AS e ON b.expert_id = e.expert_id
    INNER JOIN current_iteration AS c ON b.iteration = c.iteration
    CROSS JOIN params AS p
    WHERE b.solved IS NOT NULL AND b.step < e.n_actions AND b.n_rollouts + b.n_no_outcome >= p.samples
),

begun AS (
    SELECT
        e.task_id,
        e.expert_id,
        e.n_actions,
        e.solved,
        count(k.step) AS n_known
    FROM experts AS e
    INNER JOIN known AS k ON e.expert_id = k.expert_id
    GROUP BY e.task_id, e.expert_id, e.n_actions, e.solved
    HAVING min(k.step) = 0
),

line AS (
    SELECT
        expert_id,
        step,
        solved
    FROM known
    UNION ALL
    SELECT
        expert_id,
        n_actions AS step,
        CASE WHEN NOT solved THEN FALSE END AS solved
    FROM begun
),

gaps AS (
    SELECT
        expert_id,
        step AS next_step,
        lag(step) OVER (PARTITION BY expert_id ORDER BY step) AS step,
        lag(solved) OVER (PARTITION BY expert_id ORDER BY step) AND NOT solved AS has_turn
    FROM line
),

chosen AS (
    SELECT
        b.task_id,
        b.expert_id,
        g.step,
        g.next_step,
        coalesce(g.has_turn, FALSE) AS has_turn,
        b.n_known,
        row_number() OVER (
            PARTITION BY b.expert_id
            ORDER BY
                coalesce(g.has_turn, FALSE) DESC,
                CASE WHEN g.has_turn THEN 0 ELSE g.next_step - g.step END DESC,
                g.step
        ) AS gap_rank
    FROM begun AS b
    INNER JOIN gaps AS g ON b.expert_id = g.expert_id
    WHERE g.step IS NOT NULL
)

SELECT
    h.task_id,
    h.expert_id AS parent_id,
    CAST((h.step + h.next_step) // 2 AS INTEGER) AS branch_step,
    CAST(r.sample AS INTEGER) AS sample,
    'policy' AS role
FROM chosen AS h
CROSS JOIN params AS p
CROSS JOIN (SELECT unnest(range(samples)) AS sample FROM params) AS r
WHERE h.gap_rank = 1 AND h.next_step - h.step > 1 AND (h.has_turn OR h.n_known <= p.m)
