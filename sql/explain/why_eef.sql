-- why_eef: why `eef` trains on what it trains on, and on nothing else.
-- One row per (important state, trajectory of its task); s_0 is a state of every task here, held-out ones too.
-- Grain: kind, task_id, expert_id, step, trajectory_id.
WITH states AS (
    SELECT * FROM important_states
    UNION
    SELECT
        'initial' AS kind,
        task_id,
        CAST(NULL AS VARCHAR) AS expert_id,
        0 AS step
    FROM outcomes
),

compared AS (
    -- lost_at: in what a solution loses to the chosen one; 0: it is the chosen one
    SELECT
        s.kind,
        s.task_id,
        s.expert_id,
        s.step,
        s.trajectory_id,
        s.n_expert_actions,
        s.n_actions,
        s.iteration,
        w.n_expert_actions AS fewest_expert_actions,
        w.n_actions AS fewest_actions,
        w.iteration AS latest_iteration,
        CASE
            WHEN s.trajectory_id = w.trajectory_id THEN 0
            WHEN s.n_expert_actions > w.n_expert_actions THEN 1
            WHEN s.n_actions > w.n_actions THEN 2
            WHEN s.iteration < w.iteration THEN 3
            ELSE 4
        END AS lost_at
    FROM solutions AS s
    INNER JOIN fewest_expert_actions AS w
        ON
            s.kind = w.kind AND s.task_id = w.task_id AND s.step = w.step
            AND s.expert_id IS NOT DISTINCT FROM w.expert_id
),

decided AS (
    SELECT
        *,
        count(*) OVER (PARTITION BY kind, task_id, expert_id, step) AS n_solutions,
        max(lost_at) OVER (PARTITION BY kind, task_id, expert_id, step) AS decided_at,
        CASE WHEN step > 0 THEN ' from s_' || step || ' on' ELSE '' END AS since
    FROM compared
)

SELECT
    s.task_id,
    s.kind, -- initial: a solution from s_0 on; recovery: from a state that needs recovery on
    s.expert_id, -- the expert trajectory whose state it is; null for s_0
    s.step, -- the state s_step
    c.trajectory_id,
    e.trajectory_id IS NOT NULL AS chosen, -- whether the method trains on it
    CASE
        WHEN c.place < 7 THEN c.reason
        WHEN d.n_solutions = 1 THEN 'the only solution'
        WHEN d.lost_at = 0
            THEN
                'of ' || d.n_solutions || ' solutions the one with the fewest expert actions' || d.since || ': '
                || d.n_expert_actions
                || CASE WHEN d.decided_at > 1 THEN ', then the fewest actions: ' || d.n_actions ELSE '' END
                || CASE WHEN d.decided_at > 2 THEN ', then the latest iteration: ' || d.iteration ELSE '' END
                || CASE WHEN d.decided_at > 3 THEN ', then the smallest trajectory_id' ELSE '' END
        WHEN d.lost_at = 1
            THEN 'more expert actions' || d.since || ': ' || d.n_expert_actions || ' > ' || d.fewest_expert_actions
        WHEN d.lost_at = 2
            THEN
                'as few expert actions (' || d.n_expert_actions || '), but more actions' || d.since || ': '
                || d.n_actions || ' > ' || d.fewest_actions
        WHEN d.lost_at = 3
            THEN
                'as few expert actions (' || d.n_expert_actions || ') and actions (' || d.n_actions
                || '), but an older iteration: ' || d.iteration || ' < ' || d.latest_iteration
        WHEN d.lost_at = 4 THEN 'equal to the chosen one, but for a larger trajectory_id'
        WHEN c.n_actions <= s.step THEN 'has no action after s_' || s.step || ' to train on'
        ELSE 'solved, but does not run through s_' || s.step || ' of this expert'
    END AS reason -- why, or the first thing that speaks against it
FROM states AS s
INNER JOIN candidates AS c ON s.task_id = c.task_id
LEFT JOIN decided AS d
    ON
        s.kind = d.kind AND s.task_id = d.task_id AND s.step = d.step AND c.trajectory_id = d.trajectory_id
        AND s.expert_id IS NOT DISTINCT FROM d.expert_id
LEFT JOIN eef AS e
    ON
        s.kind = e.kind AND s.task_id = e.task_id AND s.step = e.from_step AND c.trajectory_id = e.trajectory_id
        AND s.expert_id IS NOT DISTINCT FROM e.expert_id
