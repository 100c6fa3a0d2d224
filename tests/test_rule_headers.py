"""What the rules' headers declare is true, and every column has a meaning."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from worlds import World, worlds, write

from trajkit.engines.base import column_meanings
from trajkit.engines.checks import roles_read
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import UsageError
from trajkit.rules import (
    KEYS,
    METHODS,
    OWN,
    STEPS,
    Rule,
    materialized,
    method,
    methods,
    plan,
    plan_role,
    plans,
    plans_of,
    rules,
    views,
)
from trajkit.selection.select import run_method

ONE_ROW = "one row"
# What only the commands make, where a check or a step of `select` reads it.
MADE = ("chosen", "selected", "excerpts", "checked", "planned")


def named(rule: Rule, key: str) -> list[str]:
    """The header's value for `key` as the page of rules has it, read apart from trajkit.rules."""
    found = [line for line in rule.sql.splitlines() if line.startswith(f"-- {key}: ")]
    assert len(found) <= 1, f"{rule.name} declares {key} twice"
    return re.split(r", ", found[0].partition(": ")[2].rstrip(".")) if found else []


@pytest.mark.parametrize("rule", rules().values(), ids=str)
def test_a_header_says_what_it_is_and_its_grain(rule: Rule) -> None:
    assert rule.header.startswith(f"{rule.name}: ") and rule.title
    assert re.search(r"^One row( per |\.|:)", rule.header, re.MULTILINE)
    grain = named(rule, "Grain")
    assert grain, "no `-- Grain: columns.`"
    assert (grain == [ONE_ROW]) == bool(re.search(r"^One row[.:]", rule.header, re.MULTILINE))
    for line in rule.header.splitlines():  # a key with a slip in it would be passed over
        if slip := re.match(r"([A-Z]\w+( \w+)?): \S+(, \S+)*\.$", line):
            assert slip[1] in KEYS or slip[1] == "One row"


def test_what_headers_name_is_there() -> None:
    checks = {rule.name for rule in rules().values() if rule.kind == "checks"}
    for rule in rules().values():
        assert set(named(rule, "Plans")) <= set(plans())
        assert set(named(rule, "Ignores")) <= checks
        assert ("Role" in rule.keys) == (rule.kind == "plan" and rule.name != "done")
        assert "Rounds" not in rule.keys or rule.kind == "plan"
        assert ("Select refuses" in rule.keys) == (rule.kind == "checks")
        for refused in named(rule, "Select refuses"):
            words = refused.removeprefix("methods that read ").removesuffix(" itself")
            assert words in ("every method", "chosen trajectories", "nothing") or words in rules()


def distinct(runs: DuckDBEngine, rule: Rule, query: str) -> None:
    """Assert that the grain tells all rows of `query`, which is the rule's, apart."""
    grain = named(rule, "Grain")
    told = "1" if grain == [ONE_ROW] else ", ".join(f"r.{column}" for column in grain)
    [row] = runs.rows(f"SELECT count(*) AS n FROM ({query}) AS r")
    [apart] = runs.rows(f"SELECT count(*) AS n FROM (SELECT DISTINCT {told} FROM ({query}) AS r)")
    assert row == apart, f"{rule.name}: several rows with the same {told}"
    if grain == [ONE_ROW] and rule.name != "current_iteration":
        assert row["n"] <= 1


@settings(max_examples=10)  # each asks every rule
@given(world=worlds())
def test_the_grain_tells_every_row_apart(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of all views, and of the checks and warnings over all trajectories."""
    with DuckDBEngine(write(world, tmp_path_factory.mktemp("runs"))) as runs:
        for rule in materialized(rules().values()):
            runs.make(rule.name, rule.sql)
        runs.view("checked", "SELECT * FROM outcomes")
        for rule in rules().values():
            if rule.kind in ("checks", "warnings") or rule.name in views():
                distinct(runs, rule, runs.compose(rule.sql))


@pytest.mark.parametrize("name", ["nat", "eef", "eto_mixture", "step_rewards"])
@settings(max_examples=10)
@given(world=worlds())
def test_the_grain_of_the_steps_of_select(name: str, world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    with DuckDBEngine(write(world, tmp_path_factory.mktemp("runs"))) as runs:
        for rule in materialized([rules()[name]]):
            runs.make(rule.name, rule.sql)
        writes = run_method(runs, rules()[name])
        runs.make("selected", rules()[f"selected_{writes}"].sql)
        runs.make("excerpts", rules()[f"{writes.removesuffix('s')}_excerpts"].sql)
        others = {kind.removesuffix("s") for kind in METHODS} - {writes.removesuffix("s")}
        for rule in rules().values():
            if rule.kind == "select" and not any(re.search(rf"(\b|_){other}", rule.name) for other in others):
                distinct(runs, rule, runs.compose(rule.sql))


def test_every_column_has_a_meaning(tmp_path: Path) -> None:
    with DuckDBEngine(write(World(), tmp_path)) as runs:
        for name in views():
            columns = runs.columns(name)
            assert [column for column in columns if column not in column_meanings(name, columns)] == [], name
        shown = runs.rows("SELECT comment FROM duckdb_columns() WHERE table_name IN ('eef', 'trajectories')")
        assert shown and all(row["comment"] for row in shown)


def test_what_methods_take_and_want() -> None:
    """The plans are those of the papers: EEF, section 4.1; IPR, section 3.2."""
    wanted = {name: plans_of(rules()[name]) for name in methods()}
    assert {name for name, found in wanted.items() if "skip_length" in found} == {"eef", "eef_pairs"}
    assert {name for name, found in wanted.items() if "every_step" in found} == {"eto_step", "eto_mixture", "ipr"}
    assert {name for name, found in wanted.items() if "score_expert" in found} == {"step_rewards", "ipr"}
    assert {name for name in methods() if "scorer" in roles_read(rules()[name])} == {"step_rewards", "ipr"}
    assert [name for name in plans() if plan_role(rules()[name]) == "scorer"] == ["score_expert", "score_policy"]


def test_a_variant_wants_what_its_closure_wants(tmp_path: Path) -> None:
    own = tmp_path / "mine.sql"
    own.write_text("SELECT * FROM eef WHERE kind = 'recovery'")
    assert plans_of(method(str(own))) == ["skip_length"]
    own.write_text("-- mine: all.\n-- Plans: bisection.\nSELECT trajectory_id FROM outcomes")
    assert plans_of(method(str(own))) == ["bisection"]


def test_a_plan_of_ones_own_has_a_role(tmp_path: Path) -> None:
    own = tmp_path / "mine.sql"
    own.write_text("SELECT * FROM initial")
    assert (plan(str(own)).kind, plan_role(plan(str(own)))) == (OWN, "policy")
    own.write_text("-- mine: the judge's.\n-- Role: judge.\nSELECT * FROM initial")
    with pytest.raises(UsageError, match=r"Role: judge.*policy or scorer"):
        plan_role(plan(str(own)))


def test_steps_are_no_views() -> None:
    assert {rule.kind for rule in rules().values()} - {rule.kind for rule in views().values()} == set(STEPS)
    assert not set(MADE) & rules().keys()
