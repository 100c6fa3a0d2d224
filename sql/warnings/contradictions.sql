-- contradictions: trajectories that say and do the same, and came to another outcome.
-- One row per trajectory that has an outcome and is equal to another one in task, role, actor, iteration, sample,
-- parent, branch_step, prompt and actions, but not in its outcome. In a random environment, or where a log numbers no
-- samples, that is no mistake. Messages are read of those alone whose other columns, the digest of the actions among
-- them, are equal already.
-- `checked` has the trajectories to look at, with the columns of `outcomes`.
-- Grain: trajectory_id.
WITH keyed AS (
    SELECT
        c.trajectory_id,
        c.task_id,
        c.role,
        coalesce(t.actor, '') AS actor,
        c.iteration,
        c.sample,
        coalesce(c.parent_id, '') AS parent_id,
        c.branch_step,
        c.n_steps,
        coalesce(t.actions_digest, '') AS actions_digest,
        c.value,
        CASE WHEN c.solved THEN 1 ELSE 0 END AS solved
    FROM checked AS c
    INNER JOIN trajectories AS t ON c.trajectory_id = t.trajectory_id
    WHERE c.value IS NOT NULL
),

colliding AS (
    SELECT
        task_id,
        role,
        actor,
        iteration,
        sample,
        parent_id,
        branch_step,
        n_steps,
        actions_digest
    FROM keyed
    GROUP BY task_id, role, actor, iteration, sample, parent_id, branch_step, n_steps, actions_digest
    HAVING min(value) != max(value) OR min(solved) != max(solved)
),

candidates AS (
    SELECT k.*
    FROM keyed AS k
    INNER JOIN colliding AS c
        ON
            k.task_id = c.task_id AND k.role = c.role AND k.actor = c.actor AND k.iteration = c.iteration
            AND k.sample = c.sample AND k.parent_id = c.parent_id AND k.branch_step = c.branch_step
            AND k.n_steps = c.n_steps AND k.actions_digest = c.actions_digest
),

-- what is said before the first action, and the actions
said AS (
    SELECT
        m.trajectory_id,
        m.seq,
        md5(
            m.role || chr(31) || coalesce(m.content, '') || chr(31) || coalesce(m.reasoning, '') || chr(31)
            || canonical_calls(m.tool_calls)
        ) AS digest
    FROM candidates AS c
    INNER JOIN messages AS m ON c.trajectory_id = m.trajectory_id
    WHERE m.step = c.branch_step OR (m.role = 'assistant' AND NOT coalesce(m.context, FALSE))
),

told AS (
    SELECT
        trajectory_id,
        md5(string_agg(digest, '' ORDER BY seq)) AS digest
    FROM said
    GROUP BY trajectory_id
),

grouped AS (
    SELECT
        c.task_id,
        c.role,
        c.actor,
        c.iteration,
        c.sample,
        c.parent_id,
        c.branch_step,
        t.digest,
        min(c.trajectory_id) AS first_id,
        count(*) AS n_trajectories
    FROM candidates AS c
    INNER JOIN told AS t ON c.trajectory_id = t.trajectory_id
    GROUP BY c.task_id, c.role, c.actor, c.iteration, c.sample, c.parent_id, c.branch_step, t.digest
    HAVING min(c.value) != max(c.value) OR min(c.solved) != max(c.solved)
)

SELECT
    c.trajectory_id,
    'task ' || c.task_id || ': ' || g.n_trajectories || ' trajectories of sample ' || c.sample
    || ' say and do the same, this one with outcome ' || c.value
    || ', and differ in it (the first is ' || g.first_id || '). In a random environment, or where a log numbers no '
    || 'samples, that is no mistake; `trajkit import --replace` puts a corrected record in the place of the wrong one'
        AS problem
FROM candidates AS c
INNER JOIN told AS t ON c.trajectory_id = t.trajectory_id
INNER JOIN grouped AS g
    ON
        t.digest = g.digest AND c.task_id = g.task_id AND c.role = g.role AND c.actor = g.actor
        AND c.iteration = g.iteration AND c.sample = g.sample AND c.parent_id = g.parent_id
        AND c.branch_step = g.branch_step
