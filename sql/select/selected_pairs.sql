-- selected_pairs: the pairs that a method chose, without their messages.
-- One row per pair, numbered in the order in which they are written (pair_id).
-- `chosen` is the method's answer: level, from_step, end_step (null: to the end), chosen_id, rejected_id and rewards.
WITH identified AS (
    SELECT
        -- the length keeps apart what the ids alone would not
        md5(concat_ws(
            chr(31), level, from_step, coalesce(end_step, -1), length(chosen_id), chosen_id, rejected_id
        )) AS pair_id,
        *
    FROM chosen
)

SELECT
    row_number() OVER (ORDER BY p.pair_id) - 1 AS row_number,
    p.pair_id,
    c.task_id,
    t.env,
    p.level,
    p.from_step,
    p.end_step,
    p.chosen_id,
    p.rejected_id,
    coalesce(p.chosen_reward, c.value) AS chosen_reward,
    coalesce(p.rejected_reward, r.value) AS rejected_reward,
    coalesce(least(p.end_step, c.n_actions), c.n_actions) - p.from_step AS n_chosen_steps,
    coalesce(least(p.end_step, r.n_actions), r.n_actions) - p.from_step AS n_rejected_steps,
    greatest(c.iteration, r.iteration) AS iteration
FROM identified AS p
INNER JOIN outcomes AS c ON p.chosen_id = c.trajectory_id
INNER JOIN outcomes AS r ON p.rejected_id = r.trajectory_id
INNER JOIN trajectories AS t ON p.chosen_id = t.trajectory_id
