-- eto_mixture: Exploration-based Trajectory Optimization, whole trajectories and single actions.
-- One row per pair of `eto` and per pair of `eto_step`.
-- Grain: level, chosen_id, rejected_id, from_step.
-- Source: ETO, section 4.4 (https://arxiv.org/abs/2403.02502).
SELECT * FROM eto
UNION ALL
SELECT * FROM eto_step
