-- nat: Negative-Aware Training.
-- One row per expert trajectory of a train task that has a verdict and an action: kind positive where it solved the
-- task, negative where it did not. The task's prompt ends with right_prompt or wrong_prompt (`suffix`). A policy that
-- was trained so is asked with right_prompt.
-- Grain: trajectory_id.
-- Source: NAT (https://arxiv.org/abs/2402.11651), as in EEF, section 4.1.
SELECT
    -- positive: it solved the task; negative: it did not
    CASE WHEN e.solved THEN 'positive' ELSE 'negative' END AS kind,
    e.task_id,
    e.expert_id AS trajectory_id,
    CAST(NULL AS VARCHAR) AS expert_id, -- always null: no state of an expert is meant
    0 AS from_step, -- the first step that is trained on
    CASE WHEN e.solved THEN p.right_prompt ELSE p.wrong_prompt END AS suffix -- the text that the prompt ends with
FROM experts AS e
CROSS JOIN params AS p
WHERE e.solved IS NOT NULL AND e.n_actions > 0
