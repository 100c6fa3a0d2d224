"""Why a method chose what it chose of one task, and why everything else of that task lost.

The verdicts come from sql/explain/: for each built-in method a relation why_<method> with a row per candidate. What a
user's own method did not choose has the general reason (sql/select/why_own_*.sql).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from trajkit.console import Rows, cell, shorten
from trajkit.engines.checks import make_materialized
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.engines.one_task import one_task
from trajkit.rules import OWN, Rule, closure, rules

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

Row = dict[str, Any]

NAMED = 3  # trajectories that are named where more lost for the same reason
SHORT = 12  # characters of an id, where they tell it from the task's other ids


@dataclass(frozen=True)
class Explanation:
    """What a method made of a task.

    writes: examples, pairs or values. iteration: whose rollouts were judged; None: there are none. verdicts: rows as in
    the method's why_ relation. by_state: whether the method asks
    which states need recovery; states: then rows of why_recovery_states. trajectories: outcomes by trajectory_id.
    """

    task_id: str
    method: str
    writes: str
    iteration: int | None
    instruction: str
    verdicts: list[Row]
    by_state: bool
    states: list[Row]
    trajectories: dict[str, Row]

    @cached_property
    def sharing(self) -> dict[str, list[str]]:
        """All experts whose state it is, by the expert_id that the recovery example names."""
        found: dict[str, list[str]] = {}
        for row in self.states:
            if row["is_recovery"]:
                found.setdefault(row["first_expert_id"], []).append(row["expert_id"])
        return {first: sorted(experts) for first, experts in found.items()}

    @property
    def n_chosen(self) -> int:
        """Examples, pairs (each once: two experts may share both of its states), or values."""
        chosen = [row for row in self.verdicts if row["chosen"]]
        if self.writes != "pairs":
            return len(chosen)
        return len({(row["kind"], row["step"], row["chosen_id"], row["rejected_id"]) for row in chosen})


def explain(runs: DuckDBEngine, task_id: str, method: Rule) -> Explanation:
    """Why `method` chose what it chose of the task. Later queries to `runs` see that task alone.

    Raises UsageError where there is no such task, or where a user's own method cannot be run.
    """
    writes = _answer_own(runs, method) if method.kind == OWN else method.kind
    why = f"why_{method.name}"
    recovery = "first_recovery_state" in {rule.name for rule in closure(method.sql)}
    states = ["why_recovery_states"] * recovery
    one_task(runs, task_id, ["candidates" if method.kind == OWN else why, *states])
    if method.kind == OWN:
        runs.make(why, rules()[f"why_own_{writes}"].sql)
    first = runs.rows(
        "SELECT m.content FROM messages AS m JOIN outcomes AS o USING (trajectory_id) "
        "WHERE o.branch_step = 0 AND m.step = 0 AND m.role = 'user' ORDER BY o.trajectory_id, m.seq DESC LIMIT 1"
    )
    return Explanation(
        task_id=task_id,
        method=method.name,
        writes=writes,
        iteration=runs.rows("SELECT iteration FROM current_iteration")[0]["iteration"],
        instruction=(first[0]["content"] or "") if first else "",
        verdicts=runs.rows(f"SELECT * FROM {why} ORDER BY ALL"),
        by_state=recovery,
        states=runs.rows("SELECT * FROM why_recovery_states ORDER BY expert_id, step") if recovery else [],
        trajectories={row["trajectory_id"]: row for row in runs.rows("SELECT * FROM outcomes")},
    )


def _answer_own(runs: DuckDBEngine, method: Rule) -> str:
    """Put the method's answer for all tasks into `chosen`: nobody knows whether it decides task by task."""
    from trajkit.selection.select import run_method

    made = make_materialized(runs)
    writes = run_method(runs, method)
    for name in made:
        runs.drop(name)
    return writes


def told(explained: Explanation) -> Iterator[RenderableType]:
    """The explanation in words, top to bottom."""
    short = _short_ids(list(explained.trajectories))
    iteration = "" if explained.iteration is None else f", iteration {explained.iteration}"
    n = explained.n_chosen
    what = explained.writes if n != 1 else explained.writes.removesuffix("s")
    yield cell(f"task {explained.task_id}", "bold")
    yield cell(f"{explained.method}{iteration}: {len(explained.trajectories):,} trajectories, {n:,} {what}")
    if explained.instruction:
        yield cell(f"s_0: {shorten(explained.instruction, 300)}", "dim")
    unseen = list(dict.fromkeys(row["expert_id"] for row in explained.states))
    section = partial(_section, explained)
    for (_, title), rows in groupby(sorted(explained.verdicts, key=section), key=section):
        several = list(rows)
        for expert_id in explained.sharing.get(several[0]["expert_id"], [several[0]["expert_id"]]):
            if expert_id in unseen:
                unseen.remove(expert_id)
                yield from _recovery(explained, expert_id, short)
        yield cell("")
        yield cell(_with_short_ids(title, short), "bold")
        yield from _verdicts(explained, several, short)
    for expert_id in unseen:
        yield from _recovery(explained, expert_id, short)


def _section(explained: Explanation, row: Row) -> tuple[int, str]:
    """Where a verdict is told: the sections' order, and its title."""
    kind, expert_id, step = row["kind"], row["expert_id"], row["step"]
    if explained.writes == "values":
        return 0, "actions"
    if explained.writes == "examples":
        if expert_id:
            experts = explained.sharing.get(expert_id, [expert_id])
            whose = f"expert{'s' * (len(experts) > 1)} {', '.join(experts)}"
            return 1, f"s_{step} of {whose}, {kind} state"
        return 0, "s_0, initial state" if explained.by_state else "trajectories"
    beside = f", beside expert {expert_id}" if expert_id else ""
    if kind == "trajectory":
        return 0, f"whole trajectories{beside}"
    if kind is None:
        return 2, "in no pair"
    return (1, f"from a state on{beside}") if beside or row["chosen"] else (2, "beside no expert")


def _recovery(explained: Explanation, expert_id: str, short: dict[str, str]) -> Iterator[RenderableType]:
    """An expert's states: which were simulated, with what outcome, and which one needs recovery."""
    states = [row for row in explained.states if row["expert_id"] == expert_id]
    if not states:
        return
    row = explained.trajectories[expert_id]
    found = [state["step"] for state in states if state["is_recovery"]]
    needs = f"s_{found[0]} needs recovery" if found else "no state needs recovery"
    yield cell("")
    yield cell(f"States of expert {short[expert_id]} ({_outcome(row)}): {needs}", "bold")
    grid = Rows(["state", "policy", "why"], text="why")
    for (reason, is_recovery), same in groupby(states, key=lambda state: (state["reason"], state["is_recovery"])):
        several = list(same)
        first, last = several[0]["step"], several[-1]["step"]
        solved = several[0]["solved"]
        mark = "." if several[0]["n_rollouts"] is None else "?" if solved is None else "+" if solved else "x"
        style = "bold yellow" if is_recovery else "dim" if mark == "." else ""
        name = f"s_{first}" if first == last else f"s_{first}...s_{last}"
        grid.add(cell(name, style), cell(mark, style), cell(reason, style))
    yield grid


def _verdicts(explained: Explanation, rows: list[Row], short: dict[str, str]) -> Iterator[RenderableType]:
    """A section's candidates: what is chosen first, then solved ones, those with the same reason together."""
    if explained.writes == "values":
        yield _actions(rows, explained, short)
        return
    by_state = explained.writes == "pairs" and rows[0]["kind"] != "trajectory" and bool(rows[0]["expert_id"])
    grid = Rows(["", *["state"] * by_state, "trajectory", "why"], text="why")

    groups: dict[tuple[int, bool, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: str(row["trajectory_id"])):
        groups.setdefault(((row["step"] or 0) if by_state else 0, row["chosen"], row["reason"]), []).append(row)

    def order(group: tuple[int, bool, str]) -> tuple[Any, ...]:
        step, is_chosen, reason = group
        about = [explained.trajectories[row["trajectory_id"]] for row in groups[group]]
        solved = any(row["solved"] and row["role"] != "scorer" for row in about)
        return (step, not is_chosen, not solved, reason)

    for step, is_chosen, reason in sorted(groups, key=order):
        several = groups[step, is_chosen, reason]
        most = len(several) if is_chosen else NAMED
        named = [_named(explained, row, short) for row in several[:most]]
        named += [f"and {len(several) - most:,} more"] * (len(several) > most)
        style = "bold green" if is_chosen else ""
        grid.add(
            cell(_mark(several[0]), style),
            *[cell(f"s_{step}", style)] * by_state,
            _lines(named, style),
            cell(_with_short_ids(reason, short), style),
        )
    yield grid
    if explained.writes == "examples" and not any(row["chosen"] for row in rows):
        yield cell("Nothing is chosen.", "bold")


def _actions(rows: list[Row], explained: Explanation, short: dict[str, str]) -> RenderableType:
    """Which actions have a value, trajectory by trajectory; what has none for one reason on one line."""
    grid = Rows(["", "trajectory", "action", "why"], text="why")

    def order(row: Row) -> tuple[Any, ...]:
        return (row["kind"] == "scorer", row["trajectory_id"], -1 if row["step"] is None else row["step"])

    before, scorers = "", 0
    for (id, is_chosen, reason), same in groupby(
        sorted(rows, key=order), key=lambda row: (row["trajectory_id"], row["chosen"], row["reason"])
    ):
        several = list(same)
        if several[0]["kind"] == "scorer":
            scorers += 1
            continue
        first, last = several[0]["step"], several[-1]["step"]
        action = "" if first is None else f"a_{first}" if first == last else f"a_{first}...a_{last}"
        style = "bold green" if is_chosen else ""
        name = _named(explained, several[0], short) if id != before else ""
        grid.add(cell(_mark(several[0]), style), cell(name), cell(action, style), cell(reason, style))
        before = id
    if scorers:
        grid.add(cell("[ ]"), cell(f"{scorers:,} scorer"), cell(""), cell("scorer rollouts are never trained on"))
    return grid


def _mark(row: Row) -> str:
    return "[x]" if row["chosen"] else "[ ]"


def _named(explained: Explanation, row: Row, short: dict[str, str]) -> str:
    if row.get("chosen_id"):
        return f"{short.get(row['chosen_id'], row['chosen_id'])} > {short.get(row['rejected_id'], row['rejected_id'])}"
    about = explained.trajectories[row["trajectory_id"]]
    start = f" from s_{about['branch_step']}" if about["branch_step"] else ""
    return f"{short[row['trajectory_id']]} {about['role']}{start}"


def _with_short_ids(text: str, short: dict[str, str]) -> str:
    return re.sub(r"[^\s:,]+", lambda found: short.get(found[0], found[0]), text)


def _lines(lines: list[str], style: str) -> Text:
    from rich.text import Text

    return Text("\n").join(cell(line, style) for line in lines)


def _outcome(row: Row) -> str:
    outcome = "no outcome" if row["solved"] is None else "solved" if row["solved"] else "failed"
    return outcome + ("" if row["reward"] is None else f", reward {row['reward']:g}") + f", {row['n_actions']} actions"


def _short_ids(ids: list[str]) -> dict[str, str]:
    """The beginning of each id, as long as it needs to be to tell all of them apart."""
    length = SHORT
    while len({id[:length] for id in ids}) < len(set(ids)):
        length += 4
    return {id: id[:length] for id in ids}
