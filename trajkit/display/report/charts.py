"""The charts of `trajkit report` in their order on the page.

Every number is a relation of sql/report/ (or `select`'s summary); `Chart.sql` says how to ask for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from trajkit.display.report import drawing
from trajkit.display.report.chart import Chart
from trajkit.display.report.outcome_charts import branch_outcomes, coverage, efficiency, recovery_positions, win_rates
from trajkit.display.report.training_charts import (
    exploration_cost,
    no_skill,
    selection,
    skill,
    text_lengths,
    trajectory_lengths,
    with_pattern,
)
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.rules import method as find_method

__all__ = ["Chart", "charts"]


def charts(runs: DuckDBEngine, methods: Sequence[str] = ("eef",), skills: Mapping[str, str] = {}) -> Iterator[Chart]:
    """The charts in their order on the page.

    `methods` are those of `select` whose choice is shown, `skills` regular expressions by name, of the actions that
    show each skill. Each skill reads all messages. Raises UsageError for an unknown method, a pattern that RE2 cannot
    read, and where Altair is not installed.
    """
    drawing.altair()
    chosen = [
        (name, method, find_method(method, reads_files=runs.is_confined)) for name, method in _names("select", methods)
    ]
    sought = [(name, called, with_pattern(runs, called, skills[called])) for name, called in _names("skill", [*skills])]
    yield from win_rates(runs)
    yield coverage(runs)
    yield efficiency(runs)
    yield branch_outcomes(runs)
    yield recovery_positions(runs)
    yield from (selection(runs, method, rule, name) for name, method, rule in chosen)
    if not skills:
        yield no_skill()
    yield from (skill(runs, called, skills[called], params, name) for name, called, params in sought)
    yield trajectory_lengths(runs)
    yield from text_lengths(runs)
    yield exploration_cost(runs)


def _names(prefix: str, items: Sequence[str]) -> list[tuple[str, str]]:
    """A slug for each item, with a number where two would be the same."""
    names: dict[str, str] = {}
    for item in dict.fromkeys(items):
        slug = name = f"{prefix}-{re.sub(r'[^a-z0-9]+', '-', item.lower()).strip('-') or 'own'}"
        n = 1
        while name in names:
            name = f"{slug}-{(n := n + 1)}"
        names[name] = item
    return list(names.items())
