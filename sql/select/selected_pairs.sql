-- selected_pairs: the pairs that a method chose, without their messages.
-- One row per pair, numbered in the order in which they are written (pair_id).
-- n_chosen_steps and n_rejected_steps count the actions that get loss: those whose own weight is 0 get none. A pair
-- with a side in which none does has no row. chosen_end and rejected_end are the sides' numbers of actions.
-- `chosen` is the method's answer: level, from_step, end_step (null: to the end), chosen_id, rejected_id and rewards.
-- Grain: pair_id.
WITH identified AS (
    SELECT
        -- the length keeps apart what the ids alone would not
        md5(concat_ws(
            chr(31), level, from_step, coalesce(end_step, -1), length(chosen_id), chosen_id, rejected_id
        )) AS pair_id,
        *
    FROM chosen
),

sides AS (
    SELECT
        pair_id,
        chosen_id AS trajectory_id,
        from_step,
        end_step
    FROM identified
    UNION
    SELECT
        pair_id,
        rejected_id AS trajectory_id,
        from_step,
        end_step
    FROM identified
),

-- actions of a side whose own weight is 0
untrained_steps AS (
    SELECT
        i.pair_id,
        i.trajectory_id,
        CAST(count(*) AS INTEGER) AS n_steps
    FROM untrained_actions AS u
    INNER JOIN path_segments AS s ON u.trajectory_id = s.owner_id
    INNER JOIN sides AS i ON s.trajectory_id = i.trajectory_id
    WHERE
        s.first_step <= u.step AND u.step < s.end_step
        AND i.from_step <= u.step AND u.step < coalesce(i.end_step, s.end_step)
    GROUP BY i.pair_id, i.trajectory_id
),

counted AS (
    SELECT
        p.pair_id,
        coalesce(least(p.end_step, c.n_actions), c.n_actions) AS chosen_end,
        coalesce(least(p.end_step, r.n_actions), r.n_actions) AS rejected_end,
        coalesce(u.n_steps, 0) AS n_chosen_untrained,
        coalesce(v.n_steps, 0) AS n_rejected_untrained
    FROM identified AS p
    INNER JOIN outcomes AS c ON p.chosen_id = c.trajectory_id
    INNER JOIN outcomes AS r ON p.rejected_id = r.trajectory_id
    LEFT JOIN untrained_steps AS u ON p.pair_id = u.pair_id AND p.chosen_id = u.trajectory_id
    LEFT JOIN untrained_steps AS v ON p.pair_id = v.pair_id AND p.rejected_id = v.trajectory_id
)

SELECT
    row_number() OVER (ORDER BY p.pair_id) - 1 AS row_number,
    p.pair_id,
    c.task_id,
    c.env,
    p.level,
    p.from_step,
    p.end_step,
    p.chosen_id,
    p.rejected_id,
    coalesce(p.chosen_reward, c.value) AS chosen_reward,
    coalesce(p.rejected_reward, r.value) AS rejected_reward,
    n.chosen_end,
    n.rejected_end,
    n.chosen_end - p.from_step - n.n_chosen_untrained AS n_chosen_steps,
    n.rejected_end - p.from_step - n.n_rejected_untrained AS n_rejected_steps,
    greatest(c.iteration, r.iteration) AS iteration
FROM identified AS p
INNER JOIN counted AS n ON p.pair_id = n.pair_id
INNER JOIN outcomes AS c ON p.chosen_id = c.trajectory_id
INNER JOIN outcomes AS r ON p.rejected_id = r.trajectory_id
WHERE
    n.chosen_end - p.from_step > n.n_chosen_untrained AND n.rejected_end - p.from_step > n.n_rejected_untrained
