"""The tasks of a report: an index to search, and chunks with their trajectories and messages, each packed by itself.

Everything is read in the order of the tasks, one task at a time, so that memory does not grow with the runs. Texts that
repeat within a chunk lie there once. Where all would not fit `BYTES`, texts are cut, and the index says so.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trajkit.console import STEERING, bar
from trajkit.engines.duckdb import MADE, DuckDBEngine
from trajkit.rules import rules
from trajkit.selection.select import LAID_OUT, Summary

Row = tuple[Any, ...]

BYTES = 64 * 2**20  # of all packed tasks: what a browser on a laptop opens in about a second
CHUNK_TASKS = 50
CHUNK_CHARACTERS = 2 * 2**20
SAMPLED_TASKS = 60
SHOWN_CHARACTERS = 300  # of an instruction, in the list
ROWS = 2_048
ROLES = ("expert", "policy", "scorer", "system", "user", "assistant", "tool")
SOLVERS = ("policy", "expert", "branch", "unsolved", "none")


class Cut(NamedTuple):
    """How much of the messages lies in the report: `text` characters of each text, and of whose trajectories."""

    text: int
    everybody: bool  # False: only experts' and chosen trajectories' messages


CUTS = (*(Cut(text, True) for text in (20_000, 5_000, 2_000, 1_000, 500, 250)), Cut(500, False), Cut(250, False))

# One row per task that has a trajectory, in the order in which they are packed.
TASKS = """
SELECT row_number() OVER (ORDER BY split != 'train', split, task_id) - 1 AS number, *
FROM (
    SELECT o.task_id, coalesce(min(o.split), 'in conflict') AS split, min(o.env) AS env,
        count(*) AS n_trajectories, count(CASE WHEN o.solved THEN 1 END) AS n_solved,
        max(CASE WHEN o.role = 'expert' THEN o.value END) AS expert_value,
        max(CASE WHEN o.role = 'policy' THEN o.value END) AS policy_value,
        min(CASE WHEN o.branch_step = 0 THEN {'place': o.role != 'expert', 'id': o.trajectory_id} END) AS first
    FROM outcomes AS o GROUP BY o.task_id
)
"""
TRAJECTORIES = """
SELECT row_number() OVER (
        ORDER BY k.number, list_position(['expert', 'policy', 'scorer'], o.role), o.iteration, o.branch_step, o.sample,
            o.trajectory_id
    ) - 1 AS row_number, k.number, o.*, t.actor, t.error
FROM outcomes AS o JOIN trajectories AS t USING (trajectory_id) JOIN report_tasks AS k ON k.task_id = o.task_id
"""
# What the list shows of a task: the last thing that the user said before the first action.
INSTRUCTIONS = """
SELECT k.number, k.env, max_by(left(m.content, 4000), m.seq) AS text
FROM report_tasks AS k JOIN messages AS m ON m.trajectory_id = k.first.id
WHERE m.step = 0 AND m.role = 'user' GROUP BY k.number, k.env
"""
# Rows of task_id, trajectory_id, kind, side, expert_id, from_step, end_step, row_number, step_values.
ANSWERS = {
    "examples": "SELECT task_id, trajectory_id, kind, 'trained' AS side, expert_id, from_step, NULL::INT AS end_step, "
    "row_number, NULL AS step_values FROM selected",
    "pairs": "SELECT p.task_id, s.id AS trajectory_id, p.level AS kind, s.side, NULL AS expert_id, p.from_step, "
    "p.end_step, p.row_number, NULL AS step_values FROM selected AS p, LATERAL (SELECT unnest(["
    "{'side': 'chosen', 'id': p.chosen_id}, {'side': 'rejected', 'id': p.rejected_id}], recursive := true)) AS s",
    "values": "SELECT task_id, trajectory_id, 'values' AS kind, 'valued' AS side, NULL AS expert_id, from_step, "
    "NULL::INT AS end_step, row_number, CAST(to_json(step_values) AS VARCHAR) AS step_values FROM selected",
}


@dataclass
class Packed:
    """What was packed. `cut_texts`: texts of which only a part is. `without_messages`: tasks that have none."""

    cut: Cut
    of_tasks: int  # all that there are
    tasks: int = 0
    trajectories: int = 0
    messages: int = 0
    cut_texts: int = 0
    other_trajectories: int = 0  # without messages, as their text did not fit
    without_messages: int = 0
    starts: list[int] = field(default_factory=list)  # the first task of each chunk


def lay_out(runs: DuckDBEngine, answers: Sequence[str]) -> list[int]:
    """Make the tables that are packed. `answers` are tables as `keep_answer` makes them. Returns the iterations."""
    for name in ("outcomes", "path_segments", "expert_rollouts", "branch_points"):
        runs.make(name, rules()[name].sql)
    runs.make("report_tasks", TASKS)
    runs.make("report_trajectories", TRAJECTORIES)
    states = []
    for row in runs.rows("SELECT DISTINCT iteration FROM branch_points ORDER BY ALL"):
        iteration = row["iteration"]
        runs.make("current_iteration", f"SELECT {iteration} AS iteration")
        runs.make(f"report_recovery_{iteration}", "SELECT * FROM expert_recovery_states")
        runs.drop("current_iteration")
        states.append(f"SELECT {iteration} AS iteration, * FROM report_recovery_{iteration}")
    runs.make("report_recovery", " UNION ALL ".join(states or ["SELECT 0 AS iteration, * FROM expert_recovery_states"]))
    chosen = [f"SELECT {number} AS method, * FROM {name}" for number, name in enumerate(answers)]
    runs.make("report_answers", " UNION ALL ".join(chosen))
    runs.make("report_solvers", rules()["task_outcomes"].sql)
    for name in ("path_segments", "expert_rollouts"):
        runs.drop(name)
    found = runs.rows("SELECT DISTINCT iteration FROM report_solvers WHERE iteration IS NOT NULL ORDER BY ALL")
    return [row["iteration"] for row in found]


def keep_answer(runs: DuckDBEngine, summary: Summary, number: int) -> str:
    """Put what a method has chosen (trajkit.selection.select's table `selected`) aside. Returns the table's name."""
    name = f"report_answer_{number}"
    with runs.errors():  # not `make`: the next choice drops what that has made
        runs.con.execute(f"CREATE TABLE {MADE}.{name} AS {ANSWERS[summary.writes]}")
    for made in LAID_OUT:
        runs.drop(made)
    return name


def choose_cut(runs: DuckDBEngine) -> Packed:
    """Nothing packed yet, with the mildest cut with which all tasks, judged by some, take at most `BYTES`."""
    [n_tasks] = runs.rows("SELECT count(*) AS n FROM report_tasks")[0].values()
    every = max(1, n_tasks // SAMPLED_TASKS)
    sampled = list(_tasks(runs, CUTS[0], f"number % {every} = {every // 2}"))
    for cut in CUTS:
        chunk = _Chunk(Packed(cut, n_tasks))
        for task in sampled:
            chunk.add(task)
        if len(chunk.packed()) * n_tasks <= 0.95 * BYTES * len(sampled):
            break
    return Packed(cut, n_tasks)


def pack(runs: DuckDBEngine, packed: Packed) -> Iterator[bytes]:
    """The chunks, each as base64 of its gzipped JSON. `packed` is filled on the way."""
    n_bytes = 0
    chunk = _Chunk(packed)
    with bar(desc="writing", total=packed.of_tasks, unit=" tasks") as shown:
        for task in _tasks(runs, packed.cut, "true"):
            if n_bytes > BYTES:
                task.messages = None
            if not chunk.tasks:
                packed.starts.append(packed.tasks)
            chunk.add(task)
            packed.tasks += 1
            shown.update()
            if len(chunk.tasks) >= CHUNK_TASKS or chunk.n_characters >= CHUNK_CHARACTERS:
                yield (block := chunk.packed())
                n_bytes += len(block)
                chunk = _Chunk(packed)
        if chunk.tasks:
            yield chunk.packed()


def index(runs: DuckDBEngine, packed: Packed, iterations: list[int], about: dict[str, Any]) -> bytes:
    """What the list of tasks shows and filters by, a column each, as base64 of its gzipped JSON."""
    columns: dict[str, list[Any]] = {
        name: []
        for name in ("id", "split", "env", "text", "trajectories", "solved", "expert", "policy", "examples", "recovery")
    }
    solvers: dict[str, list[int]] = {str(iteration): [] for iteration in ["all", *iterations]}
    prefixes = _prefixes(runs)
    streams = [
        _ByTask(runs, query)
        for query in (
            INSTRUCTIONS,
            "SELECT k.number, s.iteration, s.solver FROM report_solvers AS s JOIN report_tasks AS k USING (task_id)",
            "SELECT k.number, count(*) FROM report_answers JOIN report_tasks AS k USING (task_id) GROUP BY k.number",
            "SELECT k.number, r.iteration FROM report_recovery AS r JOIN report_tasks AS k USING (task_id)",
        )
    ]
    names = "number, task_id, split, env, n_trajectories, n_solved, expert_value, policy_value"
    for number, *task in _rows(runs, f"SELECT {names} FROM report_tasks ORDER BY number"):
        texts, solved, chosen, recovery = (stream.take(number) for stream in streams)
        env, text = texts[0] if texts else ("", "")
        told = (text or "")[len(prefixes.get(env, "")) :]
        values = [
            task[0], task[1], task[2] or "", _short(told), task[3], task[4], _number(task[5]), _number(task[6]),
            chosen[0][0] if chosen else 0, sorted({row[0] for row in recovery}),
        ]  # fmt: skip
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
        by_iteration = {str("all" if row[0] is None else row[0]): SOLVERS.index(row[1]) for row in solved}
        for name, numbers in solvers.items():
            numbers.append(by_iteration.get(name, -1 if name != "all" else len(SOLVERS) - 1))
    content = about | {"columns": columns, "solvers": solvers, "iterations": iterations, "starts": packed.starts}
    return _pack(content)


@dataclass
class _Task:
    """A task as the tables have it; messages by trajectory, None where they are left out."""

    task_id: str
    trajectories: list[Row]
    messages: list[list[Row] | None] | None
    points: list[Row]
    recovery: list[Row]
    answers: list[Row]


class _Chunk:
    """Tasks that are unpacked together in the browser."""

    def __init__(self, packed: Packed) -> None:
        self.tasks: list[dict[str, Any]] = []
        self.n_characters = 0
        self._packed = packed
        self._texts: dict[tuple[str, int], int] = {}

    def add(self, task: _Task) -> None:
        count = self._packed
        place = {row[0]: number for number, row in enumerate(task.trajectories)}
        chosen = {row[1] for row in task.answers}
        messages: list[list[Any] | None] | None = None
        if task.messages is None:
            count.without_messages += 1
        else:
            messages = []
            for trajectory, own in zip(task.trajectories, task.messages, strict=True):
                kept = count.cut.everybody or trajectory[1] == "expert" or trajectory[0] in chosen
                messages.append([self._message(row) for row in own or ()] if kept else None)
                count.messages += len(own or ()) if kept else 0
                count.other_trajectories += not kept
        count.trajectories += len(task.trajectories)
        self.tasks.append(
            {
                "id": task.task_id,
                "t": [
                    [row[0], ROLES.index(row[1]) if row[1] in ROLES else 0, self._text(row[2]), *row[3:5],
                     None if row[5] is None else place.get(row[5], -1), *row[6:8], _number(row[8]), row[9],
                     self._text(row[10]), self._text(row[11])]
                    for row in task.trajectories
                ],
                "m": messages,
                "points": [[place.get(row[0], -1), *row[1:]] for row in task.points],
                "recovery": [[place.get(row[0], -1), *row[1:]] for row in task.recovery],
                "answers": [
                    [row[0], place.get(row[1], -1), *row[2:4], None if row[4] is None else place.get(row[4], -1),
                     *row[5:8], row[8] and [[int(step), _number(value)] for step, value in json.loads(row[8]).items()]]
                    for row in task.answers
                ],
            }
        )  # fmt: skip

    def packed(self) -> bytes:
        texts = [text if len(text) == length else [text, length] for text, length in self._texts]
        return _pack({"texts": texts, "tasks": self.tasks})

    def _message(self, row: Row) -> list[Any]:
        step, role, context, call_id, name, *texts = row
        content, reasoning, calls = (
            self._text(text, length) for text, length in zip(texts[::2], texts[1::2], strict=True)
        )
        more = {
            "reasoning": reasoning, "calls": calls, "call_id": self._text(call_id), "name": self._text(name),
            "context": context or None,
        }  # fmt: skip
        more = {key: value for key, value in more.items() if value is not None}
        role_number = ROLES.index(role) if role in ROLES else ROLES.index("user")
        return [step, role_number, content, more] if more else [step, role_number, content]

    def _text(self, text: str | None, length: int | None = None) -> int | None:
        """The number of a text in this chunk. `length` is that of the whole text, where `text` may be cut already."""
        if text is None:
            return None
        limit = self._packed.cut.text
        key = (text[:limit], length if length is not None else len(text))
        self._packed.cut_texts += key[1] > limit
        if key not in self._texts:
            self._texts[key] = len(self._texts)
            self.n_characters += len(key[0])
        return self._texts[key]


def _tasks(runs: DuckDBEngine, cut: Cut, where: str) -> Iterator[_Task]:
    """The tasks in order, those for whose number `where` holds, with texts cut to `cut`."""
    chosen = f"(SELECT * FROM report_tasks WHERE {where}) AS k"
    own = f"(SELECT * FROM report_trajectories WHERE {where}) AS t"
    if not cut.everybody:
        own = (
            f"(SELECT * FROM report_trajectories WHERE {where} AND (role = 'expert' OR trajectory_id IN "
            "(SELECT trajectory_id FROM report_answers))) AS t"
        )
    texts = ", ".join(
        f"left(m.{name}, {cut.text}), length(m.{name})" for name in ("content", "reasoning", "tool_calls")
    )
    trajectories = _ByTask(
        runs,
        "SELECT number, row_number, trajectory_id, role, actor, iteration, sample, parent_id, branch_step, n_steps, "
        f"value, solved, ended, error FROM report_trajectories WHERE {where} ORDER BY row_number",
    )
    messages = _ByTask(
        runs,
        f"SELECT t.row_number, m.step, m.role, m.context, left(m.tool_call_id, 200), left(m.name, 200), {texts} "
        f"FROM {own} JOIN messages AS m USING (trajectory_id) ORDER BY t.row_number, m.seq",
    )
    points = _ByTask(
        runs,
        "SELECT k.number, b.expert_id, b.step, b.iteration, b.n_rollouts, b.n_solved, b.n_no_outcome, b.solved "
        f"FROM branch_points AS b JOIN {chosen} USING (task_id) ORDER BY ALL",
    )
    recovery = _ByTask(
        runs,
        "SELECT k.number, r.expert_id, r.iteration, r.step, r.previous_step "
        f"FROM report_recovery AS r JOIN {chosen} USING (task_id) ORDER BY ALL",
    )
    answers = _ByTask(
        runs,
        "SELECT k.number, a.method, a.trajectory_id, a.kind, a.side, a.expert_id, a.from_step, a.end_step, "
        f"a.row_number, a.step_values FROM report_answers AS a JOIN {chosen} USING (task_id) ORDER BY ALL",
    )
    for number, task_id in _rows(runs, f"SELECT number, task_id FROM {chosen} ORDER BY number"):
        rows = trajectories.take(number)
        yield _Task(
            task_id,
            [row[1:] for row in rows],
            [messages.take(row[0]) for row in rows],
            points.take(number),
            recovery.take(number),
            answers.take(number),
        )


class _ByTask:
    """The rows of a query, whose first column is a number, handed out number by number in ascending order."""

    def __init__(self, runs: DuckDBEngine, query: str) -> None:
        ordered = query if "ORDER BY" in query else f"{query} ORDER BY ALL"
        self._rows = _rows(runs, ordered)
        self._next: Row | None = next(self._rows, None)

    def take(self, number: int) -> list[Row]:
        found = []
        while self._next is not None and self._next[0] <= number:
            if self._next[0] == number:
                found.append(self._next[1:])
            self._next = next(self._rows, None)
        return found


def _rows(runs: DuckDBEngine, query: str) -> Iterator[Row]:
    """The rows of a query, read bit by bit beside those of others."""
    for batch in runs.batches(query, ROWS):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _prefixes(runs: DuckDBEngine) -> dict[str, str]:
    """What all instructions of an environment begin with, by environment: the list leaves out long ones."""
    found = {}
    for row in runs.rows(f"SELECT env, min(text) AS a, max(text) AS b FROM ({INSTRUCTIONS}) AS i GROUP BY env"):
        first, last = row["a"] or "", row["b"] or ""
        n_same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
        same = first[: max(first.rfind(" ", 0, n_same), first.rfind("\n", 0, n_same)) + 1]
        found[row["env"]] = same if len(same) > 30 else ""
    return found


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def _number(value: float | None) -> float | str | None:
    """JSON has no NaN and no infinity."""
    return value if value is None or math.isfinite(value) else str(value)


def _pack(content: Any) -> bytes:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = re.sub(STEERING, lambda found: f"\\\\u{ord(found[0]):04x}", text)  # shown as its escape
    text = re.sub(r"(?<!\\)((?:\\\\)*)(\\u00[01][0-9a-f])", r"\1\\\2", text)  # what `dumps` has escaped, likewise
    return base64.b64encode(gzip.compress(text.encode(errors="replace"), 6, mtime=0))
