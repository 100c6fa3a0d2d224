-- wrong_pairs: what is wrong with the pairs that a method chose.
-- One row per kind of mistake.
-- Grain: problem.
WITH sides AS (
    SELECT
        *,
        chosen_id AS trajectory_id,
        TRUE AS is_chosen
    FROM chosen
    UNION ALL
    SELECT
        *,
        rejected_id AS trajectory_id,
        FALSE AS is_chosen
    FROM chosen
),

judged AS (
    SELECT
        CASE
            WHEN o.trajectory_id IS NULL THEN 'name a trajectory that is not there'
            WHEN b.reason IS NOT NULL THEN 'name a trajectory ' || b.reason
            WHEN c.level IS NULL THEN 'have no level'
            WHEN c.from_step IS NULL OR c.from_step < 0 OR c.from_step >= o.n_actions
                THEN 'have a from_step at which a side has no action'
            WHEN c.end_step <= c.from_step THEN 'have an end_step that is not after from_step'
            WHEN
                c.is_chosen AND r.trajectory_id IS NOT NULL
                AND (
                    o.task_id != r.task_id OR c.chosen_id = c.rejected_id
                    OR (c.from_step > 0 AND s.owner_id IS DISTINCT FROM q.owner_id)
                )
                THEN 'have two sides that do not share the state at from_step'
        END AS problem
    FROM sides AS c
    LEFT JOIN outcomes AS o ON c.trajectory_id = o.trajectory_id
    LEFT JOIN barred_trajectories AS b ON c.trajectory_id = b.trajectory_id
    LEFT JOIN outcomes AS r ON c.rejected_id = r.trajectory_id
    -- whose action led to the state at from_step, on each side's path
    LEFT JOIN path_segments AS s
        ON c.chosen_id = s.trajectory_id AND c.from_step > s.first_step AND c.from_step <= s.end_step
    LEFT JOIN path_segments AS q
        ON c.rejected_id = q.trajectory_id AND c.from_step > q.first_step AND c.from_step <= q.end_step
),

repeated_rows AS (
    SELECT count(*) - 1 AS n
    FROM chosen
    GROUP BY level, chosen_id, rejected_id, from_step, end_step
    HAVING count(*) > 1
)

SELECT
    problem, -- how a sentence goes on that begins with "rows of its answer"
    count(*) AS n -- sides of pairs that have it
FROM judged
WHERE problem IS NOT NULL
GROUP BY problem
UNION ALL
SELECT
    'repeat another row' AS problem,
    CAST(sum(n) AS BIGINT) AS n
FROM repeated_rows
HAVING sum(n) > 0
