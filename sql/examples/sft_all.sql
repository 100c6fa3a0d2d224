-- sft_all: behaviour cloning of every expert trajectory, right or wrong.
-- One row per expert trajectory of a train task that ended in neither error nor drift and has an action.
-- Ignores: bad_rewards.
-- Source: the baseline SFT ALL of EEF, table 3 (https://arxiv.org/abs/2504.13145).
SELECT
    'initial' AS kind,
    task_id,
    expert_id AS trajectory_id,
    CAST(NULL AS VARCHAR) AS expert_id,
    0 AS from_step
FROM experts
WHERE n_actions > 0
