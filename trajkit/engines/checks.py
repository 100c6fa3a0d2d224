"""What is wrong with the tables: sql/checks/ holds a query per mistake, `validate` runs them all.

`select` runs those that matter to its answer, on the trajectories that matter to it, and refuses.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from trajkit.console import clean
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import BadData, TrajkitError
from trajkit.rules import Rule, closure, materialized, references, rules
from trajkit.runs.digests import SUMS, damage, damaged_page, read_sums
from trajkit.runs.listing import all_parts
from trajkit.runs.object_store import Location, Url, let_read
from trajkit.runs.parquet_sql import column_problems, first_line, source_of, torn, typed_sql
from trajkit.runs.schema import ROLES

if TYPE_CHECKING:
    from trajkit.engines.base import Engine

# Where a finding of a check stops `select`: the trajectories that it looks at.
WITH_SCORER = "SELECT * FROM relevant_trajectories"
RELEVANT = f"{WITH_SCORER} WHERE coalesce(role, '') != 'scorer'"
CHOSEN = "SELECT * FROM written_trajectories"
CONFLICTS_NAMED = 10


@dataclass(frozen=True)
class Problem:
    """One mistake: the check that found it, the trajectory (or None), what is wrong, and where it lies.

    `warning`: it may be none.
    """

    check: str
    trajectory_id: str | None
    problem: str
    where: str
    warning: bool = False


def refuse_input(runs: Engine, method: Rule) -> None:
    """Raise BadData if a row that `method` looks at holds a mistake that could change its answer."""
    read = {method.name, *(rule.name for rule in closure(method.sql)), "every method"}
    read |= {f"{name} itself" for name in references(method.sql)}
    repeats = runs.rows("SELECT 1 AS one FROM repeated LIMIT 1")  # without any, what looks for them reads all messages
    checks = [
        rule
        for rule in _checks()
        if read & set(_refused(rule)) and rule.name not in method.named("Ignores")
        if repeats or "repeated" not in references(rule.sql)
    ]
    _refuse(runs, checks, WITH_SCORER if "scorer" in roles_read(method) else RELEVANT)


def refuse_chosen(runs: Engine) -> None:
    """Raise BadData if a trajectory on a selected path has a mistake."""
    _refuse(runs, [rule for rule in _checks() if "nothing" not in _refused(rule)], CHOSEN)


def make_materialized(runs: Engine, method: Rule | None = None) -> list[str]:
    """Put into tables what the checks read more than once, and `method`; returns the names of the rules."""
    made = materialized([*_checks(), *([method] if method else [])], given=runs.made)
    for rule in made:
        runs.make(rule.name, rule.sql)
    return [rule.name for rule in made]


def _checks() -> list[Rule]:
    return [rule for rule in rules().values() if rule.kind == "checks"]


def _refused(check: Rule) -> list[str]:
    """Of which methods a finding stops `select`: every method, those that read these rules, or none but by what is
    chosen."""
    return re.split(r", ", check.keys["Select refuses"].removeprefix("methods that read "))


def roles_read(rule: Rule) -> set[str]:
    """The roles whose trajectories `rule` takes, itself or through the rules that it reads.

    A role that the SQL excludes (`role != 'scorer'`) is none of them.
    """
    used = " ".join(part.sql for part in (rule, *closure(rule.sql)) if part.name != "params")
    asked = re.sub(r"--[^\n]*|(?:!=|<>)\s*'\w*'|\bNOT\s+IN\s*\([^)]*\)", "", used, flags=re.IGNORECASE)
    return {role for role in ROLES if f"'{role}'" in asked}


def contradictions(runs: Engine) -> int:
    """How many trajectories that rules look at say and do the same as another one, and came to another outcome."""
    runs.view("checked", RELEVANT)
    [row] = runs.rows(f"SELECT count(*) AS n FROM ({runs.compose(rules()['contradictions'].sql)}) AS c")
    found: int = row["n"]
    return found


def conflicts(runs: Engine) -> list[str]:
    """The tasks that no rule takes, for the files say two splits or two environments of them, in order."""
    query = "SELECT task_id FROM task_worlds WHERE problem IS NOT NULL AND task_id IS NOT NULL ORDER BY task_id"
    return [row["task_id"] for row in runs.rows(runs.compose(query))]


def told_conflicts(tasks: Sequence[str], why: str = "two splits or two envs are said of them in the files") -> str:
    """What people are told of them: ten by name, and what says where they lie."""
    named = ", ".join(clean(task) for task in tasks[:CONFLICTS_NAMED])
    more = f" and {len(tasks) - CONFLICTS_NAMED:,} more" if len(tasks) > CONFLICTS_NAMED else ""
    return f"{len(tasks):,} tasks left out, for {why} (`trajkit validate` says where): {named}{more}"


def validate(path: str | os.PathLike[str]) -> Iterator[Problem]:
    """Every mistake in a runs/ folder: first those of whole files, then those of rows in the files that are sound, then
    the warnings."""
    unsound: set[Location] = set()
    checked: set[Location] = set()
    for folder in dict.fromkeys(file.parent for _, file in _files(path)):
        yield from _missing(folder)
    while new := [(table, file) for table, file in _files(path) if file not in checked]:
        for table, file in new:
            checked.add(file)
            problems = list(_file_problems(table, file))
            if problems and not _gone(file):
                unsound.add(file)
                yield from problems
    try:
        with DuckDBEngine(path, without=unsound) as runs:
            make_materialized(runs)
            runs.view("checked", "SELECT * FROM outcomes")
            for kind in ("checks", "warnings"):
                for rule in rules().values():
                    if rule.kind == kind:
                        yield from _run(runs, rule)
    except TrajkitError:
        files = [(table, file) for table, file in _files(path) if file not in unsound]
        problems = [p for table, file in files for p in list(_row_problems(table, file)) if not _gone(file)]
        if not problems:
            raise
        yield from problems
        reason = "the rows of the other files were not all checked, for these files stopped it"
        yield Problem("not_checked", None, reason, str(path))


def _files(path: str | os.PathLike[str]) -> list[tuple[str, Location]]:
    return [(table, file) for table, files in all_parts(path).items() for file in files]


def _gone(file: Location) -> bool:
    """Whether it is no longer there: `compact` has put its rows into another."""
    return not file.exists() if isinstance(file, Url) else not os.path.lexists(file)


def _refuse(runs: Engine, checks: Iterable[Rule], checked: str) -> None:
    runs.view("checked", checked)
    complaints = []
    for rule in checks:
        for first in _run(runs, rule, limit=1):
            [row] = runs.rows(f"SELECT count(DISTINCT trajectory_id) AS n FROM ({runs.compose(rule.sql)})")
            more = f" ({row['n']:,} such trajectories)" if row["n"] > 1 else ""
            who = f"trajectory {first.trajectory_id}: " if first.trajectory_id else ""
            complaints.append(f"{first.where}: {rule.name}: {who}{first.problem}{more}.")
    if complaints:
        raise BadData(
            "\n".join(complaints)
            + "\nThat would make the answer wrong, so nothing was written. Mend these rows or move "
            f"their file out of the runs; `trajkit validate {runs.path}` lists all."
        )


def _run(runs: Engine, rule: Rule, limit: int | None = None) -> Iterator[Problem]:
    found = runs.rows(f"{runs.compose(rule.sql)} ORDER BY ALL{f' LIMIT {limit}' if limit else ''}")
    if not found:
        return
    table = "messages" if "seq" in found[0] else "trajectories"
    keys = [(row["trajectory_id"], row.get("seq")) for row in found]
    places = runs.places(table, set(keys))
    tasks = {(row["task_id"], None) for row in found if "task_id" in row and row["trajectory_id"] is None}
    of_tasks = runs.places("tasks", tasks) if tasks else {}
    for row, key in zip(found, keys, strict=True):
        at = of_tasks.get((row.get("task_id"), None)) if row["trajectory_id"] is None else None
        where = at or places.get(key, str(runs.path))
        yield Problem(rule.name, row["trajectory_id"], row["problem"], where, rule.kind == "warnings")


def _file_problems(table: str, file: Location) -> Iterator[Problem]:
    import duckdb

    if reason := torn(file) or _damage(file):
        yield Problem("torn_file", None, reason, str(file))
        return
    try:
        types = _types(file)
    except duckdb.Error as error:
        yield Problem("torn_file", None, f"cannot be read: {first_line(error)}", str(file))
        return
    for problem in column_problems(table, types):
        yield Problem("columns", None, problem, str(file))


def _missing(folder: Location) -> Iterator[Problem]:
    """The files that SHA256SUMS names and that are not there."""
    try:
        given = read_sums(folder)
    except BadData:
        return  # what is said of each of its files
    for name in given:
        if not (folder / name).exists() and folder.exists():
            reason = f"it is not there, and {SUMS} beside it names it. Restore it, or take its line away"
            yield Problem("missing_file", None, reason, str(folder / name))


def _damage(file: Location) -> str | None:
    """What the digest beside the file, or the checksums of its pages where it has none, say against it."""
    try:
        given = read_sums(file.parent)
        if file.name not in given:
            return damaged_page(file)
        with file.open("rb") as opened:
            return damage(file, cast(BinaryIO, opened), given)
    except (BadData, OSError) as error:
        return f"cannot be verified: {error}"


def _row_problems(table: str, file: Location) -> Iterator[Problem]:
    """What stops the reading of a file whose footer is sound."""
    import duckdb

    try:
        rows = typed_sql(table, source_of(file), _types(file))
        _ask(file, f"SELECT max(hash(t)) FROM ({rows}) AS t")
    except duckdb.ConversionException as error:
        yield Problem("columns", None, f"a value is out of range: {first_line(error)}", str(file))
    except duckdb.Error as error:
        yield Problem("torn_file", None, f"damaged inside: {first_line(error)}", str(file))


def _types(file: Location) -> dict[str, str]:
    return {name: kind for name, kind, *_ in _ask(file, f"DESCRIBE SELECT * FROM {source_of(file)}")}


def _ask(file: Location, query: str) -> list[tuple[Any, ...]]:
    import duckdb

    with duckdb.connect() as con:
        let_read(con, file)
        return con.execute(query).fetchall()
