-- wrong_examples: what is wrong with the examples that a method chose.
-- One row per kind of mistake.
-- Grain: problem.
WITH judged AS (
    SELECT
        CASE
            WHEN o.trajectory_id IS NULL THEN 'name a trajectory that is not there'
            WHEN b.reason IS NOT NULL THEN 'name a trajectory ' || b.reason
            WHEN c.kind IS NULL THEN 'have no kind'
            WHEN c.from_step IS NULL OR c.from_step < 0 OR c.from_step >= o.n_actions
                THEN 'have a from_step at which there is no action to train on'
        END AS problem
    FROM chosen AS c
    LEFT JOIN outcomes AS o ON c.trajectory_id = o.trajectory_id
    LEFT JOIN barred_trajectories AS b ON c.trajectory_id = b.trajectory_id
),

repeated_rows AS (
    SELECT count(*) - 1 AS n
    FROM chosen
    GROUP BY kind, trajectory_id, expert_id, from_step
    HAVING count(*) > 1
)

SELECT
    problem, -- how a sentence goes on that begins with "rows of its answer"
    count(*) AS n -- rows of the answer that have it
FROM judged
WHERE problem IS NOT NULL
GROUP BY problem
UNION ALL
SELECT
    'repeat another row' AS problem,
    CAST(sum(n) AS BIGINT) AS n
FROM repeated_rows
HAVING sum(n) > 0
