-- eef_pairs: the expert's beneficial actions as the chosen side.
-- One row per pair: where an expert's simulated state is not solved and the next one is, the actions between the two
-- were good. The solution through them is chosen, each failed policy rollout of the current iteration from the former
-- state rejected; both from that state on. Of the solved expert and policy trajectories of any iteration that hold the
-- expert's actions up to the latter state, the solution is the one with the fewest expert actions from the former state
-- on, then the fewest actions from it on, then the latest iteration, then the smallest trajectory_id.
-- Source: named as future work by EEF (https://arxiv.org/abs/2504.13145); the rule is ours.
WITH good_actions AS (
    -- previous_step ... step - 1, and who owns the last of them
    SELECT
        g.expert_id,
        g.task_id,
        g.previous_step,
        g.step,
        s.owner_id
    FROM simulated_states AS g
    INNER JOIN path_segments AS s ON g.expert_id = s.trajectory_id
    WHERE NOT g.previous_solved AND g.solved AND s.first_step < g.step AND g.step <= s.end_step
),

-- expert actions before the former state are the same in every trajectory that runs through it: all can be counted
solutions_through AS (
    SELECT
        g.expert_id,
        g.task_id,
        g.previous_step,
        min({
            'n_expert_actions': coalesce(a.n_expert_actions, 0),
            'n_actions': o.n_actions,
            'minus_iteration': -o.iteration,
            'trajectory_id': o.trajectory_id
        }) AS solution
    FROM good_actions AS g
    INNER JOIN path_segments AS s ON g.owner_id = s.owner_id
    INNER JOIN outcomes AS o ON s.trajectory_id = o.trajectory_id
    LEFT JOIN expert_actions AS a ON o.trajectory_id = a.trajectory_id
    WHERE
        s.first_step < g.step AND g.step <= s.end_step
        AND o.solved AND o.split = 'train' AND o.role IN ('expert', 'policy')
    GROUP BY g.expert_id, g.task_id, g.previous_step
)

-- distinct, since experts may share both states
SELECT DISTINCT
    'step' AS level,
    t.task_id,
    t.previous_step AS from_step,
    CAST(NULL AS INTEGER) AS end_step,
    t.solution.trajectory_id AS chosen_id,
    r.rollout_id AS rejected_id,
    o.value AS chosen_reward,
    r.value AS rejected_reward
FROM solutions_through AS t
INNER JOIN expert_rollouts AS r ON t.expert_id = r.expert_id AND t.previous_step = r.step
INNER JOIN current_iteration AS c ON r.iteration = c.iteration
INNER JOIN outcomes AS f ON r.rollout_id = f.trajectory_id
INNER JOIN outcomes AS o ON t.solution.trajectory_id = o.trajectory_id
WHERE NOT r.solved AND f.n_steps > 0
