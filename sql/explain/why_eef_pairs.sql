-- why_eef_pairs: why `eef_pairs` pairs what it pairs, and nothing else.
-- One row per (stretch of an expert's good actions, trajectory of its task): expert_id and step are the state before
-- the stretch; null where the task has no such stretch.
-- Grain: expert_id, step, trajectory_id, chosen_id.
WITH compared AS (
    -- lost_at: in what a solution loses to the preferred one; 0: it is that one
    SELECT
        s.*,
        b.n_expert_actions AS fewest_expert_actions,
        b.n_actions AS fewest_actions,
        CASE
            WHEN s.trajectory_id = b.trajectory_id THEN 0
            WHEN s.n_expert_actions > b.n_expert_actions THEN 1
            WHEN s.n_actions > b.n_actions THEN 2
            WHEN s.iteration < b.iteration THEN 3
            ELSE 4
        END AS lost_at
    FROM solutions_through AS s
    INNER JOIN best_solution_through AS b ON s.expert_id = b.expert_id AND s.previous_step = b.previous_step
)

SELECT
    c.task_id,
    'step' AS kind, -- trajectory: whole trajectories; step: from a state on; null: in no pair
    g.expert_id, -- the expert trajectory beside it; null: none
    g.previous_step AS step, -- the state s_step from which the two are compared
    c.trajectory_id,
    p.chosen_id, -- the chosen side; null: no pair
    p.rejected_id, -- the rejected side; null: no pair
    p.chosen_id IS NOT NULL AS chosen, -- whether the method pairs them
    CASE
        WHEN c.place < 5 THEN c.reason
        WHEN g.expert_id IS NULL THEN 'no expert of the task has a state that fails right before one that is solved'
        WHEN p.chosen_id IS NOT NULL
            THEN
                'fails from s_' || g.previous_step || ', without the expert''s actions up to s_' || g.step
                || ', with which ' || p.chosen_id || ' solves it'
        WHEN s.lost_at = 0
            THEN 'the preferred solution with the expert''s actions from s_' || g.previous_step || ' to s_' || g.step
        WHEN s.lost_at = 1
            THEN
                'more expert actions than the preferred solution: '
                || s.n_expert_actions || ' > ' || s.fewest_expert_actions
        WHEN s.lost_at = 2
            THEN 'more actions than the preferred solution: ' || s.n_actions || ' > ' || s.fewest_actions
        WHEN s.lost_at = 3 THEN 'as good as the preferred solution, but of an older iteration'
        WHEN s.lost_at = 4 THEN 'equal to the preferred solution, but for a larger trajectory_id'
        WHEN c.solved THEN 'solved, but without the expert''s actions up to s_' || g.step
        WHEN r.rollout_id IS NULL THEN 'not solved, and no rollout from s_' || g.previous_step || ' of this expert'
        WHEN r.iteration != i.iteration
            THEN 'not solved, and of iteration ' || r.iteration || ', not of the current one, ' || i.iteration
        WHEN c.n_steps = 0 THEN 'took no action from s_' || g.previous_step
        ELSE 'fails from s_' || g.previous_step || ', but nothing through s_' || g.step || ' is solved'
    END AS reason -- why, or the first thing that speaks against it
FROM candidates AS c
CROSS JOIN current_iteration AS i
LEFT JOIN good_actions AS g ON c.task_id = g.task_id
LEFT JOIN best_solution_through AS b ON g.expert_id = b.expert_id AND g.previous_step = b.previous_step
LEFT JOIN compared AS s
    ON g.expert_id = s.expert_id AND g.previous_step = s.previous_step AND c.trajectory_id = s.trajectory_id
LEFT JOIN expert_rollouts AS r
    ON g.expert_id = r.expert_id AND g.previous_step = r.step AND c.trajectory_id = r.rollout_id
LEFT JOIN eef_pairs AS p
    ON b.trajectory_id = p.chosen_id AND c.trajectory_id = p.rejected_id AND g.previous_step = p.from_step
