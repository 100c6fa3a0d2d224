-- compared_rollouts: what the expert did from a state against what the policy did from it.
-- One row per (expert, policy rollout of the current iteration from one of its states) where both act there and have an
-- outcome.
-- Grain: expert_id, rollout_id.
-- Plans: every_step.
-- Source: IPR, section 3.3 (https://arxiv.org/abs/2406.11176); ETO, appendix C (https://arxiv.org/abs/2403.02502).
SELECT
    r.expert_id, -- the expert trajectory
    r.rollout_id, -- the policy's rollout
    r.task_id,
    r.step, -- both act in the state s_step
    e.value AS expert_value, -- the expert trajectory's value, as in `outcomes`
    r.value AS rollout_value -- the rollout's value, as in `outcomes`
FROM expert_rollouts AS r
INNER JOIN current_iteration AS c ON r.iteration = c.iteration
INNER JOIN outcomes AS e ON r.expert_id = e.trajectory_id
INNER JOIN outcomes AS o ON r.rollout_id = o.trajectory_id
WHERE e.value IS NOT NULL AND r.value IS NOT NULL AND r.step < e.n_actions AND o.n_steps > 0
