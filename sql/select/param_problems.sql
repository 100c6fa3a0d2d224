-- param_problems: the parameters whose value makes no sense.
-- One row per such parameter. Null, where it is allowed, is no problem.
-- Grain: name.
SELECT
    'success_reward' AS name, -- the parameter
    'a finite number' AS wanted -- what its value must be
FROM params
WHERE NOT (isfinite(success_reward))
UNION ALL
SELECT
    'solved_rate' AS name,
    'over 0 and at most 1' AS wanted
FROM params
WHERE NOT (solved_rate > 0 AND solved_rate <= 1)
UNION ALL
SELECT
    'iteration' AS name,
    'from 0 on' AS wanted
FROM params
WHERE NOT (iteration >= 0)
UNION ALL
SELECT
    'm' AS name,
    'from 1 on' AS wanted
FROM params
WHERE NOT (m >= 1)
UNION ALL
SELECT
    'samples' AS name,
    'from 1 on' AS wanted
FROM params
WHERE NOT (samples >= 1)
UNION ALL
SELECT
    'per_task' AS name,
    'from 1 on' AS wanted
FROM params
WHERE NOT (per_task >= 1)
UNION ALL
SELECT
    'n' AS name,
    'from 1 on' AS wanted
FROM params
WHERE NOT (n >= 1)
UNION ALL
SELECT
    'tau' AS name,
    'a number from 0 on' AS wanted
FROM params
WHERE NOT (tau >= 0 AND isfinite(tau))
UNION ALL
SELECT
    'budget' AS name,
    'from 1 on' AS wanted
FROM params
WHERE NOT (budget >= 1)
UNION ALL
SELECT
    'action_pattern' AS name,
    'a regular expression that RE2 can read' AS wanted
FROM params
WHERE NOT (try(regexp_matches('', action_pattern)) IS NOT NULL)
