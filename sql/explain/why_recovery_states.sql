-- why_recovery_states: which state of every expert needs recovery, and why the others do not.
-- One row per (expert, state s_0 ... s_(n-1); s_n too where it was simulated), for the current iteration.
-- Grain: expert_id, step.
WITH simulated AS (
    SELECT b.*
    FROM branch_points AS b
    INNER JOIN current_iteration AS c ON b.iteration = c.iteration
),

states AS (
    SELECT
        expert_id,
        task_id,
        unnest(range(n_actions)) AS step
    FROM experts
    UNION
    SELECT
        expert_id,
        task_id,
        step
    FROM simulated
)

SELECT
    s.task_id,
    s.expert_id, -- the expert trajectory
    CAST(s.step AS INTEGER) AS step, -- the state s_step
    b.n_rollouts, -- as in `branch_points`; null: not simulated
    b.n_solved, -- as in `branch_points`; null: not simulated
    b.n_no_outcome, -- as in `branch_points`; null: not simulated
    b.solved, -- as in `branch_points`; null: not simulated
    coalesce(f.step = s.step, FALSE) AS is_recovery, -- whether it is the expert's first recovery state
    -- of the experts that share that state the smallest id; null: it is none
    CASE WHEN f.step = s.step THEN f.first_expert_id END AS first_expert_id,
    CASE
        WHEN c.iteration IS NULL THEN 'nothing is simulated yet'
        WHEN b.step IS NULL THEN 'not simulated in iteration ' || c.iteration
        WHEN b.solved IS NULL THEN 'simulated without an outcome: ' || b.n_no_outcome || ' error, drift or no reward'
        WHEN b.solved THEN 'solved from here: ' || b.n_solved || ' of ' || b.n_rollouts
        ELSE
            'fails from here (' || b.n_solved || ' of ' || b.n_rollouts || ' solved)'
            || CASE
                WHEN f.step = s.step
                    THEN
                        ', but is solved from s_' || p.previous_step || ' before it: recovery state'
                        || CASE
                            WHEN f.first_expert_id != s.expert_id
                                THEN ', one and the same as that of expert ' || f.first_expert_id
                            ELSE ''
                        END
                WHEN p.previous_step IS NULL THEN '; no state before it was simulated'
                WHEN NOT p.previous_solved THEN ', as from s_' || p.previous_step || ' before it'
                ELSE
                    ', but is solved from s_' || p.previous_step || ' before it; the first is s_' || f.step
            END
    END AS reason -- why it is the recovery state, or why not
FROM states AS s
CROSS JOIN current_iteration AS c
LEFT JOIN simulated AS b ON s.expert_id = b.expert_id AND s.step = b.step
LEFT JOIN simulated_states AS p ON s.expert_id = p.expert_id AND s.step = p.step
LEFT JOIN expert_recovery_states AS f ON s.expert_id = f.expert_id
