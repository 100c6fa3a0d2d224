-- current_iteration: the iteration whose rollouts are judged.
-- One row: the one given, else the largest in which a policy rollout on a train task has an outcome; null: none.
-- Grain: one row.
-- Materialized: yes.
-- Scope: all tasks.
SELECT coalesce(max(p.iteration), max(o.iteration)) AS iteration -- null: no policy rollout has an outcome
FROM params AS p
LEFT JOIN outcomes AS o ON o.role = 'policy' AND o.split = 'train' AND o.solved IS NOT NULL
