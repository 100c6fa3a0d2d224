-- sft_all: behaviour cloning of every expert trajectory, right or wrong.
-- One row per expert trajectory of a train task that ended in neither error nor drift and has an action.
-- Grain: trajectory_id.
-- Ignores: bad_rewards.
-- Source: the baseline SFT ALL of EEF, table 3 (https://arxiv.org/abs/2504.13145).
SELECT
    'initial' AS kind, -- initial: trained from s_0 on
    task_id,
    expert_id AS trajectory_id,
    CAST(NULL AS VARCHAR) AS expert_id, -- always null: no state of an expert is meant
    0 AS from_step -- the first step that is trained on
FROM experts
WHERE n_actions > 0
