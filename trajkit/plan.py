"""Which rollouts to make: the plans of sql/plan/, and what of them is not done yet."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trajkit.rules import plan

ROUND_BY_ROUND = frozenset({"apt", "bisection"})
"""The plans whose next rows depend on what came of the ones before."""

_COLUMNS = "task_id, parent_id, branch_step, sample, role"


def role_of(name: str) -> str:
    """Whose rollouts a plan asks for: policy or scorer. Raises UsageError for a name that is no plan."""
    found = re.search(r"'(policy|scorer)' AS role\b", plan(name).sql)
    assert found, f"the plan {name} has no role"
    return found[1]


def planned(names: Sequence[str]) -> str:
    """The SQL of all rollouts that these plans ask for: task_id, parent_id (null from s_0), branch_step, sample, role.

    Raises UsageError for a name that is no plan.
    """
    return " UNION ".join(f"SELECT {_COLUMNS} FROM {plan(name).name}" for name in names)


def missing(names: Sequence[str]) -> str:
    """Those of them that `done` does not have yet, in a total order.

    Of the policy's, done are those of the iteration among the parameters, without one none; of the scorer's, those of
    any iteration, by the actor among the parameters (`scorer`), without one by any.
    """
    return (
        f"SELECT p.* FROM ({planned(names)}) AS p ANTI JOIN done AS d ON p.role = d.role AND p.task_id = d.task_id "
        "AND p.parent_id IS NOT DISTINCT FROM d.parent_id AND p.branch_step = d.branch_step AND p.sample = d.sample "
        "ORDER BY p.task_id, p.parent_id NULLS FIRST, p.branch_step, p.sample, p.role"
    )
