-- n_steps_mismatch: an n_steps that is not the number of the trajectory's own actions among its messages.
-- One row per trajectory. An action is an assistant message that is no context.
-- Grain: trajectory_id.
-- Select refuses: every method.
WITH actions AS (
    SELECT
        trajectory_id,
        count(*) AS n_actions
    FROM messages
    WHERE role = 'assistant' AND NOT coalesce(context, FALSE)
    GROUP BY trajectory_id
)

SELECT
    t.trajectory_id,
    'n_steps is ' || t.n_steps || ' but its messages hold ' || coalesce(a.n_actions, 0) || ' actions' AS problem
FROM checked AS t
LEFT JOIN actions AS a ON t.trajectory_id = a.trajectory_id
WHERE t.n_steps != coalesce(a.n_actions, 0)
