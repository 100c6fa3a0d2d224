-- params: the rules' parameters, with their defaults.
-- One row. `--set key=value` and the flags of the command line replace a value.
-- Grain: one row.
SELECT
    -- reward from which a trajectory without a verdict of its own is solved (the scale is the environment's)
    CAST(1.0 AS DOUBLE) AS success_reward,
    -- share of solved rollouts from which a simulated state is solved
    CAST(0.5 AS DOUBLE) AS solved_rate,
    -- the iteration whose rollouts tell which states need recovery; null: the latest
    CAST(NULL AS INTEGER) AS iteration,
    -- M, simulations per expert trajectory (EEF, Algorithm 1; the paper's default)
    CAST(5 AS INTEGER) AS m,
    -- rollouts from each planned state
    CAST(1 AS INTEGER) AS samples,
    -- rft: policy rollouts kept per task; null: all
    CAST(NULL AS INTEGER) AS per_task,
    -- N, scorer rollouts after each action (IPR, section 4.1)
    CAST(5 AS INTEGER) AS n,
    -- ipr: by how much an expert's step reward must be higher (IPR: 0.5 ALFWorld, 0.01 WebShop, 0.1 InterCode-SQL)
    CAST(0.01 AS DOUBLE) AS tau,
    -- the actor whose scorer rollouts count; null: every scorer's
    CAST(NULL AS VARCHAR) AS scorer,
    -- apt: policy rollouts per expert and iteration
    CAST(10 AS INTEGER) AS budget,
    -- nat: what the prompt of a solved trajectory ends with (after the paper's)
    CAST('Please generate a solution that correctly answers the question.' AS VARCHAR) AS right_prompt,
    -- nat: what the prompt of a failed trajectory ends with (after the paper's)
    CAST('Please generate a solution that incorrectly answers the question.' AS VARCHAR) AS wrong_prompt,
    -- skill: which actions count, an RE2 regular expression
    CAST('(?i)click\[next' AS VARCHAR) AS action_pattern
