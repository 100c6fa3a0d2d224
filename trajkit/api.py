"""The public face in Python: what `import trajkit` gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import polars as pl
from polars.io.plugins import register_io_source

from trajkit.console import screen
from trajkit.display.report import Report
from trajkit.display.report import report as write_report
from trajkit.display.terminal import find, picture
from trajkit.engines import opened
from trajkit.engines.base import Engine, refuse_unknown
from trajkit.engines.checks import Problem
from trajkit.engines.checks import validate as problems
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import UsageError
from trajkit.exploration.env import Env, Message, Policy, Task
from trajkit.exploration.explore import explore as run_plans
from trajkit.exploration.pending import Counts as Explored
from trajkit.exploration.policies import AsyncPolicy
from trajkit.exploration.rollouts import Settings
from trajkit.exporters import Options as ExportOptions
from trajkit.exporters import Summary as Exported
from trajkit.exporters import export as export_file
from trajkit.importers import Counts as Imported
from trajkit.importers import Options as ImportOptions
from trajkit.importers import import_files
from trajkit.rules import method as find_method
from trajkit.rules import param_names
from trajkit.selection.explain import explain, told
from trajkit.selection.select import Summary, select, selected

BATCH_ROWS = 50_000  # of a table that is scanned

__all__ = [
    "AsyncPolicy", "Env", "Message", "Policy", "Problem", "Runs", "Summary", "Task", "explore", "export", "import_logs",
    "open", "report", "select", "validate",
]  # fmt: skip


class Runs:
    """A runs/ folder opened for questions. `open` makes one; it is a context manager.

    Tables, rules, plans and methods are relations of these names (docs/tables.md, docs/rules.md). Answers are Polars
    frames. A keyword of `rule`, `select` and `write` replaces a parameter of the rules (sql/concepts/params.sql) for
    that one answer.
    """

    def __init__(
        self, path: str | os.PathLike[str], engine: str, master: str | None, params: Mapping[str, Any]
    ) -> None:
        self._path, self._engine_name, self._master, self._params = path, engine, master, dict(params)
        self._frames: dict[str, pl.DataFrame] = {}
        self._others: dict[str, Engine] = {}
        self._engine = self._opened({})

    def sql(self, query: str, params: Mapping[str, Any] | Sequence[Any] | None = None) -> pl.DataFrame:
        """The answer to SQL in DuckDB's dialect.

        `params` are the values of `$name` (a mapping) or `?` (a sequence) in it; None: it has none. Raises UsageError
        where the SQL is wrong, and for `params` on Spark.

            runs.sql("SELECT role, count(*) AS n FROM trajectories WHERE env = $env GROUP BY role", {"env": "webshop"})
        """
        if not params:
            return self._engine.sql(query)
        if not isinstance(self._engine, DuckDBEngine):
            raise UsageError("params: Spark takes none; write the values into the query.")
        return self._engine.sql(query, params=params)

    def rule(self, name: str, **params: Any) -> pl.DataFrame:
        """A table, rule, plan or method by its name, its rows in a total order.

        Raises UsageError for an unknown name or parameter.

            runs.rule("first_recovery_state", solved_rate=0.25)
        """
        return self._opened(params).rule(name)

    def select(
        self,
        method: str = "eef",
        *,
        allow_read: Collection[str | os.PathLike[str]] = (),
        trust: bool = False,
        **params: Any,
    ) -> pl.DataFrame:
        """What `write` would write, as a frame: a row per example, pair or trajectory with values.

        `method` is a method's name or the path of a .sql file. Such a file may read the runs and the files
        `allow_read`, and nothing else; Spark cannot hold it to that, so there it needs `trust`. Raises UsageError for
        a wrong call, and BadData where the input would make the answer wrong.

            runs.select("rft", per_task=4)
        """
        return selected(self._opened(params), method, allow_read=allow_read, trust=trust)

    def write(
        self, out: str | os.PathLike[str], method: str = "eef", *, allow_empty: bool = False, **params: Any
    ) -> Summary:
        """Write what the method chooses to the Parquet file `out`, as `trajkit select` does. Frames of `register` are
        not read. Raises as `trajkit.select` does.

            runs.write("sft.parquet", "eef")
        """
        given = self._params | params
        return select(
            self._path, out, method, given, engine=self._engine_name, master=self._master, allow_empty=allow_empty
        )

    def scan(self, table: str) -> pl.LazyFrame:
        """A table or rule as a LazyFrame, read in batches when it is collected: only the columns that are asked for.

        Raises UsageError for an unknown name.

            runs.scan("messages").filter(pl.col("role") == "assistant").select("content").collect()
        """
        refuse_unknown(table)
        engine = self._engine
        schema = engine.sql(f"SELECT * FROM {table}", limit=0).schema

        def batches(
            with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
        ) -> Iterator[pl.DataFrame]:
            columns = ", ".join(f'"{name}"' for name in with_columns or schema)
            limit = "" if n_rows is None else f" LIMIT {n_rows}"
            for batch in engine.batches(f"SELECT {columns} FROM {table}{limit}", batch_size or BATCH_ROWS):
                frame = pl.from_arrow(batch)
                assert isinstance(frame, pl.DataFrame)
                yield frame if predicate is None else frame.filter(predicate)

        return register_io_source(batches, schema=schema)

    def register(self, name: str, frame: pl.DataFrame | pl.LazyFrame) -> None:
        """Let `sql` read `frame` under `name`. Given again, it replaces the one before.

        Raises UsageError for a name that a table or rule has.

            runs.register("mine", pl.DataFrame({"task_id": ["a"], "hard": [True]}))
            runs.sql("SELECT * FROM outcomes JOIN mine USING (task_id)")
        """
        whole = frame.lazy().collect()
        for engine in (self._engine, *self._others.values()):
            engine.register(name, whole)
        self._frames[name] = whole

    def statements(self) -> Iterator[str]:
        """The SQL that makes the same views in a DuckDB connection of your own. Raises UsageError on Spark.

        for statement in runs.statements():
            con.execute(statement)
        """
        yield from self._duckdb("statements").statements()

    def show(self, trajectory_id: str | None = None, *, task: str | None = None, full: bool = False) -> None:
        """Print one trajectory, or all of a task: its steps, where the policy failed, what is trained on.

        `trajectory_id` may be the beginning of one. Raises UsageError where none or several begin so, and on Spark.

            runs.show(task="webshop/3")
        """
        console = screen()
        with self._apart("show") as engine:
            for number, found in enumerate(find(engine, trajectory_id, task)):
                if number:
                    console.print()
                for part in picture(engine, found, observations=task is None, full=full, width=console.width):
                    console.print(part)

    def explain(self, task: str, method: str = "eef") -> None:
        """Print why a method chose what it chose of a task, and why each other trajectory was not chosen.

        Raises UsageError for an unknown task or method, and on Spark.

            runs.explain("webshop/3", "rft")
        """
        console = screen()
        with self._apart("explain") as engine:
            for part in told(explain(engine, task, find_method(method))):
                console.print(part)

    def close(self) -> None:
        """Close it. What is temporary goes. Twice is once."""
        for engine in (*self._others.values(), self._engine):
            engine.close()
        self._others = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        [counts] = self._engine.rows(
            "SELECT count(*) AS n, count(DISTINCT task_id) AS tasks, count(*) FILTER (WHERE solved) AS solved "
            "FROM outcomes"
        )
        more = "".join(f", {name}={value!r}" for name, value in self._params.items())
        return (
            f"<trajkit.Runs {str(self._path)!r}: {counts['n']:,} trajectories of {counts['tasks']:,} tasks, "
            f"{counts['solved']:,} solved{more}>"
        )

    def _opened(self, params: Mapping[str, Any]) -> Engine:
        """The engine for these parameters over those that the folder was opened with."""
        if not params and "_engine" in vars(self):
            return self._engine
        if unknown := sorted(params.keys() - set(param_names())):
            raise UsageError(f"{', '.join(unknown)}: no such parameter. Parameters: {', '.join(param_names())}.")
        given = self._params | dict(params)
        key = repr(sorted(given.items()))
        if key not in self._others:
            engine = opened(self._path, given, engine=self._engine_name, master=self._master)
            for name, frame in self._frames.items():
                engine.register(name, frame)
            if not params:
                return engine
            self._others[key] = engine
        return self._others[key]

    def _apart(self, what: str) -> DuckDBEngine:
        """An engine of its own, for what narrows it to one task."""
        self._duckdb(what)
        return DuckDBEngine(self._path, self._params)

    def _duckdb(self, what: str) -> DuckDBEngine:
        if not isinstance(self._engine, DuckDBEngine):
            raise UsageError(f"{what}: it needs the engine duckdb.")
        return self._engine


def open(path: str | os.PathLike[str], *, engine: str = "duckdb", master: str | None = None, **params: Any) -> Runs:
    """Open a runs/ folder.

    `engine` may be "spark", on the cluster `master` (None: as Spark is configured); `path` is then a URL of Spark's,
    too. `params` set the rules' parameters (sql/concepts/params.sql), e.g. `success_reward=0.8`. Raises UsageError for
    a missing folder or an unknown parameter, BadData for a torn file or a mistyped column.

        with trajkit.open("runs/") as runs:
            runs.rule("first_recovery_state")
    """
    if unknown := params.keys() - set(param_names()):
        raise UsageError(f"{', '.join(sorted(unknown))}: no such parameter. Parameters: {', '.join(param_names())}.")
    return Runs(path, engine, master, params)


def import_logs(
    format: str,
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    runs: str | os.PathLike[str],
    *,
    role: str = "policy",
    actor: str | None = None,
    env: str | None = None,
    iteration: int = 0,
    split: str | None = None,
    fields: Mapping[str, str] | None = None,
    strict: bool = False,
    replace: bool = False,
    say: Callable[[str], object] | None = None,
) -> Imported:
    """Import logs of a format into a run below `runs`, as `trajkit import FORMAT` does (docs/importing.md).

    `paths` are files and folders. What is there already is not written again. `actor`, `env` and `split` None: as the
    logs say. `fields` names fields of the files by what they are read as ({"task_id": "instance_id"}). With `strict`
    the first record that cannot become a trajectory raises BadData. With `replace` a corrected record takes the place
    of the one trajectory that says and does the same. `say` is called with lines for the user; None: nobody is told.

    Returns counts of the records: read, imported, duplicates, set_aside. Raises UsageError for a wrong call, BadData
    where nothing could be imported.

        trajkit.import_logs("openai", "logs/", "runs/", role="expert")
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    options = ImportOptions(role, actor, env, iteration, split, fields or {})
    return import_files(
        format,
        [os.fspath(path) for path in given],
        runs,
        options,
        strict=strict,
        replace=replace,
        say=say or (lambda line: None),
    )


def explore(
    runs: str | os.PathLike[str],
    env: Env,
    policy: Policy | AsyncPolicy,
    *,
    iteration: int,
    plans: str | Sequence[str] = "initial",
    role: str = "policy",
    split: str = "train",
    m: int = 5,
    samples: int = 1,
    max_steps: int = 30,
    seed: int = 0,
    concurrency: int = 1,
    env_workers: int = 0,
    step_timeout: float = 300.0,
    make_env: Callable[[], Env] | None = None,
    make_policy: Callable[[], Policy] | None = None,
    allow_read: Collection[str | os.PathLike[str]] = (),
    **params: Any,
) -> Explored:
    """Run every rollout of the plans that is not in `runs` yet, and write it there, as `trajkit explore` does.

    A plan is a built-in one's name or the path of a .sql file, which may read the runs and the files `allow_read`.
    `m`: simulations per expert of the plan skip_length. `samples`: rollouts from each state. `max_steps`: actions on a
    whole path. `concurrency`: rollouts in flight at once. `env_workers`: processes that hold environments; they need
    `make_env` and, for a scripted policy, `make_policy`, which must be picklable; 0: this process. `step_timeout`:
    seconds for a reset, a step or the close of an environment; 0: no limit. `params`: more of the rules' parameters.

    Returns counts: rollouts, solved, failed, no_verdict, drift, error, already_done. Raises UsageError for a wrong
    call, TrajkitError where every rollout ended in error, PolicyGone where a server answers nobody.

        trajkit.explore("runs/", WebShop(), Novice(), iteration=1, plans=["initial", "skip_length"])
    """
    settings = Settings(
        role,
        iteration,
        split=split,
        max_steps=max_steps,
        seed=seed,
        concurrency=concurrency,
        env_workers=env_workers,
        step_timeout=step_timeout,
    )
    asked = [plans] if isinstance(plans, str) else list(plans)
    return run_plans(
        runs,
        env,
        policy,
        plans=asked,
        settings=settings,
        m=m,
        samples=samples,
        params=params,
        make_env=make_env,
        make_policy=make_policy,
        allow_read=allow_read,
    )


def export(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    to: str,
    *,
    tokenizer: str | None = None,
    max_length: int | None = None,
    on_long: str | None = None,
    per_step: bool = False,
    on_refused: str | None = None,
    template_args: Mapping[str, Any] | None = None,
    license: str | None = None,
) -> Exported:
    """Write a file of `select` as another trainer's format `to`, as `trajkit export` does (docs/exporting.md).

    `tokenizer`: the folder, or the name on the hub, of the model whose template makes token ids; None: messages.
    `max_length`: tokens of a row; None: no limit. `on_long` and `on_refused`: what becomes of a row that is too long
    ("error", "drop" or "split") or that the template cannot hold ("error" or "drop"); None: an error. `per_step`: one
    row per trained action. `license`: of the data, by Hugging Face's names; None: unknown.

    Returns counts of the rows: read, written, left_out by reason. Raises UsageError for a wrong call, BadData for a
    file that holds no row that the format can hold.

        trajkit.export("sft.parquet", "sft.jsonl", "trl")
    """
    options = ExportOptions(tokenizer, max_length, on_long, per_step, license, on_refused, template_args or {})
    return export_file(source, out, to, options)


def validate(runs: str | os.PathLike[str]) -> list[Problem]:
    """What is wrong in a runs/ folder: of each problem the check, the trajectory_id (None: a whole file's), the
    problem, where it lies, and whether it is a mere warning. Empty: nothing. Raises UsageError for a missing folder.

        [problem for problem in trajkit.validate("runs/") if not problem.warning]
    """
    return list(problems(runs))


def report(
    runs: str | os.PathLike[str],
    out: str | os.PathLike[str],
    methods: str | Sequence[str] = "eef",
    skills: Mapping[str, str] | None = None,
    **params: Any,
) -> Report:
    """Write the report on `runs` to the HTML file `out`, as `trajkit report` does (docs/reporting.md).

    `methods`: what they choose is marked in the trees. `skills`: regular expressions by name, for the chart of
    navigation skills; None: none. Raises UsageError for a wrong call, BadData where the input would make a method's
    answer wrong.

        trajkit.report("runs/", "report.html", ["eef", "rft"])
    """
    return write_report(Path(runs), out, [methods] if isinstance(methods, str) else list(methods), skills, params)
