"""Worlds to test the rules in: whole `runs/` folders as plain rows, small so that ties and coincidences are common.

A world is a list of `Traj`, each written as one short line, from which the rows of the tables follow.
`worlds()` draws one; `write()` lays it out as Parquet files by hand, not with the project's writer.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from trajkit.runs.records import actions_digest

Row = dict[str, Any]

MAX_DEPTH = 4

# An action is one letter: a, b are plain text; r is a's text with a reasoning; T and U are tool calls without text.
ACTIONS = {
    "a": {"content": "go a"},
    "b": {"content": "go b"},
    "r": {"content": "go a", "reasoning": "because"},
    "T": {"content": None, "call": {"name": "click", "arguments": '{"on": "é"}'}},
    "U": {"content": None, "call": {"name": "click", "arguments": '{"on": "b"}'}},
}

# Bits of Traj.style: how its messages look and what its row leaves out. None of it matters to any rule.
SYSTEM, EXAMPLE, CANNED, NO_CLOSING, TWO_PART, DIGEST, TOOLS, MARKED = (1 << bit for bit in range(8))
MARKS = (0.5, 0.0, None, 1.0, 0.0)  # of a marked trajectory's actions, by their step: their source's loss marks


@dataclass(frozen=True)
class Traj:
    """One trajectory. `actions` are its own; `parent` and `at` say which state it branches from."""

    id: str
    role: str
    actions: str = ""
    task: str = "t"
    parent: str | None = None
    at: int = 0
    iteration: int | None = 0
    sample: int | None = 0
    reward: float | None = None
    success: bool | None = None
    ended: str | None = "done"
    split: str | None = None
    actor: str | None = None
    env: str | None = None
    style: int = 0

    def __repr__(self) -> str:
        """Only what differs from the defaults, so that a failing world can be read."""
        given = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"Traj({', '.join(given)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What Hypothesis prints."""
        printer.text(repr(self))


def expert(id: str, actions: str, **given: Any) -> Traj:
    """An expert's trajectory; failed unless told otherwise."""
    return Traj(id, "expert", actions, **{"reward": 0.0, **given})


def policy(id: str, actions: str, **given: Any) -> Traj:
    """A policy's rollout of iteration 1; failed unless told otherwise."""
    return Traj(id, "policy", actions, **{"reward": 0.0, "iteration": 1, **given})


@dataclass(frozen=True)
class World:
    """Trajectories and what follows from them: the rows of the three tables, each row once."""

    trajs: tuple[Traj, ...] = ()
    tasks: tuple[Row, ...] = field(default=())

    def plus(self, *more: Traj) -> World:
        return replace(self, trajs=self.trajs + more)

    def without(self, *ids: str) -> World:
        return replace(self, trajs=tuple(t for t in self.trajs if t.id not in ids))

    @cached_property
    def by_id(self) -> dict[str, Traj]:
        return {t.id: t for t in self.trajs}

    def length(self, id: str) -> int:
        """Actions on the whole path."""
        return self.by_id[id].at + len(self.by_id[id].actions)

    def depth(self, id: str) -> int:
        parent = self.by_id[id].parent
        return 0 if parent is None else 1 + self.depth(parent)

    @cached_property
    def trajectories(self) -> list[Row]:
        return [
            {
                "trajectory_id": t.id,
                "task_id": t.task,
                "env": t.env,
                "split": t.split,
                "role": t.role,
                "actor": t.actor,
                "iteration": t.iteration,
                "sample": t.sample,
                "parent_id": t.parent,
                "branch_step": t.at,
                "n_steps": len(t.actions),
                "reward": t.reward,
                "success": t.success,
                "ended": t.ended,
                "error": "the server died" if t.ended in ("error", "drift") else None,
                "actions_digest": actions_digest(self._own[t.id]) if t.style & DIGEST else None,
                "tools": '[{"type":"function","function":{"name":"click"}}]' if t.style & TOOLS else None,
            }
            for t in self.trajs
        ]

    @cached_property
    def messages(self) -> list[Row]:
        return [row for t in self.trajs for row in self._own[t.id]]

    @cached_property
    def _own(self) -> dict[str, list[Row]]:
        """Every trajectory's own messages, numbered."""
        own: dict[str, list[Row]] = {}

        def before(t: Traj) -> int:
            """How many messages of the parent's path come before the state that t starts from."""
            if t.parent is None or t.at == 0:
                return 0
            parent = self.by_id[t.parent]
            inherited = before(parent) if t.at > parent.at else before(replace(parent, at=t.at))
            return inherited + sum(row["step"] < t.at for row in own_of(parent))

        def own_of(t: Traj) -> list[Row]:
            if t.id not in own:
                own[t.id] = [
                    {"trajectory_id": t.id, "seq": seq, **row} for seq, row in enumerate(_talk(t), start=before(t))
                ]
            return own[t.id]

        for t in self.trajs:
            own_of(t)
        return own


def _talk(t: Traj) -> Iterator[Row]:
    """The messages of one trajectory's own part; the texts name it, so that a mix-up shows."""

    def say(step: int, role: str, content: str | None, **more: Any) -> Row:
        row = {"step": step, "role": role, "content": content, "reasoning": None, "tool_calls": None}
        return {**row, "tool_call_id": None, "name": None, "context": None, "weight": None, **more}

    if t.at == 0:
        if t.style & SYSTEM:
            yield say(0, "system", f"You are {t.id}.")
        if t.style & EXAMPLE:
            yield say(0, "user", "An example.")
            yield say(0, "assistant", "go a", context=True)
    yield say(t.at, "user", f"{t.id} sees {t.at}")
    for step, letter in enumerate(t.actions, start=t.at):
        action = ACTIONS[letter]
        calls = None
        if "call" in action:  # ids are drawn anew by a server at every call: no part of the action
            calls = json.dumps([{"id": f"{t.id}-{step}", "type": "function", "function": action["call"]}])
        explicit = False if t.style & CANNED else None
        reasoning = action.get("reasoning")
        said = {"reasoning": reasoning, "tool_calls": calls, "context": explicit}
        mark = MARKS[step % len(MARKS)] if t.style & MARKED else None
        yield say(step, "assistant", action["content"], **said, weight=mark)
        if t.style & CANNED:
            yield say(step + 1, "assistant", "OK.", context=True)
        if step + 1 == t.at + len(t.actions) and t.style & NO_CLOSING:
            continue
        if calls:
            yield say(step + 1, "tool", f"{t.id} sees {step + 1}", tool_call_id=f"{t.id}-{step}", name="click")
        else:
            yield say(step + 1, "user", f"{t.id} sees {step + 1}")
        if t.style & TWO_PART:
            yield say(step + 1, "user", "")


# Ids that sort differently by byte, by UTF-16 unit, by locale, by number and by letter case.
IDS = (
    *("a", "B", "b", "A", "10", "9", "é", "e\u0301", "z", "Z", "\uff5e", "\U0001d54f", "ß"),
    *("a b", "a'b", "%_", "~", '"', "\\", "x" * 300),
    *(f"{stem}{n}" for n in (1, 2, 3, 10, 11, 20) for stem in ("a", "A", "_", "日本", "-", "|", "a|")),
)

# Few and short, so that action sequences coincide.
ACTION_SEQUENCES = ("a", "ab", "b", "aba", "", "bb", "a", "ab", "aT", "T", "U", "r")
EXPERT_SEQUENCES = ("aab", "ab", "abab", "a", "aaaaa", "", "abTaab")

SOLVED = [
    {"reward": 1.0}, {"reward": 1.0, "success": True, "ended": None}, {"success": True}, {"reward": 2.0},
    {"reward": 0.0, "success": True, "ended": "max_steps"}, {"reward": -1.0, "success": True},
]  # fmt: skip
FAILED = [
    {"reward": 0.0}, {"reward": 0.0, "success": False, "ended": "max_steps"}, {"success": False}, {"reward": 0.5},
    {"reward": 1.0, "success": False}, {"reward": -1.0, "ended": "max_tokens"}, {"reward": 1 - 2**-53, "ended": None},
]  # fmt: skip
NO_OUTCOME = [
    {"reward": 0.0, "ended": "error"}, {}, {"reward": 1.0, "success": True, "ended": "drift"}, {"ended": None},
    {"success": False, "ended": "drift"}, {"reward": 1.0, "ended": "error"}, {"ended": "max_steps"},
]  # fmt: skip

# What the scorer's rollouts end with: few enough to tie, and floats whose sum depends on the order.
SCORES = [
    {"reward": 0.0}, {"reward": 1.0}, {"reward": 0.1}, {"reward": 0.2}, {"reward": 0.3}, {"reward": 0.7},
    {"success": True}, {"success": False}, {"reward": 0.5, "success": True}, {"reward": -1.0}, *NO_OUTCOME[:3],
]  # fmt: skip

params = st.fixed_dictionaries(
    {},
    optional={
        "success_reward": st.sampled_from([1.0, 0.5, 0.0, -1.0]),
        "solved_rate": st.sampled_from([0.5, 1.0, 1 / 3, 0.01]),
        "m": st.integers(1, 7),
        "samples": st.integers(1, 3),
        "per_task": st.integers(1, 3),
        "iteration": st.integers(0, 3),
        "n": st.integers(1, 4),
        "tau": st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        "scorer": st.sampled_from(["sft", "gpt-4", "nobody"]),
        "right_prompt": st.sampled_from(["Do it right.", "\U0001d54f\n'--"]),
        "wrong_prompt": st.just("Do it wrong."),
    },
)
layouts = st.integers(0, 2**16)


@st.composite
def _scored(draw: Callable[[st.SearchStrategy[Any]], Any], world: World, parent: str, at: int) -> World:
    """The world with up to three rollouts of scorers from this state."""
    for _ in range(draw(st.sampled_from((0, 1, 2, 2, 3))) if world.depth(parent) < MAX_DEPTH else 0):
        spec = Traj(
            f"mc{len(world.trajs)}", "scorer", draw(st.sampled_from(("", "b"))), world.by_id[parent].task, parent, at,
            sample=draw(st.sampled_from((0, 1, 2, None))),
            actor=draw(st.sampled_from(("sft", "sft", None, "gpt-4"))),
            split=world.by_id[parent].split,
            **draw(st.sampled_from(SCORES)),
        )  # fmt: skip
        world = world.plus(spec)
    return world


@st.composite
def worlds(draw: Callable[[st.SearchStrategy[Any]], Any], max_tasks: int = 3) -> World:
    """A world of consistent rows: in each task a few free trajectories, then an exploration of some expert's states.

    Then, as the preference methods have it, a few states are explored once more and some actions are scored.
    """
    unused = list(IDS)
    world = World()
    tasks: list[Row] = []
    usual = draw(st.integers(0, 3))  # most rollouts are of one iteration, or few states would have two
    mixed_splits, mixed_envs = draw(st.integers(0, 4)) == 4, draw(st.integers(0, 9)) == 9  # tasks in conflict
    for number in range(draw(st.integers(1, max_tasks))):
        task = draw(st.sampled_from(("t", "T", "ü", "\U0001d54f"))) + str(number)
        split = draw(st.sampled_from((None, "train", None, "train", "test", None, "dev")))
        listed = draw(st.integers(0, 2))  # rows of the table tasks, each in some file
        says = draw(st.sampled_from(("all", "some", "tasks")))  # who says the split
        mine: list[str] = []

        def split_of_one() -> str | None:
            one = draw(st.sampled_from({"all": (split,), "some": (split, None), "tasks": (None,)}[says]))  # noqa: B023
            return draw(st.sampled_from((one, one, one, "test"))) if mixed_splits else one

        def env_of_one() -> str | None:
            return draw(st.sampled_from((None, "shop", "shop", *(["barn"] * mixed_envs))))

        for _ in range(draw(st.integers(0, 6))):
            id = unused.pop(draw(st.integers(0, len(unused) - 1)))
            later = ("expert", "policy", "policy", "policy", "policy", "scorer")
            role = draw(st.sampled_from(later if mine else ("expert", "expert", "policy")))
            parents = [p for p in mine if world.depth(p) < MAX_DEPTH and world.by_id[p].role != "scorer"]
            # Experts mostly start at s_0, and rollouts mostly branch from the first trajectory of the task.
            if not parents or draw(st.integers(0, 3 if role == "policy" else 1)) == 0:
                parent, at = None, 0
            else:
                parent = draw(st.sampled_from([parents[0], *parents]))
                at = draw(st.integers(0, world.length(parent)))
            actions = draw(st.sampled_from(ACTION_SEQUENCES if mine or role == "policy" else EXPERT_SEQUENCES))
            ends = draw(st.sampled_from((SOLVED, FAILED, SOLVED, FAILED, NO_OUTCOME)))
            if role == "policy":
                iteration = draw(st.sampled_from((usual, usual, usual, 0, 1, 2, 3, None)))
            else:
                iteration = draw(st.sampled_from((0, 0, None, 1)))
            spec = Traj(
                id, role, actions, task, parent, at, iteration,
                sample=draw(st.sampled_from((0, 0, 1, 2, None))),
                split=split_of_one(),
                actor=draw(st.sampled_from((None, "gpt-4"))),
                env=env_of_one(),
                style=draw(st.integers(0, 2**8 - 1)),
                **draw(st.sampled_from(ends)),
            )  # fmt: skip
            world = world.plus(spec)
            mine.append(id)
        experts = [id for id in mine if world.by_id[id].role == "expert"]
        if experts:
            explored = draw(st.sampled_from(experts))
            for at in range(world.length(explored) + 1):
                if ends := draw(st.sampled_from(((), FAILED, SOLVED, FAILED, SOLVED, NO_OUTCOME))):
                    id = unused.pop(draw(st.integers(0, len(unused) - 1)))
                    actions = draw(st.sampled_from(ACTION_SEQUENCES))
                    outcome = draw(st.sampled_from(ends))
                    split_there = split_of_one()
                    spec = Traj(id, "policy", actions, task, explored, at, usual, split=split_there, **outcome)
                    world = world.plus(spec)
            # Once more from a few states, scored as IPR does: after the rollout's action and after the expert's own.
            for _ in range(draw(st.integers(0, 3)) if world.length(explored) else 0):
                id = unused.pop(draw(st.integers(0, len(unused) - 1)))
                at = draw(st.integers(0, world.length(explored) - 1))
                actions = draw(st.sampled_from(("ab", "bb", "ba", "b", "aab")))
                outcome = draw(st.sampled_from(draw(st.sampled_from((FAILED, FAILED, SOLVED)))))
                split_there = split_of_one()
                world = world.plus(Traj(id, "policy", actions, task, explored, at, usual, split=split_there, **outcome))
                for parent in (explored, id):
                    world = draw(_scored(world, parent, at + 1))
        acted = [t.id for t in world.trajs if t.task == task and t.role != "scorer" and world.length(t.id)]
        for parent in draw(st.lists(st.sampled_from(acted), max_size=3)) if acted else ():
            world = draw(_scored(world, parent, draw(st.integers(1, world.length(parent)))))
        tasks += [
            {"task_id": task, "env": env_of_one(), "split": split if n == 0 else split_of_one(), "meta": None}
            for n in range(listed)
        ]
    if draw(st.booleans()):
        split = draw(st.sampled_from((None, "test")))
        tasks.append({"task_id": "only listed", "env": "shop", "split": split, "meta": "{}"})
    return replace(world, tasks=tuple(tasks))


# --- writing it, by hand ---

_TYPES = {
    "branch_step": pa.int32(), "n_steps": pa.int32(), "iteration": pa.int32(), "sample": pa.int32(),
    "seq": pa.int32(), "step": pa.int32(), "reward": pa.float64(), "success": pa.bool_(), "context": pa.bool_(),
    "weight": pa.float32(),
    "token_ids": pa.list_(pa.int32()),
}  # fmt: skip
_REQUIRED = {
    "trajectories": ("trajectory_id", "task_id", "role", "branch_step", "n_steps"),
    "messages": ("trajectory_id", "seq", "step", "role", "content"),
    "tasks": ("task_id",),
}
# Folders and names a user may have; a reader that takes key=value folders for columns, or [ ] for a glob, goes wrong.
_FOLDERS = (".", "run", "run/part-1", "a/b/c", "it's mine", "split=test", "iteration=9/x", "with [brackets]", "ünï")
_SUFFIXES = ("", "-2", "_x", "0001", ".part", "-é")


def write(world: World, folder: Path, layout: int = 0) -> Path:
    """Write `world` below `folder` and return it. Layout 0 is the plain one; any other number draws one.

    A drawn layout shuffles rows, spreads them over files and folders, writes some trajectories twice,
    leaves out optional columns that would be all null, widens integers and strings, and (where nothing
    is written twice, for copies must be alike) adds columns that nobody knows.
    """
    rng = random.Random(layout)
    twice = {t.id for t in world.trajs if rng.random() < 0.15}
    for table in _REQUIRED:
        rows: list[Row] = list(getattr(world, table))
        if not layout:
            if rows or table != "tasks":
                _write(rows, table, folder / "run" / f"{table}.parquet")
            continue
        rows += [row for row in rows if row.get("trajectory_id") in twice]
        rng.shuffle(rows)
        places = [(where, suffix) for where in _FOLDERS for suffix in _SUFFIXES]
        chosen = rng.sample(places, rng.randint(1, 4))
        parts: list[list[Row]] = [[] for _ in chosen]
        for row in rows:
            rng.choice(parts).append(row)
        for (where, suffix), part in zip(chosen, parts, strict=True):
            if part or table != "tasks":
                _write(part, table, folder / where / f"{table}{suffix}.parquet", rng, unknown=not twice)
    return folder


def _write(rows: list[Row], table: str, path: Path, rng: random.Random | None = None, unknown: bool = False) -> None:
    columns = list(rows[0]) if rows else list(_REQUIRED[table])
    arrays: dict[str, pa.Array] = {}
    for name in columns:
        kind = _TYPES.get(name, pa.string())
        values = [row[name] for row in rows]
        if rng and name not in _REQUIRED[table] and not any(value is not None for value in values):
            if rng.random() < 0.5:
                continue
            if rng.random() < 0.3:
                kind = pa.null()  # what a data frame library writes for a column of nothing
        elif rng and rng.random() < 0.3:
            kind = {pa.int32(): pa.int64(), pa.string(): pa.large_string()}.get(kind, kind)
        arrays[name] = pa.array(values, kind)
    if rng and unknown and rng.random() < 0.5:
        arrays["nobody_knows"] = pa.array([rng.choice([None, 1.5]) for _ in rows], pa.float64())
    if rng:
        arrays = dict(rng.sample(list(arrays.items()), len(arrays)))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays), path)
