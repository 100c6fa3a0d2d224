"""One task of a runs/ folder: `show` and `explain` ask about one, and the folder may hold many thousands."""

from __future__ import annotations

from collections.abc import Collection

from trajkit.engines.duckdb import MADE, DuckDBEngine
from trajkit.errors import UsageError
from trajkit.rules import closure, rules


def one_task(runs: DuckDBEngine, task_id: str, names: Collection[str]) -> None:
    """Answer the rules `names`, and all that they read, for one task: later queries see that task alone.

    Rules decide task by task. Those whose header says `Scope: all tasks` are answered for the whole folder. Raises
    UsageError, naming the closest ids, where no trajectory is of that task.
    """
    whole = [name for name, rule in rules().items() if "Scope" in rule.keys]
    for name in whole:
        runs.make(name, rules()[name].sql)
    with runs.errors():
        runs.con.execute(
            f"CREATE TABLE {MADE}.trajectories AS SELECT * FROM main.trajectories WHERE task_id = ?", [task_id]
        )
    if not runs.rows("SELECT 1 FROM trajectories LIMIT 1"):
        raise unknown(runs, task_id)
    with runs.errors():
        runs.con.execute(
            f"CREATE TABLE {MADE}.messages AS SELECT * FROM main.messages "
            f"SEMI JOIN {MADE}.trajectories USING (trajectory_id)"
        )
    answer(runs, names, given=whole)


def answer(runs: DuckDBEngine, names: Collection[str], given: Collection[str] = ()) -> None:
    """Answer the rules `names`, and all that they read but `given`, each once: later queries read the answers."""
    for rule in closure(" ".join(f"FROM {name}" for name in names), given=given):
        runs.make(rule.name, runs.params_sql if rule.name == "params" else rule.sql)


def unknown(runs: DuckDBEngine, task_id: str) -> UsageError:
    """That there is no such task: which ids are the closest, and how to list all."""
    near = runs.rows(
        "SELECT task_id FROM main.trajectories GROUP BY task_id ORDER BY contains(task_id, $1) DESC, "
        "levenshtein(task_id, $1), task_id LIMIT 3",
        [task_id],
    )
    return UsageError(
        f"--task {task_id}: {runs.path} has no trajectory of such a task"
        f"{' (did you mean ' if near else ''}{', '.join(row['task_id'] for row in near)}{'?)' if near else ''}. "
        f'`trajkit sql "SELECT DISTINCT task_id FROM trajectories" --runs {runs.path} --format csv` lists all.'
    )
