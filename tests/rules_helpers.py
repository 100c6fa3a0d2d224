"""What tests/test_rules.py shares with other tests."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oracle import RELATIONS, Oracle
from worlds import Row, World, expert, policy, write

from trajkit.engines.duckdb import DuckDBEngine
from trajkit.rules import closure


def relations(
    world: World, names: list[str], params: dict[str, Any] | None = None, layout: int = 0
) -> dict[str, list[Row]]:
    """The rows of these relations, by the engine."""
    with (
        tempfile.TemporaryDirectory() as folder,
        DuckDBEngine(write(world, Path(folder), layout), params=params or {}) as runs,
    ):
        return answers(runs, names)


def answers(runs: DuckDBEngine, names: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of these relations, each rule answered once as `select` does it: planning the views, each with all that
    it reads, takes longer than answering them."""
    if len(names) > 1:
        for rule in closure(" ".join(f"FROM {name}" for name in names)):
            runs.make(rule.name, runs.params_sql if rule.name == "params" else rule.sql)
    return {name: runs.rows(f"FROM {name}") for name in names}


def ask(world: World, name: str, **params: Any) -> list[Row]:
    """One relation's rows, the same by the oracle and by the engine."""
    expected = RELATIONS[name](Oracle(world, params))
    found = relations(world, [name], params)[name]
    assert difference(name, found, expected) is None
    return expected


def difference(name: str, found: list[Row], expected: list[Row]) -> str | None:
    """What differs between two answers as multisets of rows, on the columns of the expected ones; None when nothing."""
    columns = sorted(expected[0]) if expected else None
    if columns and found and not found[0].keys() >= set(columns):
        return f"{name} has {sorted(found[0])}, wanted {columns}"

    def bag(rows: list[Row]) -> Counter[tuple[Any, ...]]:
        return Counter(tuple(row[column] for column in columns or sorted(row)) for row in rows)

    have, want = bag(found), bag(expected)
    if have == want:
        return None
    extra, missing = list((have - want).elements()), list((want - have).elements())
    return f"{name}{columns or ''}:\n  only by SQL: {extra}\n  only by the oracle: {missing}"


# Fig. 1: a failed expert simulated at intervals of l = 2; rollouts from s_0 and s_2l fail, from s_l and s_3l succeed.
FIGURE_1 = World(
    (
        expert("e", "aaaaaaaa"),
        policy("p0", "bb"),
        policy("pl", "bb", parent="e", at=2, reward=1.0),
        policy("p2l", "bb", parent="e", at=4),
        policy("p3l", "b", parent="e", at=6, reward=1.0),
    )
)
# e and f share their first three actions, from whose end, s_3, the policy starts to fail; d shares but two.
SHARED_STATE = World(
    (
        expert("f", "aaaa"),
        expert("e", "bb", parent="f", at=3),
        expert("d", "bb", parent="f", at=2),
        policy("p0", "b", reward=1.0),
        policy("p3", "b", parent="f", at=3),
        policy("solves", "bb", parent="e", at=4, reward=1.0),
        policy("solves too", "ab", parent="f", at=3, reward=1.0, iteration=0),
        policy("d3", "b", parent="d", at=3),
    )
)
