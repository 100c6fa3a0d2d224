-- important_states: the states to find a solution for.
-- One row per train task (kind initial: its s_0) and per first recovery state (kind recovery: the expert's s_step;
-- what several experts share is one state).
-- Grain: kind, task_id, expert_id, step.
-- Source: EEF, section 3.2, "important state selection" (https://arxiv.org/abs/2504.13145).
SELECT DISTINCT
    'initial' AS kind, -- initial: the task's s_0; recovery: an expert's state that needs recovery
    task_id,
    CAST(NULL AS VARCHAR) AS expert_id, -- the expert trajectory whose state it is; null for s_0
    0 AS step -- the state s_step
FROM outcomes
WHERE split = 'train' AND role IN ('expert', 'policy')
UNION ALL
SELECT
    'recovery' AS kind,
    task_id,
    expert_id,
    step
FROM first_recovery_state
