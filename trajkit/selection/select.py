"""`trajkit select`: from runs/ to a file of examples, pairs or values with loss weights, by a rule in SQL.

The rule reads the narrow table of trajectories alone. The text of the messages is read once, for
what was chosen (trajkit/selection/assemble.py).
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import trajkit
from trajkit.console import bar, clean
from trajkit.engines import opened
from trajkit.engines.checks import (
    conflicts,
    contradictions,
    make_materialized,
    refuse_input,
    roles_read,
    told_conflicts,
)
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import BadData, UsageError, did_you_mean
from trajkit.rules import OWN, Rule, closure, params_read, references, rules
from trajkit.rules import method as find_method
from trajkit.runs.atomic import check_out, whole
from trajkit.runs.object_store import Location, locate
from trajkit.runs.parquet_sql import first_line
from trajkit.runs.schema import ROLES
from trajkit.selection.assemble import schema, tables

if TYPE_CHECKING:
    import polars as pl

    from trajkit.engines.base import Engine

# A method's answer by what it writes: the columns that it must have, and those that it may have, with their defaults.
NEEDED = {
    "examples": ("trajectory_id",),
    "pairs": ("chosen_id", "rejected_id"),
    "values": ("trajectory_id", "step", "step_reward"),
}
ANSWERS = {
    "examples": (
        ("kind", "VARCHAR", "'initial'"), ("trajectory_id", "VARCHAR", ""), ("expert_id", "VARCHAR", "NULL"),
        ("from_step", "INTEGER", "0"), ("suffix", "VARCHAR", "NULL"),
    ),
    "pairs": (
        ("chosen_id", "VARCHAR", ""), ("rejected_id", "VARCHAR", ""), ("from_step", "INTEGER", "0"),
        ("end_step", "INTEGER", "NULL"),
        ("level", "VARCHAR", "CASE WHEN from_step > 0 THEN 'step' ELSE 'trajectory' END"),
        ("chosen_reward", "DOUBLE", "NULL"), ("rejected_reward", "DOUBLE", "NULL"),
    ),
    "values": (("trajectory_id", "VARCHAR", ""), ("step", "INTEGER", ""), ("step_reward", "DOUBLE", "")),
}  # fmt: skip
# What counts the rows that an answer would write, if none of them were without loss.
IDENTIFIES = {"examples": "*", "pairs": "*", "values": "DISTINCT trajectory_id"}
# Pairs are made of failures too, so that it failed is no reason.
_NO_PAIR = {"not solved": "not solved, in no pair", "solved, not chosen": "solved, in no pair"}
# What `choose` leaves for `trajkit.selection.assemble`, each after those it reads.
LAID_OUT = ("selected", "excerpts", "selected_paths", "selected_tools", "tool_definitions")


@dataclass(frozen=True)
class Summary:
    """What a selection took and left out.

    `writes` is examples, pairs or values; `kinds` counts them (n) with their actions, of pairs by level, of values
    by role. `n_other_prompts`: pairs whose two sides were asked with different words. `n_contradictions`: as
    `engines.checks.contradictions` counts them. `unknown_columns`: those of a user's own method that mean nothing
    here. `n_without_loss`: examples, pairs or trajectories with values that were chosen and not written, as their
    source gave all their actions the weight 0. `no_role`: the roles that the method reads and no trajectory has,
    where it finds one role at most. `conflicts`: the tasks that are left out, for the files say two splits or two
    environments of them.
    """

    method: str
    writes: str
    params: dict[str, Any]
    iteration: int | None
    n_trajectories: int
    n_tasks: int
    n_solved_tasks: int
    n_selected_tasks: int
    kinds: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    n_recovery_states: int | None = None
    n_other_prompts: int = 0
    n_contradictions: int = 0
    n_without_loss: int = 0
    unknown_columns: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    input_fingerprint: str = ""
    no_role: list[str] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        """Examples, pairs, or trajectories with values."""
        return sum(kind["n"] for kind in self.kinds)

    def text(self) -> str:
        """The summary as people read it."""
        given = self.params.items()
        values = ", ".join(f"{name}={'null' if value is None else clean(str(value))}" for name, value in given)
        what = {"examples": "an example", "pairs": "a pair", "values": "a value"}[self.writes]
        rows = {"examples": "examples", "pairs": "pairs", "values": "trajectories with values"}[self.writes]
        lines = [
            f"method {self.method} ({values})",
            (
                f"{self.n_tasks:,} train tasks, {self.n_solved_tasks:,} solved by some trajectory, "
                f"{self.n_selected_tasks:,} with {what}"
            ),
            f"{self.n_rows:,} {rows}",
        ]
        for kind in self.kinds:
            trained = f"{kind['n_trained_steps']:,} actions {'with a value' if what == 'a value' else 'to train on'}"
            experts = f", {kind['n_expert_steps']:,} of them an expert's" if "n_expert_steps" in kind else ""
            lines.append(f"  {clean(kind['kind']):<10} {kind['n']:>9,}   {trained}{experts}")
        if self.n_recovery_states is not None:
            found = sum(kind["n"] for kind in self.kinds if kind["kind"] == "recovery")
            lines.append(
                f"  (iteration {self.iteration}: {self.n_recovery_states:,} states need recovery, "
                f"{self.n_recovery_states - found:,} of them have no solution yet)"
            )
        if self.n_other_prompts:
            lines.append(
                f"  (the two sides of {self.n_other_prompts:,} pairs were asked with different words: "
                "the chosen side's prompt is written)"
            )
        if self.n_without_loss:
            lines.append(f"  ({self.n_without_loss:,} more not written: their source gives no action of theirs a loss)")
        if self.unknown_columns:
            known = [name for name, _, _ in ANSWERS[self.writes]]
            told = "; ".join(clean(name) + did_you_mean(name, known).rstrip(".") for name in self.unknown_columns)
            lines.append(f"columns of {self.method} that mean nothing to select: {told}")
        lines.append(f"left out of {self.n_trajectories:,} trajectories")
        lines += [f"  {row['n_trajectories']:>9,}   {clean(row['reason'])}" for row in self.left_out] or ["  none"]
        if self.n_contradictions:
            lines.append(
                f"{self.n_contradictions:,} trajectories say and do the same as another one, and came to another "
                "outcome: `trajkit validate` lists them"
            )
        for role in self.no_role:
            way_out = "`import` says whose actions they are with --role" if role != "scorer" else "`explore` makes them"
            lines.append(f"no trajectory has the role {role}, and {self.method} reads those: {way_out}")
        if self.conflicts:
            lines.append(told_conflicts(self.conflicts))
        return "\n".join(lines)


class NothingChosen(BadData):
    """The method chose nothing, and nothing was written. `summary` says what was left out, and why."""

    def __init__(self, summary: Summary) -> None:
        super().__init__(
            "nothing to train on: the method chose no trajectory, so nothing was written. The summary says what was "
            "left out, and why; --allow-empty writes a file without rows."
        )
        self.summary = summary


def select(
    runs: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    method: str = "eef",
    params: Mapping[str, Any] | None = None,
    *,
    engine: str = "duckdb",
    master: str | None = None,
    memory_limit: str | None = None,
    threads: int | None = None,
    allow_empty: bool = False,
    allow_read: Collection[str | os.PathLike[str]] = (),
    trust: bool = False,
) -> Summary:
    """Write the examples, pairs or values that `method` chooses from `runs` to the Parquet file `out`.

    `method` is a built-in's name or the path of a .sql file. `params` replace the defaults of
    sql/concepts/params.sql. With `out` None everything is done but the writing. `engine` is duckdb,
    to which `memory_limit` (None: 1GB) and `threads` (None: all cores) are told, or spark, with
    `master` its cluster (None: as Spark is configured). The file appears whole or not at all; the
    same input gives the same bytes whatever its order, its split over files, the engine and the
    number of threads. A .sql file is one SELECT that may read the runs and the files `allow_read`, and
    nothing else; Spark cannot hold it to that, so there it needs `trust`.

    Raises UsageError for a wrong call (an unknown method, parameter or folder, a mistake in a method's
    SQL), BadData where the input would make the answer wrong, and NothingChosen, leaving what was there
    before, where nothing would be written and `allow_empty` is not given.

        trajkit.select("runs/", "sft.parquet", "rft", {"per_task": 4})
    """
    rule = find_method(method, reads_files=bool(allow_read))
    if engine == "spark":
        _refuse_untrusted(rule, trust)
    if out is not None:
        check_out(locate(out), (".parquet",), locate(runs))
    with opened(
        runs, params, engine=engine, master=master, memory_limit=memory_limit, threads=threads, allow_read=allow_read
    ) as folder:
        if not folder.files["trajectories"]:
            raise UsageError(
                f"{runs}: it holds no trajectories (**/trajectories*.parquet). "
                "`trajkit import` or `trajkit explore` put some there; --input names another folder."
            )
        summary = choose(folder, rule)
        counts: Counter[str] = Counter()
        if out is None:
            for _ in tables(folder, rule.name, summary.writes, counts):
                pass
        elif not summary.n_rows and not allow_empty:
            raise NothingChosen(summary)
        else:
            _write(folder, rule, locate(out), summary, counts)
        return replace(summary, n_other_prompts=counts["other_prompts"])


def selected(
    runs: Engine,
    method: str = "eef",
    *,
    allow_read: Collection[str | os.PathLike[str]] = (),
    trust: bool = False,
) -> pl.DataFrame:
    """The rows that `select` writes, as a Polars frame. `allow_read` and `trust` are as there."""
    import polars as pl
    import pyarrow as pa

    rule = find_method(method, reads_files=bool(allow_read))
    if rule.kind == OWN:
        if not isinstance(runs, DuckDBEngine):
            _refuse_untrusted(rule, trust)
        elif not runs.is_confined:
            with runs.confined(allow_read) as confined:
                return selected(confined, method, allow_read=allow_read)
    writes = choose(runs, rule).writes
    parts = list(tables(runs, rule.name, writes, Counter()))
    frame = pl.from_arrow(pa.concat_tables(parts) if parts else schema(writes).empty_table())
    assert isinstance(frame, pl.DataFrame)
    return frame


def _refuse_untrusted(rule: Rule, trust: bool) -> None:
    if rule.kind == OWN and not trust:
        raise UsageError(
            f"--method {rule.path}: on Spark a file of SQL can do whatever Spark may. Read it, then add --trust."
        )


def choose(runs: Engine, rule: Rule) -> Summary:
    """Run the rule into the table `chosen`, refuse what is wrong, and lay out what is selected and whose messages."""
    with runs.shown(f"choosing by {rule.name}"):
        if "messages" in {name for read in (rule, *closure(rule.sql)) for name in references(read.sql)}:
            runs.verify_messages()
        make_materialized(runs)
        refuse_input(runs, rule)
        make_materialized(runs, rule)
        writes = run_method(runs, rule)
        runs.make("selected", rules()[f"selected_{writes}"].sql)
        runs.make("excerpts", rules()[f"{writes.removesuffix('s')}_excerpts"].sql)
        for row in runs.rows(runs.compose(rules()["prompts_missing"].sql))[:1]:
            raise BadData(
                f"{runs.path}: trajectory {row['trajectory_id']}: nothing is said before its first action, so no "
                f"prompt could end with the suffix of {rule.name}. Take it out, or import it with its instruction."
            )
        for name in LAID_OUT[2:]:
            runs.make(name, rules()[name].sql)
        runs.verify_messages("SELECT owner_id FROM selected_paths")
        summary = _summary(runs, rule, writes)
        for name in runs.made - set(LAID_OUT):
            runs.drop(name)  # leaves the memory to the messages
    return summary


def run_method(runs: Engine, rule: Rule) -> str:
    """Put the method's answer into `chosen`; returns what it is: examples, pairs or values."""
    try:
        runs.make("answer", rule.sql)
    except UsageError as error:
        raise UsageError(f"{rule.path}: {error}{missing_param(runs, str(error))}") from error
    columns = set(runs.columns("answer"))
    writes = "pairs" if columns & {"chosen_id", "rejected_id"} else "values" if "step_reward" in columns else "examples"
    if missing := [name for name in NEEDED[writes] if name not in columns]:
        raise UsageError(
            f"{rule.path}: its answer has no column {', '.join(missing)} (it has {', '.join(sorted(columns))}). "
            "A method gives a row per example (trajectory_id, and if need be from_step, else 0, kind, else initial, "
            "expert_id and suffix), per pair (chosen_id, rejected_id, and if need be from_step, end_step, level), or "
            "per value of an action (trajectory_id, step, step_reward)."
        )
    taken = ", ".join(
        f"CAST({name if name in columns else default} AS {kind}) AS {name}" for name, kind, default in ANSWERS[writes]
    )
    try:
        runs.make("chosen", f"SELECT {taken} FROM answer")
    except (BadData, UsageError) as error:
        raise UsageError(f"{rule.path}: a column of its answer has the wrong type: {first_line(error)}") from error
    if problems := runs.rows(f"{runs.compose(rules()[f'wrong_{writes}'].sql)} ORDER BY problem"):
        found = "; ".join(f"{row['n']:,} rows of its answer {row['problem']}" for row in problems)
        raise UsageError(f"{rule.path}: {found}.")
    return writes


def missing_param(runs: Engine, said: str) -> str:
    """What to add to an engine's error about a column that is a parameter, or may be meant for one."""
    lacks = re.search(
        r'(?:column named|[Cc]olumn(?: or function parameter)?(?: with name)?) ["`](?:\w+[`.]+)?(\w+)["`]', said
    )
    if not lacks:
        return ""
    if lacks[1] in runs.columns("params"):
        return f"\n{lacks[1]} is a parameter: read it from params (CROSS JOIN params)."
    return (
        f"\nIs {lacks[1]} meant as a parameter? `--set {lacks[1]}=VALUE` makes it one, and CROSS JOIN params reads it."
    )


def _summary(runs: Engine, rule: Rule, writes: str) -> Summary:
    read = [role for role in ROLES if role in roles_read(rule)]
    reads = params_read(rule)
    params = {name: value for name, value in runs.rows("SELECT * FROM params")[0].items() if name in reads}
    tasks = runs.rows(runs.compose(rules()["task_counts"].sql))[0]
    roles = {row["role"] for row in runs.rows("SELECT DISTINCT role FROM outcomes")}
    names = {used.name for used in closure(rule.sql)}
    recovery = "first_recovery_state" in names
    one = writes.removesuffix("s")
    fingerprint = runs.rows(runs.compose(rules()["input_fingerprint"].sql))[0]["fingerprint"]
    return Summary(
        method=rule.name,
        writes=writes,
        params=params,
        iteration=runs.rows(runs.compose("SELECT iteration FROM current_iteration"))[0]["iteration"],
        n_trajectories=_count(runs, "outcomes", "*"),
        n_tasks=tasks["n_tasks"],
        n_solved_tasks=tasks["n_solved"],
        n_selected_tasks=tasks["n_selected"],
        kinds=runs.rows(f"{runs.compose(rules()[f'{one}_counts'].sql)} ORDER BY kind"),
        left_out=[
            row | {"reason": _NO_PAIR.get(row["reason"], row["reason"]) if writes == "pairs" else row["reason"]}
            for row in runs.rows(runs.compose(rules()["left_out"].sql))
        ],
        n_recovery_states=_count(runs, "first_recovery_state", "*") if recovery else None,
        n_contradictions=contradictions(runs),
        n_without_loss=_count(runs, "chosen", IDENTIFIES[writes]) - _count(runs, "selected", "*"),
        unknown_columns=_unknown_columns(runs, writes) if rule.kind == "own" else [],
        input_fingerprint=f"{int(fingerprint or 0):x}",
        no_role=[role for role in read if role not in roles] if roles and len({*read} & roles) < 2 else [],
        conflicts=conflicts(runs),
    )


def _count(runs: Engine, relation: str, what: str) -> int:
    [row] = runs.rows(runs.compose(f"SELECT count({what}) AS n FROM {relation}"))
    found: int = row["n"]
    return found


def _unknown_columns(runs: Engine, writes: str) -> list[str]:
    known = {name for name, _, _ in ANSWERS[writes]} | {"task_id"}  # which the built-in methods name too
    return [name for name in runs.columns("answer") if name not in known]


def _write(runs: Engine, rule: Rule, out: Location, summary: Summary, counts: Counter[str]) -> None:
    import pyarrow.parquet as pq

    footer = {
        "trajkit.version": trajkit.__version__,
        "trajkit.kind": summary.writes,
        "trajkit.method": rule.name,
        "trajkit.method_sql": rule.sql,
        "trajkit.params": json.dumps(summary.params, sort_keys=True),
        "trajkit.iteration": json.dumps(summary.iteration),
        "trajkit.input_fingerprint": summary.input_fingerprint,
    }
    with whole(out) as file:
        # Without Arrow's own copy of the schema the file says no more than Parquet does.
        columns = schema(summary.writes).with_metadata(footer)
        writer = pq.ParquetWriter(file, columns, compression="zstd", store_schema=False, write_page_checksum=True)
        shown = bar(desc="writing", total=summary.n_rows, unit=f" {summary.writes}")
        with writer, shown, ThreadPoolExecutor(1) as thread:  # one row group is written while the next is read
            writing = None
            for table in tables(runs, rule.name, summary.writes, counts):
                if writing:
                    writing.result()
                writing = thread.submit(writer.write_table, table, row_group_size=table.num_rows)
                shown.update(table.num_rows)
            if writing:
                writing.result()
            writer.add_key_value_metadata(footer)
