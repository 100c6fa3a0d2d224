-- expert_recovery_states: where the policy starts to fail along each expert's trajectory.
-- One row per expert that has such a state: its simulated states of the current iteration in order of step, s_0
-- included; the smallest step that is not solved while the simulated state before it is.
-- Experts whose paths run through one state share it: the same trajectory took the action before it (owner_id).
-- Grain: expert_id.
-- Materialized: yes.
-- Source: EEF, section 3.2, "important state selection" (https://arxiv.org/abs/2504.13145).
WITH turns AS (
    SELECT
        expert_id,
        task_id,
        min(step) AS step,
        min_by(previous_step, step) AS previous_step
    FROM simulated_states
    WHERE previous_solved AND NOT solved
    GROUP BY expert_id, task_id
)

SELECT
    t.expert_id, -- the expert trajectory
    t.task_id,
    t.step, -- the state s_step from which the policy starts to fail
    t.previous_step, -- the simulated state before it, from which the policy succeeds
    s.owner_id, -- who took the action before the state: the expert, or the trajectory that it branched from
    -- of the experts that share the state the one with the smallest id
    min(t.expert_id) OVER (PARTITION BY s.owner_id, t.step) AS first_expert_id
FROM turns AS t
INNER JOIN path_segments AS s ON t.expert_id = s.trajectory_id
WHERE s.first_step < t.step AND t.step <= s.end_step
