-- expert_rollouts: the policy's rollouts from the experts' states.
-- One row per (expert, policy rollout of a train task, of any iteration, that starts from one of the expert's states).
-- A rollout from s_0 starts from s_0 of every expert of its task. A branch starts from a state of every expert whose
-- path holds the action before it, whichever trajectory the rollout names as its parent.
-- Grain: expert_id, rollout_id.
-- Materialized: yes.
-- Source: EEF, Algorithm 1, lines 6-8 (https://arxiv.org/abs/2504.13145), and IPR, eq. 6
-- (https://arxiv.org/abs/2406.11176).
WITH rollouts AS (
    SELECT
        trajectory_id AS rollout_id,
        task_id,
        iteration,
        branch_step AS step,
        solved,
        value
    FROM outcomes
    WHERE role = 'policy' AND split = 'train'
),

-- who owns the action that led to the state a rollout starts from: not itself, and half of the segments are one's own
start_owners AS (
    SELECT
        r.*,
        s.owner_id
    FROM rollouts AS r
    INNER JOIN path_segments AS s ON r.rollout_id = s.trajectory_id
    WHERE r.step > 0 AND s.owner_id != s.trajectory_id AND s.first_step < r.step AND r.step <= s.end_step
),

-- materialized, so that the few experts come first: joined later, every branch would meet every other
expert_segments AS MATERIALIZED (
    SELECT
        e.expert_id,
        e.task_id,
        s.owner_id,
        s.first_step,
        s.end_step
    FROM experts AS e
    INNER JOIN path_segments AS s ON e.expert_id = s.trajectory_id
)

SELECT
    e.expert_id, -- the expert trajectory
    r.rollout_id, -- the policy's rollout
    e.task_id,
    r.step, -- the rollout starts from the expert's state s_step
    r.iteration, -- the rollout's iteration
    r.solved, -- the rollout's, as in `outcomes`
    r.value -- the rollout's, as in `outcomes`
FROM experts AS e
INNER JOIN rollouts AS r ON e.task_id = r.task_id
WHERE r.step = 0
UNION ALL
SELECT
    s.expert_id,
    r.rollout_id,
    s.task_id,
    r.step,
    r.iteration,
    r.solved,
    r.value
FROM start_owners AS r
INNER JOIN expert_segments AS s ON r.owner_id = s.owner_id
WHERE s.first_step < r.step AND r.step <= s.end_step
