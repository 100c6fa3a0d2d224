-- apt: explore where it is undecided whether the policy succeeds, along the experts and its own failed branches.
-- One row per expert that has rollouts of its `budget` left: one rollout of the next round.
-- An expert's tree is the policy's rollouts from the expert's states and those from the own part of a rollout of the
-- tree, to any depth. The budget counts those of the current iteration that did not end in error.
-- Its arms are the expert's simulated states (s_0, those of `skip_length`, and wherever else the policy started), and
-- the state halfway along the own part of each failed rollout of the tree that has at least two own actions.
-- Chosen is the arm with the smallest sqrt(T) * |mean - solved_rate|, T its rollouts with an outcome and mean their
-- solved share: the threshold is what decides `solved` in branch_points. (The algorithm's epsilon is 0.)
-- First come arms without any rollout, last those whose rollouts all have no outcome. Ties: the fewest rollouts, the
-- expert's own states, the fewest actions up to the state, the smallest id.
-- What experts share (s_0 of their task) counts for each. `explore` goes on, round after round, up to the budget.
-- Grain: task_id, parent_id, branch_step, sample.
-- Rounds: until it asks for nothing.
-- Role: policy.
-- Source: APT, algorithm 1 of Locatelli, Gutzeit and Carpentier, "An optimal algorithm for the Thresholding Bandit
-- Problem", ICML 2016 (https://arxiv.org/abs/1605.08671). The tree is named as future work by EEF
-- (https://arxiv.org/abs/2504.13145); which states are its arms is ours.
WITH RECURSIVE rollouts AS (
    SELECT
        o.trajectory_id AS rollout_id,
        o.branch_step,
        o.n_steps,
        o.sample,
        o.solved,
        s.owner_id -- of the action that led to the state it starts from; null at s_0
    FROM outcomes AS o
    INNER JOIN current_iteration AS c ON o.iteration = c.iteration
    LEFT JOIN path_segments AS s
        ON
            o.trajectory_id = s.trajectory_id AND s.owner_id != s.trajectory_id
            AND o.branch_step > s.first_step AND o.branch_step <= s.end_step
    WHERE o.role = 'policy' AND o.split = 'train' AND coalesce(o.ended, '') != 'error'
),

on_line AS (
    SELECT
        e.expert_id,
        r.*
    FROM expert_rollouts AS e
    INNER JOIN rollouts AS r ON e.rollout_id = r.rollout_id
),

grown AS (
    SELECT
        expert_id,
        rollout_id,
        [rollout_id] AS passed -- parents that form a cycle (`validate` finds them) must not loop for ever
    FROM on_line
    UNION ALL
    SELECT
        t.expert_id,
        r.rollout_id,
        list_append(t.passed, r.rollout_id) AS passed
    FROM grown AS t
    INNER JOIN rollouts AS r ON t.rollout_id = r.owner_id
    WHERE NOT list_contains(t.passed, r.rollout_id)
),

tree AS (
    SELECT DISTINCT
        expert_id,
        rollout_id
    FROM grown
),

-- on_id: whose state it is, the expert or the failed rollout
arms AS (
    SELECT
        expert_id,
        expert_id AS on_id,
        0 AS step
    FROM experts
    UNION
    SELECT
        parent_id AS expert_id,
        parent_id AS on_id,
        branch_step AS step
    FROM skip_length
    UNION
    SELECT
        expert_id,
        expert_id AS on_id,
        branch_step AS step
    FROM on_line
    UNION
    SELECT
        t.expert_id,
        r.rollout_id AS on_id,
        r.branch_step + r.n_steps // 2 AS step
    FROM tree AS t
    INNER JOIN rollouts AS r ON t.rollout_id = r.rollout_id
    WHERE NOT r.solved AND r.n_steps >= 2
),

pulls AS (
    SELECT
        expert_id,
        expert_id AS on_id,
        branch_step AS step,
        sample,
        solved
    FROM on_line
    UNION ALL
    SELECT
        t.expert_id,
        r.owner_id AS on_id,
        r.branch_step AS step,
        r.sample,
        r.solved
    FROM tree AS t
    INNER JOIN rollouts AS r ON t.rollout_id = r.owner_id
),

pulled AS (
    SELECT
        a.expert_id,
        a.on_id,
        a.step,
        count(p.sample) AS n_rollouts,
        count(p.solved) AS n_outcomes,
        count(CASE WHEN p.solved THEN 1 END) AS n_solved,
        coalesce(max(p.sample) + 1, 0) AS sample
    FROM arms AS a
    LEFT JOIN pulls AS p ON a.expert_id = p.expert_id AND a.on_id = p.on_id AND a.step = p.step
    GROUP BY a.expert_id, a.on_id, a.step
),

spent AS (
    SELECT
        expert_id,
        count(*) AS n_rollouts
    FROM tree
    GROUP BY expert_id
),

ranked AS (
    SELECT
        e.task_id,
        a.expert_id,
        a.on_id,
        a.step,
        a.sample,
        row_number() OVER (
            PARTITION BY a.expert_id
            ORDER BY
                CASE WHEN a.n_rollouts = 0 THEN 0 WHEN a.n_outcomes > 0 THEN 1 ELSE 2 END,
                CASE WHEN a.n_outcomes > 0 THEN sqrt(a.n_outcomes) * abs(a.n_solved / a.n_outcomes - p.solved_rate) END,
                a.n_rollouts,
                a.on_id != a.expert_id,
                a.step,
                a.on_id
        ) AS arm_rank
    FROM pulled AS a
    INNER JOIN experts AS e ON a.expert_id = e.expert_id
    LEFT JOIN spent AS s ON a.expert_id = s.expert_id
    CROSS JOIN params AS p
    WHERE
        e.n_actions > 0 AND (a.on_id != a.expert_id OR a.step < e.n_actions)
        AND coalesce(s.n_rollouts, 0) < p.budget
)

SELECT DISTINCT -- s_0 of a task may be asked for by several experts
    task_id,
    CASE WHEN step > 0 THEN on_id END AS parent_id,
    CAST(step AS INTEGER) AS branch_step,
    CAST(sample AS INTEGER) AS sample,
    'policy' AS role
FROM ranked
WHERE arm_rank = 1
