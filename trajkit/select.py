"""`trajkit select`: from runs/ to a file of examples with loss weights, by a rule in SQL.

The rule reads the narrow table of trajectories alone. The text of the messages is read once, for
what was chosen, sorted by DuckDB (which spills beyond its memory limit) and cut into lists.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trajkit
from trajkit.checks import refuse_chosen, refuse_input
from trajkit.engine import MADE, MEMORY_LIMIT, Runs, first_line
from trajkit.errors import BadData, TrajkitError, UsageError
from trajkit.progress import bar, query_bar
from trajkit.rules import Rule, closure, rules
from trajkit.rules import method as find_method
from trajkit.terminal import clean

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

# A row group ends with the example that reaches one of these: it depends on the data alone.
GROUP_EXAMPLES = 4096
GROUP_BYTES = 64 * 2**20
BATCH_ROWS = 2_048
# What is wrong with a method's answer (a user's own, or there is a mistake in ours).
WRONG_ANSWERS = """
SELECT
    count(CASE WHEN t.trajectory_id IS NULL THEN 1 END) AS name_a_trajectory_that_is_not_there,
    count(CASE WHEN t.split != 'train' THEN 1 END) AS name_a_trajectory_that_is_not_of_split_train,
    count(CASE WHEN t.role = 'scorer' THEN 1 END) AS name_a_trajectory_of_the_scorer,
    count(CASE WHEN t.ended IN ('error', 'drift') THEN 1 END) AS name_a_trajectory_that_ended_in_error_or_drift,
    count(CASE WHEN c.kind IS NULL THEN 1 END) AS have_no_kind,
    count(CASE WHEN c.from_step IS NULL OR c.from_step < 0 OR c.from_step >= t.n_actions THEN 1 END)
        AS have_a_from_step_at_which_there_is_no_action_to_train_on,
    count(*) - count(DISTINCT (c.kind, c.trajectory_id, c.expert_id, c.from_step)) AS repeat_another_row
FROM chosen AS c LEFT JOIN outcomes AS t USING (trajectory_id)
"""
# Rules that several steps read: computed once.
ALWAYS_READ = ("outcomes", "path_segments")
READ_TWICE = ("current_iteration", "first_recovery_state")

_MESSAGE = ("role", "content", "reasoning", "tool_calls", "tool_call_id", "name", "weight", "token_ids")
_EXAMPLE = (
    "example_id", "task_id", "env", "method", "kind", "trajectory_id", "expert_id", "from_step", "n_steps",
    "n_trained_steps", "n_expert_steps", "reward", "iteration", "tools",
)  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """What a selection took and left out."""

    method: str
    params: dict[str, Any]
    iteration: int | None
    n_trajectories: int
    n_tasks: int
    n_solved_tasks: int
    n_tasks_with_example: int
    kinds: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    n_recovery_states: int | None = None
    input_fingerprint: str = ""

    @property
    def n_examples(self) -> int:
        """Examples of all kinds."""
        return sum(kind["n_examples"] for kind in self.kinds)

    def text(self) -> str:
        """The summary as people read it."""
        given = self.params.items()
        values = ", ".join(f"{name}={'null' if value is None else clean(str(value))}" for name, value in given)
        lines = [
            f"method {self.method} ({values})",
            (
                f"{self.n_tasks:,} train tasks, {self.n_solved_tasks:,} solved by some trajectory, "
                f"{self.n_tasks_with_example:,} with an example"
            ),
            f"{self.n_examples:,} examples",
        ]
        lines += [
            f"  {clean(kind['kind']):<10} {kind['n_examples']:>9,}   {kind['n_trained_steps']:,} actions to train on, "
            f"{kind['n_expert_steps']:,} of them an expert's"
            for kind in self.kinds
        ]
        if self.n_recovery_states is not None:
            found = sum(kind["n_examples"] for kind in self.kinds if kind["kind"] == "recovery")
            lines.append(
                f"  (iteration {self.iteration}: {self.n_recovery_states:,} states need recovery, "
                f"{self.n_recovery_states - found:,} of them have no solution yet)"
            )
        lines.append(f"left out of {self.n_trajectories:,} trajectories")
        lines += [f"  {row['n_trajectories']:>9,}   {clean(row['reason'])}" for row in self.left_out] or ["  none"]
        return "\n".join(lines)


def select(
    runs: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    method: str = "eef",
    params: Mapping[str, Any] | None = None,
    *,
    memory_limit: str = MEMORY_LIMIT,
    threads: int | None = None,
) -> Summary:
    """Write the examples that `method` chooses from `runs` to the Parquet file `out`.

    `method` is a built-in's name or the path of a .sql file. `params` replace the defaults of
    sql/tables/params.sql. With `out` None everything is done but the writing. The file appears
    whole or not at all; the same input gives the same bytes whatever its order, its split over
    files and the number of threads. Raises UsageError for a wrong call (an unknown method,
    parameter or folder, a mistake in a method's SQL) and BadData where the input would make the
    answer wrong.
    """
    rule = find_method(method)
    if out is not None:
        _check_out(Path(runs), Path(out))
    with Runs(runs, params, memory_limit=memory_limit, threads=threads) as opened:
        if not opened.files["trajectories"]:
            raise UsageError(
                f"{runs}: it holds no trajectories (**/trajectories*.parquet). "
                "`trajkit import` or `trajkit explore` put some there; --input names another folder."
            )
        summary = _choose(opened, rule)
        if out is None:
            for _ in _tables(opened, rule):
                pass
        else:
            _write(opened, rule, Path(out), summary)
        return summary


def examples(runs: Runs, method: str = "eef") -> pl.DataFrame:
    """The rows that `select` writes, as a Polars frame."""
    import polars as pl
    import pyarrow as pa

    rule = find_method(method)
    _choose(runs, rule)
    tables = list(_tables(runs, rule))
    frame = pl.from_arrow(pa.concat_tables(tables) if tables else _schema().empty_table())
    assert isinstance(frame, pl.DataFrame)
    return frame


def _check_out(runs: Path, out: Path) -> None:
    if out.is_dir():
        raise UsageError(f"--out {out}: that is a folder; name a file, for instance {out / 'sft.parquet'}.")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}. Make it first (mkdir -p {out.parent}).")
    if runs.is_dir() and out.resolve().is_relative_to(runs.resolve()):
        raise UsageError(
            f"--out {out}: that lies inside the runs that are read ({runs}). Name a place outside of them."
        )
    if not os.access(out.parent, os.W_OK):
        raise UsageError(f"--out {out}: the folder {out.parent} cannot be written to. Name another place.")


def _choose(runs: Runs, rule: Rule) -> Summary:
    """Run the rule into the table `chosen`, refuse what is wrong, and lay out `selected` and its paths."""
    with query_bar(runs.con, f"choosing by {rule.name}"):
        for name in ALWAYS_READ:
            runs.make(name, rules()[name].sql)
        refuse_input(runs, rule)
        for shared in closure(rule.sql, given=runs.made):
            if shared.name in READ_TWICE:
                runs.make(shared.name, shared.sql)
        _run_method(runs, rule)
        for name in ("selected", "selected_paths"):
            runs.make(name, rules()[name].sql)
        summary = _summary(runs, rule)
        for name in runs.made - {"chosen", "selected", "selected_paths"}:
            runs.drop(name)  # leaves the memory to the messages
    return summary


def _run_method(runs: Runs, rule: Rule) -> None:
    try:
        runs.make("answer", rule.sql)
    except UsageError as error:
        raise UsageError(f"{rule.path}: {error}") from error
    columns = {row["column_name"] for row in runs.rows("DESCRIBE answer")}
    if "trajectory_id" not in columns:
        raise UsageError(
            f"{rule.path}: its answer has no column trajectory_id (it has {', '.join(sorted(columns))}). "
            "A method gives a row per example: trajectory_id, and if need be from_step (else 0), kind (else initial), "
            "and expert_id."
        )
    taken = ", ".join(
        f"CAST({name if name in columns else default} AS {kind}) AS {name}"
        for name, kind, default in (
            ("kind", "VARCHAR", "'initial'"),
            ("trajectory_id", "VARCHAR", "NULL"),
            ("expert_id", "VARCHAR", "NULL"),
            ("from_step", "INTEGER", "0"),
        )
    )
    try:
        runs.make("chosen", f"SELECT {taken} FROM answer")
    except BadData as error:
        raise UsageError(f"{rule.path}: a column of its answer has the wrong type: {first_line(error)}") from error
    [bad] = runs.rows(WRONG_ANSWERS)
    for problem, n in bad.items():
        if n:
            raise UsageError(f"{rule.path}: {n:,} rows of its answer {problem.replace('_', ' ')}.")


def _summary(runs: Runs, rule: Rule) -> Summary:
    used = " ".join([rule.sql, *(part.sql for part in closure(rule.sql) if part.name != "params")])
    params = {
        name: value
        for name, value in runs.rows("SELECT * FROM params")[0].items()
        if re.search(rf"(?<!AS )\b{name}\b(?!\.)", used)  # and not an alias of that name
    }
    tasks = runs.rows(runs.compose(rules()["task_counts"].sql))[0]
    names = {used.name for used in closure(rule.sql)}
    recovery = "first_recovery_state" in names
    return Summary(
        method=rule.name,
        params=params,
        iteration=runs.rows(runs.compose("SELECT iteration FROM current_iteration"))[0]["iteration"],
        n_trajectories=runs.rows("SELECT count(*) AS n FROM outcomes")[0]["n"],
        n_tasks=tasks["n_tasks"],
        n_solved_tasks=tasks["n_solved"],
        n_tasks_with_example=tasks["n_with_example"],
        kinds=runs.rows(
            "SELECT kind, count(*) AS n_examples, sum(n_trained_steps)::BIGINT AS n_trained_steps, "
            "sum(n_expert_steps)::BIGINT AS n_expert_steps FROM selected GROUP BY kind ORDER BY kind"
        ),
        left_out=runs.rows(runs.compose(rules()["left_out"].sql)),
        n_recovery_states=runs.rows(runs.compose("SELECT count(*) AS n FROM first_recovery_state"))[0]["n"]
        if recovery
        else None,
        input_fingerprint=_fingerprint(runs),
    )


def _write(runs: Runs, rule: Rule, out: Path, summary: Summary) -> None:
    import pyarrow.parquet as pq

    footer = {
        "trajkit.version": trajkit.__version__,
        "trajkit.method": rule.name,
        "trajkit.method_sql": rule.sql,
        "trajkit.params": json.dumps(summary.params, sort_keys=True),
        "trajkit.iteration": json.dumps(summary.iteration),
        "trajkit.input_fingerprint": summary.input_fingerprint,
    }
    hidden = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with hidden.open("wb") as file:
            schema = _schema().with_metadata(footer)
            # Without Arrow's own copy of the schema the file says no more than Parquet does.
            writer = pq.ParquetWriter(file, schema, compression="zstd", store_schema=False)
            shown = bar(desc="writing", total=summary.n_examples, unit=" examples")
            with writer, shown, ThreadPoolExecutor(1) as thread:  # one row group is written while the next is read
                writing = None
                for table in _tables(runs, rule):
                    if writing:
                        writing.result()
                    writing = thread.submit(writer.write_table, table, row_group_size=table.num_rows)
                    shown.update(table.num_rows)
                if writing:
                    writing.result()
                writer.add_key_value_metadata(footer)
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(out)
    except OSError as error:
        raise TrajkitError(
            f"{out}: cannot be written ({error.strerror or error}). What was there before is untouched; "
            "make room or name another place with --out."
        ) from error
    finally:
        hidden.unlink(missing_ok=True)


def _fingerprint(runs: Runs) -> str:
    """A digest of the trajectories' rows (not of their text), the same for any order and split over files."""
    columns = ("trajectory_id", "task_id", "split", "role", "solved", "value", "branch_step", "n_steps")
    text = ", chr(31), ".join(columns)
    [row] = runs.rows(f"SELECT sum(CAST(md5_number_lower(concat({text})) AS HUGEINT)) AS total FROM outcomes")
    return f"{int(row['total'] or 0):x}"


def _schema() -> pa.Schema:
    import pyarrow as pa

    text, number = pa.large_string(), pa.int32()
    types = dict.fromkeys(_EXAMPLE, text)
    types |= dict.fromkeys(("from_step", "n_steps", "n_trained_steps", "n_expert_steps", "iteration"), number)
    types["reward"] = pa.float64()
    own = {"weight": pa.float32(), "token_ids": pa.list_(number)}
    message = pa.struct([pa.field(name, own.get(name, text)) for name in _MESSAGE])
    return pa.schema(
        [*(pa.field(name, types[name]) for name in _EXAMPLE), pa.field("messages", pa.large_list(message))]
    )


def _tables(runs: Runs, rule: Rule) -> Iterator[pa.Table]:
    """The examples in order, a table per row group."""
    import pyarrow as pa
    import pyarrow.compute as pc

    schema = _schema()
    first = 0
    for messages in _message_groups(runs):
        ends = pc.run_end_encode(messages["example_number"].combine_chunks()).run_ends
        last = first + len(ends)
        with runs.errors():
            head = runs.con.sql(
                "SELECT *, $method AS method FROM selected "
                "WHERE example_number >= $first AND example_number < $last ORDER BY example_number",
                params={"method": rule.name, "first": first, "last": last},
            ).to_arrow_table()
        if head.num_rows < len(ends) or not _sound(messages, ends, head):
            break
        columns = [messages[name].combine_chunks() for name in _MESSAGE]
        offsets = pa.concat_arrays([pa.array([0], pa.int64()), ends.cast(pa.int64())])
        lists = pa.LargeListArray.from_arrays(offsets, pa.StructArray.from_arrays(columns, _MESSAGE))
        yield pa.table([*(head[name] for name in _EXAMPLE), lists], names=schema.names).cast(schema)
        first = last
    if first < runs.rows("SELECT count(*) AS n FROM selected")[0]["n"]:
        refuse_chosen(runs)  # names the trajectory and the mistake
        raise BadData(f"{runs.path}: a chosen trajectory's messages are not in order; `trajkit validate` says which.")


def _sound(messages: pa.Table, ends: pa.Array, head: pa.Table) -> bool:
    """Whether each example's messages are sound and numbered from 0 without gap, each step is the number of actions
    before it, and there are as many actions as the trajectories say. `ends` are the rows where the examples end."""
    import pyarrow as pa
    import pyarrow.compute as pc

    last = pc.subtract(ends, 1)
    if not messages["example_number"].take(last).combine_chunks().equals(head["example_number"].combine_chunks()):
        return False
    starts = pa.concat_arrays([pa.array([0], ends.type), ends[:-1]])
    start = pc.run_end_decode(pa.RunEndEncodedArray.from_arrays(ends, starts))  # of each message's example
    row = pc.subtract(pc.cumulative_sum(pa.repeat(pa.scalar(1, ends.type), messages.num_rows)), 1)
    actions = pc.cast(messages["is_action"].combine_chunks(), ends.type)
    before = pc.subtract(pc.cumulative_sum(actions), actions)
    n_actions = pc.add(pc.subtract(before.take(last), before.take(starts)), actions.take(last))
    return bool(
        pc.all(pc.equal(messages["seq"], pc.subtract(row, start))).as_py()
        and pc.all(pc.equal(messages["step"], pc.subtract(before, before.take(start)))).as_py()
        and pc.all(pc.equal(n_actions, head["n_steps"])).as_py()
        and pc.all(messages["is_sound"]).as_py()
    )


def _message_groups(runs: Runs) -> Iterator[pa.Table]:
    """The messages of the selected examples in order, cut between examples into row groups."""
    import pyarrow as pa
    import pyarrow.compute as pc

    with runs.errors(), runs.con.cursor() as cursor:
        cursor.execute(f"SET search_path = '{MADE},main'")
        reader = cursor.sql(runs.compose(rules()["selected_messages"].sql)).to_arrow_reader(BATCH_ROWS)
        waiting: list[pa.RecordBatch] = []
        current, n_examples, n_bytes = -1, 0, 0
        for batch in reader:
            encoded = pc.run_end_encode(batch["example_number"])
            sizes = pc.cumulative_sum(
                pc.fill_null(pc.cast(pc.binary_length(batch["content"]), pa.int64()), 0)
            ).to_pylist()
            start = begin = 0
            for number, end in zip(encoded.values.to_pylist(), encoded.run_ends.to_pylist(), strict=True):
                if number != current:
                    if n_examples >= GROUP_EXAMPLES or n_bytes >= GROUP_BYTES:
                        waiting.append(batch.slice(start, begin - start))
                        yield pa.Table.from_batches(waiting)
                        waiting, start, n_examples, n_bytes = [], begin, 0, 0
                    current, n_examples = number, n_examples + 1
                n_bytes += sizes[end - 1] - (sizes[begin - 1] if begin else 0)
                begin = end
            waiting.append(batch.slice(start))
        if n_examples:
            yield pa.Table.from_batches(waiting)
