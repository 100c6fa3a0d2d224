"""`compact` beside an open reader: whatever is asked, at whatever moment, the answer is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trajkit.engines.checks import validate
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import TrajkitError
from trajkit.rules import views
from trajkit.runs.compact import compact
from trajkit.runs.records import record
from trajkit.runs.writer import RunWriter
from trajkit.selection.select import select

RULES = ["trajectories", "messages", "tasks", *views()]


def one(number: int, role: str = "expert", reward: float = 1.0, **more: Any) -> Any:
    messages = [
        {"role": "user", "content": f"task {number % 3}"},
        {"role": "assistant", "content": f"a {number}"},
        {"role": "user", "content": "go on"},
        {"role": "assistant", "content": f"b {number}"},
    ]
    return record(
        messages=messages, task_id=f"t{number % 3}", role=role, reward=reward, iteration=int(role != "expert"), **more
    )


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return write(tmp_path / "runs")


def write(folder: Path, first: int = 0) -> Path:
    for number in range(first, first + 6):
        with RunWriter(folder / "run") as writer:
            writer.add(one(number, "expert" if number % 2 else "policy", float(number % 4 > 1)))
    return folder


def swap(runs: Path) -> None:
    """What `compact` does to a reader, quicker: every file is gone, and its rows are in another."""
    for part in sorted((runs / "run").iterdir()):
        part.rename(part.with_name(part.name[:-1] + ("0" if part.name[-1] != "0" else "1")))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("asked_before", [False, True])
def test_every_rule_goes_on_answering(runs: Path, name: str, asked_before: bool) -> None:
    with DuckDBEngine(runs) as reader:
        expected = reader.rule(name)
    with DuckDBEngine(runs) as reader:
        if asked_before:
            assert reader.rule(name).equals(expected)
        else:
            reader.rule("outcomes")
        swap(runs)
        assert reader.rule(name).equals(expected)
        swap(runs)
        assert reader.rule(name).equals(expected)


@pytest.mark.parametrize("method", ["eef", "eto"])
def test_at_every_moment_of_a_selection(
    tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The files change places before the n-th statement that DuckDB is given, for every n."""
    expected = select(runs, tmp_path / "expected.parquet", method)
    n_asked = 0

    def at(moment: int) -> Callable[..., Any]:
        nonlocal n_asked
        n_asked = 0
        ask = DuckDBEngine._ask

        def counted(self: DuckDBEngine, query: str, run: Callable[[], Any]) -> Any:
            nonlocal n_asked
            n_asked += 1
            if n_asked == moment:
                swap(runs)
            return ask(self, query, run)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(DuckDBEngine, "_ask", at(-1))
        select(runs, tmp_path / "again.parquet", method)
    moments = n_asked
    assert moments > 10
    for moment in range(1, moments + 1, max(1, moments // 7)):
        with monkeypatch.context() as patch:
            patch.setattr(DuckDBEngine, "_ask", at(moment))
            assert select(runs, tmp_path / "again.parquet", method) == expected
        assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "expected.parquet").read_bytes()


def test_with_compact_itself(runs: Path) -> None:
    with DuckDBEngine(runs) as reader:
        expected = {name: reader.rule(name) for name in ("outcomes", "path_segments", "initial", "eef")}
    with DuckDBEngine(runs) as reader:
        reader.rule("outcomes")
        assert compact(runs).runs[0].parts_after == 1
        for name, answer in expected.items():
            assert reader.rule(name).equals(answer), name


def test_a_part_that_goes_while_a_view_is_made(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the statement that makes the view fails, the view is still to be made."""
    statements, done = DuckDBEngine._view_statements, []

    def and_parts_go(self: DuckDBEngine, name: str, *given: Any) -> Any:
        if name == "initial" and not done:
            done.append(name)
            swap(runs)
        return statements(self, name, *given)

    with DuckDBEngine(runs) as reader:
        expected = reader.rule("initial")
    with DuckDBEngine(runs) as reader:
        monkeypatch.setattr(DuckDBEngine, "_view_statements", and_parts_go)
        assert reader.rule("initial").equals(expected) and done


def test_answers_of_before_are_not_mixed_with_trajectories_of_after(runs: Path) -> None:
    with DuckDBEngine(runs) as reader:
        reader.make("outcomes", views()["outcomes"].sql)
        write(runs, first=6)
        swap(runs)
        with pytest.raises(TrajkitError, match=r"trajectories were added .* Run this again"):
            reader.rule("path_segments")
    with DuckDBEngine(runs) as reader:  # where nothing was made of what lay there before, it is as if opened anew
        assert reader.rule("outcomes").height == 12
        write(runs, first=12)
        swap(runs)
        assert reader.rule("outcomes").height == 18
        assert reader.rule("path_segments")["trajectory_id"].n_unique() == 18


def test_batches_that_begin_after_it(runs: Path) -> None:
    with DuckDBEngine(runs) as reader:
        batches = reader.batches("SELECT * FROM messages ORDER BY ALL", 5)
        swap(runs)
        assert sum(batch.num_rows for batch in batches) == 24


def test_validate_beside_it(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trajkit.engines.checks as checks

    with RunWriter(runs / "run") as writer:  # a mistake, so that places are looked for
        wrong = one(7)
        wrong.trajectory["n_steps"] = 5
        writer.add(wrong)
    expected = [(problem.check, problem.trajectory_id) for problem in validate(runs)]
    assert expected and {check for check, _ in expected} == {"n_steps_mismatch"}
    for name in ("_file_problems", "_run"):
        for when in (1, 2, 3):
            found, calls = getattr(checks, name), 0

            def swapping(*args: Any, found: Any = found, when: int = when, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == when:
                    swap(runs)
                return found(*args, **more)

            with monkeypatch.context() as patch:
                patch.setattr(checks, name, swapping)
                assert [(p.check, p.trajectory_id) for p in validate(runs)] == expected, (name, when)
    with monkeypatch.context() as patch:
        places, done = DuckDBEngine.places, []

        def and_swap(self: DuckDBEngine, *args: Any) -> Any:
            done.append(swap(runs))
            return places(self, *args)

        patch.setattr(DuckDBEngine, "places", and_swap)
        assert all(Path(problem.where.split(" (")[0]).exists() for problem in validate(runs)) and done
