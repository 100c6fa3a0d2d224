-- recovery_positions: where along the experts' trajectories the first recovery states lie.
-- One row per tenth of the expert's trajectory that holds one, of the current iteration.
-- Grain: tenth.
-- Source: EEF, section 3.2, "important state selection" (https://arxiv.org/abs/2504.13145).
WITH solved AS (
    SELECT DISTINCT expert_id
    FROM solutions
    WHERE kind = 'recovery'
)

SELECT
    -- 1 ... 10: after up to 10%, 20%, ... of the expert's actions
    CAST(ceil(10 * r.step / e.n_actions) AS INTEGER) AS tenth,
    count(*) AS n_states, -- first recovery states there; a state that experts share counts once
    count(s.expert_id) AS n_with_solution -- those of them that some trajectory solves
FROM first_recovery_state AS r
INNER JOIN experts AS e ON r.expert_id = e.expert_id
LEFT JOIN solved AS s ON r.expert_id = s.expert_id
GROUP BY ceil(10 * r.step / e.n_actions)
