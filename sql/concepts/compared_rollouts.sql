-- compared_rollouts: what the expert did from a state against what the policy did from it.
-- One row per (expert, policy rollout of the current iteration from one of its states) where both act there and have an
-- outcome.
--   expert_value, rollout_value  as in `outcomes`
-- Plans: every_step.
-- Source: IPR, section 3.3 (https://arxiv.org/abs/2406.11176); ETO, appendix C (https://arxiv.org/abs/2403.02502).
SELECT
    r.expert_id,
    r.rollout_id,
    r.task_id,
    r.step,
    e.value AS expert_value,
    r.value AS rollout_value
FROM expert_rollouts AS r
INNER JOIN current_iteration AS c ON r.iteration = c.iteration
INNER JOIN outcomes AS e ON r.expert_id = e.trajectory_id
INNER JOIN outcomes AS o ON r.rollout_id = o.trajectory_id
WHERE e.value IS NOT NULL AND r.value IS NOT NULL AND r.step < e.n_actions AND o.n_steps > 0
