-- selected_examples: the examples that a method chose, without their messages.
-- One row per example, numbered in the order in which they are written (example_id).
-- n_trained_steps and n_expert_steps count the actions that get loss: those whose own weight is 0 get none. An example
-- in which none does has no row.
-- `chosen` is the method's answer: kind, trajectory_id, expert_id, from_step, suffix (text that the prompt ends with).
-- Grain: example_id.
WITH identified AS (
    SELECT
        md5(concat_ws(chr(31), kind, trajectory_id, coalesce(expert_id, ''), from_step)) AS example_id,
        *
    FROM chosen
),

-- expert actions at or after from_step
expert_steps AS (
    SELECT
        i.example_id,
        CAST(sum(s.end_step - greatest(s.first_step, i.from_step)) AS INTEGER) AS n_expert_steps
    FROM identified AS i
    INNER JOIN path_segments AS s ON i.trajectory_id = s.trajectory_id
    WHERE s.owner_role = 'expert' AND i.from_step < s.end_step
    GROUP BY i.example_id
),

-- actions at or after from_step whose own weight is 0
untrained_steps AS (
    SELECT
        i.example_id,
        CAST(count(*) AS INTEGER) AS n_steps,
        CAST(count(CASE WHEN s.owner_role = 'expert' THEN 1 END) AS INTEGER) AS n_expert_steps
    FROM untrained_actions AS u
    INNER JOIN path_segments AS s ON u.trajectory_id = s.owner_id
    INNER JOIN identified AS i ON s.trajectory_id = i.trajectory_id
    WHERE s.first_step <= u.step AND u.step < s.end_step AND i.from_step <= u.step
    GROUP BY i.example_id
)

SELECT
    row_number() OVER (ORDER BY i.example_id) - 1 AS row_number,
    i.example_id,
    o.task_id,
    o.env,
    i.kind,
    i.trajectory_id,
    i.expert_id,
    i.from_step,
    o.n_actions AS n_steps,
    o.n_actions - i.from_step - coalesce(u.n_steps, 0) AS n_trained_steps,
    coalesce(e.n_expert_steps, 0) - coalesce(u.n_expert_steps, 0) AS n_expert_steps,
    o.reward,
    o.iteration,
    i.suffix
FROM identified AS i
INNER JOIN outcomes AS o ON i.trajectory_id = o.trajectory_id
LEFT JOIN expert_steps AS e ON i.example_id = e.example_id
LEFT JOIN untrained_steps AS u ON i.example_id = u.example_id
WHERE o.n_actions - i.from_step > coalesce(u.n_steps, 0)
