"""What must not change, whatever the world: and that `select` writes exactly what the rules chose."""

from __future__ import annotations

import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, target
from hypothesis import strategies as st
from invariants_helpers import TEXT, selected
from oracle import METHODS, PAIR_METHODS, RELATIONS, Oracle
from rules_helpers import FIGURE_1, answers
from worlds import Row, Traj, World, expert, layouts, params, policy, worlds, write

import trajkit
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.rules import METHODS as METHOD_KINDS
from trajkit.rules import code, rules
from trajkit.runs.schema import TABLES, arrow_schema
from trajkit.selection.select import select

Bag = Counter[tuple[tuple[str, Any], ...]]

methods = st.sampled_from(METHODS)


def bags(
    world: World, names: tuple[str, ...], params: dict[str, Any] | None = None, layout: int = 0, threads: int = 1
) -> dict[str, Bag]:
    """The engine's rows of these relations, as multisets."""
    with tempfile.TemporaryDirectory() as folder:
        write(world, Path(folder), layout)
        with DuckDBEngine(folder, params=params or {}, threads=threads) as runs:
            found = answers(runs, names)
    return {name: Counter(tuple(sorted(row.items())) for row in rows) for name, rows in found.items()}


def rows(bag: Bag) -> list[Row]:
    return [dict(items) for items in bag.elements()]


# --- the rules ---


@given(worlds(), params, layouts)
def test_nothing_depends_on_row_order_file_split_or_threads(world: World, params: dict[str, Any], layout: int) -> None:
    plain = bags(world, tuple(RELATIONS), params)
    other = bags(world, tuple(RELATIONS), params, layout=layout + 1, threads=2)
    assert [name for name in RELATIONS if plain[name] != other[name]] == []


@given(worlds(), params)
def test_every_example_is_allowed(world: World, params: dict[str, Any]) -> None:
    oracle = Oracle(world, params)
    found = bags(world, METHODS, params)
    for name in METHODS:
        for row in rows(found[name]):
            chosen = world.by_id[row["trajectory_id"]]
            assert oracle.train(chosen.id), f"{name} took held-out data"
            assert chosen.role in ("expert", "policy"), f"{name} took a {chosen.role}'s"
            assert chosen.ended not in ("error", "drift"), f"{name} took a broken trajectory"
            assert chosen.task == row["task_id"]
            assert 0 <= row["from_step"] < world.length(chosen.id), f"{name} trains on nothing"
            assert (row["kind"] == "recovery") == (row["expert_id"] is not None)
    examples = rows(found["eef"])
    per_task = Counter(row["task_id"] for row in examples if row["kind"] == "initial")
    per_expert = Counter(row["expert_id"] for row in examples if row["kind"] == "recovery")
    recovered = [tuple(oracle.path(r["expert_id"])[: r["from_step"]]) for r in examples if r["kind"] == "recovery"]
    assert len(recovered) == len(set(recovered)), "a state that experts share gave two examples"
    assert max([*per_task.values(), *per_expert.values()], default=1) == 1
    assert {row["kind"] for row in rows(found["nat"])} <= {"positive", "negative"}
    for name in METHODS[1:]:
        assert max(Counter(row["trajectory_id"] for row in rows(found[name])).values(), default=1) == 1
    target(float(len(per_expert)))


@given(worlds(), params)
def test_every_pair_is_allowed(world: World, params: dict[str, Any]) -> None:
    oracle = Oracle(world, params)
    found = bags(world, PAIR_METHODS, params)
    for name in PAIR_METHODS:
        assert max(found[name].values(), default=1) == 1, f"{name} has a pair twice"
        for row in rows(found[name]):
            end = row["end_step"]
            for side in ("chosen", "rejected"):
                taken = world.by_id[row[f"{side}_id"]]
                assert oracle.train(taken.id), f"{name} took held-out data"
                assert taken.role in ("expert", "policy"), f"{name} took a {taken.role}'s"
                assert taken.ended not in ("error", "drift"), f"{name} took a broken trajectory"
                assert taken.task == row["task_id"]
                value = taken.reward if taken.reward is not None else taken.success
                assert row[f"{side}_reward"] == value is not None, f"{name} compares what has no outcome"
                assert 0 <= row["from_step"] < world.length(taken.id), f"{name} compares nothing"
                assert end is None or row["from_step"] < end <= world.length(taken.id)
            assert row["level"] == "step" or (row["from_step"], end) == (0, None)
            assert (name == "self_play") <= (row["level"] == "trajectory")
            assert name == "eef_pairs" or row["chosen_reward"] > row["rejected_reward"], name
            assert oracle.share_state(row["chosen_id"], row["rejected_id"], row["from_step"]), name
            said = [oracle.actions(row[f"{side}_id"])[row["from_step"] : end] for side in ("chosen", "rejected")]
            assert name == "eef_pairs" or said[0] != said[1], f"{name} has a pair of the same words"
    pairs = {(row["level"], frozenset((row["chosen_id"], row["rejected_id"]))) for row in rows(found["eto_mixture"])}
    assert len(pairs) == found["eto_mixture"].total(), "both ways round"
    assert found["eto_mixture"] == found["eto"] + found["eto_step"]
    target(float(found["ipr"].total()))


@given(worlds(), params)
def test_ipr_has_etos_rows_and_step_pairs_the_fewer_the_higher_tau_is(world: World, params: dict[str, Any]) -> None:
    low = bags(world, ("ipr", "eto"), {**params, "tau": 0.0})
    high = bags(world, ("ipr",), {**params, "tau": 1e300})
    assert high["ipr"] == low["eto"] <= low["ipr"]


@given(worlds(), params)
def test_self_play_needs_no_expert(world: World, params: dict[str, Any]) -> None:
    """With every expert's trajectory made a scorer's, so that its branches stay."""
    others = replace(world, trajs=tuple(replace(t, role="scorer") if t.role == "expert" else t for t in world.trajs))
    found = bags(others, PAIR_METHODS, params)
    assert found["self_play"] == bags(world, ("self_play",), params)["self_play"]
    assert [name for name in PAIR_METHODS if found[name]] in ([], ["self_play"])


@given(worlds(), params, st.randoms(use_true_random=False))
def test_other_names_change_nothing_but_names(world: World, params: dict[str, Any], rng: random.Random) -> None:
    """Any names where nothing is a tie; names of the same order where the smallest decides."""
    free, ranked = ("expert_rollouts", "repeated_actions", "step_rewards", "eto_step", "self_play"), PAIR_METHODS
    ids = [t.id for t in world.trajs]
    before = bags(world, (*free, *ranked), params)
    for names, new in (
        (free, dict(zip(ids, rng.sample(ids, len(ids)), strict=True))),
        (ranked, {i: "_" + i for i in ids}),
    ):
        trajs = tuple(replace(t, id=new[t.id], parent=t.parent and new[t.parent]) for t in world.trajs)
        renamed = replace(world, trajs=trajs)
        after = bags(renamed, names, params)
        for name in names:
            wanted = [
                {key: new[value] if key.endswith("_id") and key != "task_id" else value for key, value in row.items()}
                for row in rows(before[name])
            ]
            assert Counter(tuple(sorted(row.items())) for row in wanted) == after[name], name


def pinned(world: World) -> dict[str, Any]:
    """Parameters that keep the iteration where it is, whatever is added."""
    return {"iteration": Oracle(world).current_iteration()[0]["iteration"] or 0}


@given(worlds(), st.integers(0, 20))
def test_a_worse_solution_changes_nothing(world: World, which: int) -> None:
    """The chosen trajectory with one needless action more: as many expert actions, but longer."""
    now = pinned(world)
    examples = Oracle(world, now).eef()
    assume(examples)
    chosen = examples[which % len(examples)]["trajectory_id"]
    end = world.length(chosen)
    assume(all(state["step"] < end for state in Oracle(world, now).important_states()))
    task = world.by_id[chosen].task
    worse = policy("worse", "a", task=task, parent=chosen, at=end, iteration=9, success=True)
    assert bags(world, ("eef",), now) == bags(world.plus(worse), ("eef",), now)


@given(worlds(), st.integers(0, 20))
def test_a_better_solution_changes_only_its_own_task(world: World, which: int) -> None:
    """One action from s_0 in a later iteration: nothing is better."""
    now = pinned(world)
    tasks = sorted({t.task for t in world.trajs if Oracle(world).train(t.id)})
    assume(tasks)
    task = tasks[which % len(tasks)]
    better = policy("better", "U", task=task, iteration=9, reward=99.0, success=True)
    before, after = bags(world, METHODS, now), bags(world.plus(better), METHODS, now)
    for name in METHODS:
        changed = (before[name] - after[name]) + (after[name] - before[name])
        assert {row["task_id"] for row in rows(changed)} <= {task}, name
    recoveries = [[row for row in rows(found["eef"]) if row["kind"] == "recovery"] for found in (before, after)]
    assert sorted(map(str, recoveries[0])) == sorted(map(str, recoveries[1]))
    [initial] = [row for row in rows(after["eef"]) if row["kind"] == "initial" and row["task_id"] == task]
    assert initial["trajectory_id"] == "better"


@given(worlds(), params)
def test_what_no_rule_may_use_may_as_well_not_be_there(world: World, params: dict[str, Any]) -> None:
    """What is no outcome, held out, or a scorer's; but not what others branch from."""
    unscored = tuple(name for name in PAIR_METHODS if name != "ipr")
    oracle = Oracle(world)
    without = without_idle(world, lambda t: _unused(t) or not oracle.train(t.id))
    assume(without != world)
    before = bags(world, (*METHODS, *PAIR_METHODS, "step_rewards"), params)
    after = bags(without, (*METHODS, *unscored), params)
    assert {name: before[name] for name in after} == after
    # A scorer's rollout counts where a step's reward is asked for, but not if it is held out or broken.
    scored = without_idle(
        world, lambda t: not oracle.train(t.id) or (_unused(t) and (t.role != "scorer" or _broken(t)))
    )
    after = bags(scored, ("ipr", "step_rewards"), params)
    assert {name: before[name] for name in after} == after


def without_idle(world: World, unused: Callable[[Traj], bool]) -> World:
    """The world without what is unused and no parent of another, as long as there is such, and as long as the tasks
    that are left have the same split and environment as before: a trajectory speaks for others of its task."""

    def task_worlds(world: World) -> dict[str, Row]:
        return {row["task_id"]: row for row in Oracle(world).task_worlds()}

    before, kept = task_worlds(world), set()
    while idle := [
        t.id
        for t in world.trajs
        if unused(t) and t.id not in kept and t.id not in {other.parent for other in world.trajs}
    ]:
        less = world.without(idle[0])
        after = task_worlds(less)
        if all(after[task] == before[task] for task in after):
            world = less
        else:
            kept.add(idle[0])
    return world


def _broken(t: Traj) -> bool:
    return t.ended in ("error", "drift")


def _unused(t: Traj) -> bool:
    """An expert's trajectory without a verdict is used: its states are simulated, and sft_all takes it."""
    no_verdict = t.reward is None and t.success is None
    return _broken(t) or (no_verdict and t.role != "expert") or t.role == "scorer"


# --- what select writes ---


def expected(oracle: Oracle, method: str) -> list[Row]:
    """The examples in plain Python, without their ids."""
    examples = []
    for row in RELATIONS[method](oracle):
        id, from_step = row["trajectory_id"], row["from_step"]
        own = oracle.t[id]
        weighted = oracle.weighted(id, from_step)
        trained = [message for message, weight in weighted if weight]
        if not trained:
            continue
        examples.append(
            {
                **{name: value for name, value in row.items() if name != "suffix"},
                "method": method,
                "env": oracle.env(id),
                "n_steps": oracle.n_actions(id),
                "n_trained_steps": len(trained),
                "n_expert_steps": sum(oracle.t[message["trajectory_id"]]["role"] == "expert" for message in trained),
                "reward": own["reward"],
                "iteration": oracle.iteration(id),
                "tools": own["tools"],
                "messages": [
                    {**{key: message[key] for key in TEXT}, "weight": weight, "token_ids": message.get("token_ids")}
                    for message, weight in asked(weighted, row.get("suffix"))
                ],
            }
        )
    return examples


def asked(messages: list[tuple[Row, float]], suffix: str | None) -> list[tuple[Row, float]]:
    """The same, but that the last user message before the first action ends with NAT's suffix, after a blank line."""
    if suffix is None:
        return messages
    first = [m["role"] == "assistant" and not m["context"] for m, _ in messages].index(True)
    at = max(number for number, (m, _) in enumerate(messages[:first]) if m["role"] == "user")
    m, weight = messages[at]
    return [*messages[:at], ({**m, "content": f"{m['content']}\n\n{suffix}"}, weight), *messages[at + 1 :]]


def sort_key(row: Row) -> str:
    return repr((row["trajectory_id"], row["kind"], row["expert_id"]))


@given(worlds(), params, methods, layouts)
def test_select_writes_what_the_oracle_chose(world: World, params: dict[str, Any], method: str, layout: int) -> None:
    found, _, _ = selected(world, method, params, layout)
    want = sorted(expected(Oracle(world, params), method), key=sort_key)
    have = sorted(found, key=sort_key)
    assert [sort_key(row) for row in have] == [sort_key(row) for row in want]
    for got, right in zip(have, want, strict=True):
        wrong = {name: (got[name], right[name]) for name in right if got[name] != right[name]}
        assert not wrong, f"{right['trajectory_id']}: got, wanted {wrong}"
        trained = [message["weight"] for message in got["messages"]]
        assert sum(weight > 0 for weight in trained) == got["n_trained_steps"] > 0
    ids = [row["example_id"] for row in found]
    assert ids == sorted(ids) and len(set(ids)) == len(ids)


@given(worlds(), params, methods, layouts)
def test_select_writes_the_same_bytes(world: World, params: dict[str, Any], method: str, layout: int) -> None:
    _, _, plain = selected(world, method, params)
    _, _, other = selected(world, method, params, layout + 1, threads=2)
    assert plain == other


def test_select_on_figure_1() -> None:
    found, footer, _ = selected(FIGURE_1, "eef")
    initial, recovery = sorted(found, key=lambda row: row["kind"])
    assert (initial["trajectory_id"], recovery["trajectory_id"]) == ("pl", "p3l")
    # pl: the expert's first two actions and its own two, all trained on.
    assert [(m["content"], m["weight"]) for m in initial["messages"]] == [
        ("e sees 0", 0), ("go a", 1), ("e sees 1", 0), ("go a", 1),
        ("pl sees 2", 0), ("go b", 1), ("pl sees 3", 0), ("go b", 1), ("pl sees 4", 0),
    ]  # fmt: skip
    # p3l: the expert's first six actions and its own one, of which those from s_4 on are trained on.
    assert [m["weight"] for m in recovery["messages"] if m["role"] == "assistant"] == [0, 0, 0, 0, 1, 1, 1]
    assert (recovery["n_steps"], recovery["n_trained_steps"], recovery["n_expert_steps"]) == (7, 3, 2)
    said = "\n".join(f"{key}={value}" for key, value in footer.items())
    for what in ("method", "eef", "success_reward", "solved_rate", trajkit.__version__, "fingerprint"):
        assert what in said, f"the footer does not say {what}: {said}"


def fingerprint(world: World, layout: int = 0) -> list[str]:
    return [value for key, value in selected(world, "eef", layout=layout)[1].items() if "fingerprint" in key]


@pytest.mark.parametrize("layout", [1, 7, 12])
def test_the_fingerprint_is_the_inputs(layout: int) -> None:
    """It stays with the same rows in other files, and changes with any of them."""
    assert fingerprint(FIGURE_1) == fingerprint(FIGURE_1, layout=layout)
    assert fingerprint(FIGURE_1) != fingerprint(FIGURE_1.plus(policy("more", "a")))


def read_by_rules(table: str) -> list[str]:
    """The columns of a table that any rule (a table, plan, method or step of select) names."""
    kinds = {"concepts", "plan", *METHOD_KINDS, "select"}
    said = " ".join(code(r.sql) for r in rules().values() if r.kind in kinds and r.name != "input_fingerprint")
    return [field.name for field in TABLES[table] if re.search(rf"\b{field.name}\b", said)]


@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table in ("trajectories", "tasks") for column in read_by_rules(table)]
)
def test_the_fingerprint_changes_with_every_column_that_a_rule_reads(tmp_path: Path, table: str, column: str) -> None:
    """Whatever the schema has: each column of one row is made another value, and null where it may be that."""
    kind, required = next((field.type, field.required) for field in TABLES[table] if field.name == column)
    values: dict[str, tuple[Any, Any]] = {
        "VARCHAR": ("one", "other"), "INTEGER": (3, 4), "BIGINT": (3, 4), "BOOLEAN": (True, False),
        "DOUBLE": (0.5, 0.5 + 2**-53), "TIMESTAMP": (datetime(2026, 1, 1), datetime(2026, 1, 2)),
    }  # fmt: skip
    row = {"trajectory_id": "id", "task_id": "task", "role": "policy", "branch_step": 2, "n_steps": 2}
    if table == "tasks":
        row = {"task_id": "task"}

    def digest(value: Any) -> Any:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        for name, rows in (("trajectories", [_PLAIN]), (table, [row | {column: value}])):
            typed = pa.schema([arrow_schema(name).field(key) for key in rows[0]])
            pq.write_table(pa.Table.from_pylist(rows, typed), folder / f"{name}-{len(list(folder.iterdir()))}.parquet")
        with DuckDBEngine(folder) as runs:
            return runs.rows(runs.compose(rules()["input_fingerprint"].sql))[0]["fingerprint"]

    digests = [digest(value) for value in (*values[kind], *[None] * (not required))]
    assert None not in digests and len(set(digests)) == len(digests)


# A trajectory of another task, so that there is always one.
_PLAIN = {"trajectory_id": "plain", "task_id": "plain", "role": "expert", "branch_step": 0, "n_steps": 1}


@pytest.mark.parametrize("method", METHODS)
def test_select_from_nothing_useful_writes_an_empty_table(method: str) -> None:
    """No outcome at all: a table with every column and no row, which a pipeline can go on with."""
    world = World((expert("e", "aa", ended="error"), policy("p", "a", ended="drift")))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "sft.parquet"
        select(write(world, Path(folder) / "runs"), out, method=method, params={}, allow_empty=True)
        table = pq.read_table(out)
    assert table.num_rows == 0
    assert {"example_id", "messages", "from_step"} <= set(table.column_names)
