-- sft_pos: behaviour cloning of the expert trajectories that solved their task.
-- One row per solved expert trajectory of a train task that has an action.
-- Grain: trajectory_id.
-- Source: the baseline SFT POS of EEF, table 3, and Algorithm 1, lines 3-4 (https://arxiv.org/abs/2504.13145).
SELECT
    'initial' AS kind, -- initial: trained from s_0 on
    task_id,
    expert_id AS trajectory_id,
    CAST(NULL AS VARCHAR) AS expert_id, -- always null: no state of an expert is meant
    0 AS from_step -- the first step that is trained on
FROM experts
WHERE solved AND n_actions > 0
