-- untrained_actions: the actions that their source says not to train on.
-- One row per action whose own weight is 0. It is a step like any other, only without loss.
-- Grain: trajectory_id, step.
SELECT
    trajectory_id,
    step
FROM messages
WHERE weight = 0 AND role = 'assistant' AND NOT coalesce(context, FALSE)
