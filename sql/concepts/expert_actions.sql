-- expert_actions: how many expert actions each trajectory's path holds.
-- One row per trajectory whose path holds at least one.
-- Grain: trajectory_id.
SELECT
    trajectory_id,
    CAST(sum(end_step - first_step) AS INTEGER) AS n_expert_actions -- expert actions on the whole path
FROM path_segments
WHERE owner_role = 'expert'
GROUP BY trajectory_id
