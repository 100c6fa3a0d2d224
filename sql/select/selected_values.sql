-- selected_values: the trajectories whose actions a method gave values, without their messages.
-- One row per trajectory, numbered in the order in which they are written (example_id). step_values has the values by
-- step. An action whose own weight is 0 gets none; a trajectory in which none is left has no row.
-- `chosen` is the method's answer: trajectory_id, step, step_reward.
-- Grain: example_id.
WITH identified AS (
    SELECT
        md5(concat_ws(chr(31), 'values', c.trajectory_id)) AS example_id,
        c.trajectory_id,
        min(c.step) AS from_step,
        CAST(count(*) AS INTEGER) AS n_values,
        map_from_entries(list({
            'step': c.step,
            'value': c.step_reward
        })) AS step_values
    FROM chosen AS c
    ANTI JOIN untrained_actions AS u ON c.trajectory_id = u.trajectory_id AND c.step = u.step
    GROUP BY c.trajectory_id
)

SELECT
    row_number() OVER (ORDER BY i.example_id) - 1 AS row_number,
    i.example_id,
    o.task_id,
    o.env,
    i.trajectory_id,
    i.from_step,
    o.n_actions AS n_steps,
    i.n_values,
    o.reward,
    o.iteration,
    i.step_values
FROM identified AS i
INNER JOIN outcomes AS o ON i.trajectory_id = o.trajectory_id
