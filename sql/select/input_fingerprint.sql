-- input_fingerprint: a digest of what the rules read of trajectories and tasks, and of the actions' own weights (not of
-- the text of messages, for which actions_digest stands where it was recorded).
-- One row: the sum of a digest of each trajectory, task and weight, the same for any order and any split over files;
-- null of none. char 30 stands for null, so that it is not the empty text. The reward has all of its digits.
-- Grain: one row.
WITH digests AS (
    SELECT
        md5_number_lower(concat_ws(
            chr(31),
            trajectory_id,
            coalesce(task_id, chr(30)),
            coalesce(role, chr(30)),
            coalesce(actor, chr(30)),
            coalesce(iteration, 0),
            coalesce(sample, 0),
            coalesce(parent_id, chr(30)),
            branch_step,
            n_steps,
            CASE
                WHEN reward IS NULL THEN chr(30) WHEN reward = 0 THEN '0' WHEN reward = 1 THEN '1'
                ELSE printf('%.17e', reward)
            END,
            coalesce(CAST(success AS VARCHAR), chr(30)),
            coalesce(ended, chr(30)),
            coalesce(actions_digest, chr(30)),
            coalesce(tools, chr(30))
        )) AS digest
    FROM trajectories
    UNION ALL
    SELECT
        md5_number_lower(concat_ws(
            chr(31), 'task', coalesce(task_id, chr(30)), coalesce(env, chr(30)), coalesce(split, 'train'),
            coalesce(problem, chr(30))
        )) AS digest
    FROM task_worlds
    UNION ALL
    SELECT md5_number_lower(concat_ws(chr(31), 'weight', trajectory_id, seq, printf('%.9e', weight))) AS digest
    FROM messages
    WHERE weight IS NOT NULL
)

SELECT sum(CAST(digest AS DECIMAL(38, 0))) AS fingerprint
FROM digests
