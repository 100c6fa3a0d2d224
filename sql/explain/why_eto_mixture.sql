-- why_eto_mixture: why `eto_mixture` pairs what it pairs, and nothing else.
-- One row per row of `why_eto` (kind trajectory) and of `why_eto_step` (kind step).
-- Grain: kind, expert_id, trajectory_id.
SELECT * FROM why_eto
UNION ALL
SELECT * FROM why_eto_step
