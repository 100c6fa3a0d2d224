-- general_reasons: why a trajectory is not trained on, whatever the method.
-- One row per trajectory: the first reason that applies; `place` orders them. Reasons from 0 to 5 rule it out for good
-- (but sft_all asks for no outcome); with 6 or 7 it has an outcome and an action, and the method decides.
-- Grain: trajectory_id.
SELECT
    trajectory_id,
    CASE
        WHEN task_problem IS NOT NULL THEN task_problem
        WHEN split != 'train' THEN 'split ' || split || ' is held out'
        WHEN role = 'scorer' THEN 'scorer rollouts are never trained on'
        WHEN ended IN ('error', 'drift') THEN 'ended in ' || ended
        WHEN solved IS NULL THEN 'neither success nor reward'
        WHEN n_actions = 0 THEN 'no action'
        WHEN NOT solved THEN 'not solved'
        ELSE 'solved, not chosen'
    END AS reason, -- the first reason that applies
    CASE
        WHEN task_problem IS NOT NULL THEN 0
        WHEN split != 'train' THEN 1
        WHEN role = 'scorer' THEN 2
        WHEN ended IN ('error', 'drift') THEN 3
        WHEN solved IS NULL THEN 4
        WHEN n_actions = 0 THEN 5
        WHEN NOT solved THEN 6
        ELSE 7
    END AS place -- the order of the reasons
FROM outcomes
