-- bad_rewards: a reward that is NaN or infinite.
-- One row per trajectory.
-- Grain: trajectory_id.
-- Select refuses: every method.
SELECT
    trajectory_id,
    'reward is ' || reward || '; it must be a finite number, or null for no outcome' AS problem
FROM checked
WHERE NOT isfinite(reward)
