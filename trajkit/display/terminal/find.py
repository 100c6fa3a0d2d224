"""Which trajectories to show."""

from __future__ import annotations

from trajkit.engines.duckdb import DuckDBEngine
from trajkit.engines.one_task import answer, unknown
from trajkit.errors import UsageError

# Experts with a recovery state that has a solution first; of those the ones whose s_0 the policy solves only with
# the help of several expert actions, then failed ones, then the short ones. expert_id makes the order total.
_MOST_INSTRUCTIVE = """
SELECT e.expert_id
FROM experts AS e
LEFT JOIN expert_recovery_states AS r ON r.expert_id = e.expert_id
LEFT JOIN fewest_expert_actions AS f ON f.kind = 'recovery' AND f.expert_id = r.first_expert_id
LEFT JOIN fewest_expert_actions AS i ON i.kind = 'initial' AND i.task_id = e.task_id
ORDER BY
    f.trajectory_id IS NOT NULL DESC,
    r.expert_id IS NOT NULL DESC,
    least(coalesce(i.n_expert_actions, 0), 2) DESC,
    coalesce(e.solved, FALSE),
    e.n_actions,
    e.expert_id
LIMIT 1
"""

# A task's experts; where it has none, the solution that eef takes; where it has none either, the best there is.
_OF_A_TASK = """
WITH of_task AS (
    SELECT
        o.trajectory_id,
        CASE WHEN o.role = 'expert' THEN 1 WHEN f.trajectory_id IS NOT NULL THEN 2 ELSE 3 END AS place,
        row_number() OVER (ORDER BY o.value DESC NULLS LAST, o.n_actions, o.trajectory_id) AS best
    FROM outcomes AS o
    LEFT JOIN fewest_expert_actions AS f ON f.trajectory_id = o.trajectory_id AND f.kind = 'initial'
    WHERE o.task_id = ?
)
SELECT trajectory_id FROM of_task
WHERE place = (SELECT min(place) FROM of_task) AND (place < 3 OR best = 1)
ORDER BY trajectory_id
"""


def find(runs: DuckDBEngine, trajectory_id: str | None, task_id: str | None) -> list[str]:
    """The trajectories to show: the one whose id starts so, a task's experts, or the most instructive expert."""
    if trajectory_id is not None and task_id is not None:
        raise UsageError("give either an ID or --task, not both.")
    if task_id is not None:
        found = runs.rows(_OF_A_TASK, [task_id])
        if not found:
            raise unknown(runs, task_id)
    elif trajectory_id is not None:
        found = runs.rows(
            "SELECT trajectory_id FROM trajectories WHERE starts_with(trajectory_id, ?) "
            "ORDER BY trajectory_id <> ?, trajectory_id LIMIT 6",
            [trajectory_id, trajectory_id],
        )
        if not found:
            if runs.rows("SELECT 1 FROM trajectories WHERE task_id = ? LIMIT 1", [trajectory_id]):
                raise UsageError(f"{trajectory_id}: that is a task, not a trajectory: --task {trajectory_id}.")
            raise UsageError(
                f"{trajectory_id}: no trajectory with this id in {runs.path}. "
                f'`trajkit sql "SELECT trajectory_id, task_id FROM trajectories" --runs {runs.path}` lists them.'
            )
        if len(found) > 1 and found[0]["trajectory_id"] != trajectory_id:
            ids = ", ".join(row["trajectory_id"] for row in found[:5])
            raise UsageError(f"{trajectory_id}: several ids start so: {ids}{', ...' if len(found) > 5 else ''}.")
        found = found[:1]
    else:
        answer(runs, ["experts", "fewest_expert_actions"])
        found = [{"trajectory_id": row["expert_id"]} for row in runs.rows(_MOST_INSTRUCTIVE)]
        if not found:
            raise UsageError(f"{runs.path}: there is no expert trajectory of a train task to show. Name one with ID.")
    return [row["trajectory_id"] for row in found]
