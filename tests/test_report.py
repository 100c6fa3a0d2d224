"""`trajkit report`: the file holds what the tables hold, whole or not at all, cut only where it says so."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import trajkit

pytest.importorskip("altair", reason="the charts of a report need Altair (pip install 'trajkit[report]')")

import trajkit.display.report.tasks as tasks_module
from envs.webshop import Expert, Novice, WebShop
from trajkit.display.report import report
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import UsageError
from trajkit.exploration.explore import Settings, explore
from trajkit.runs.records import record
from trajkit.runs.writer import RunWriter

MESSAGE_ROLES = {3: "system", 4: "user", 5: "assistant", 6: "tool"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDBEngine]:
    folder, env = tmp_path_factory.mktemp("reported"), WebShop(train_tasks=52)
    explore(folder, env, Expert(), plans=["initial"], settings=Settings("expert", 0))
    explore(folder, env, Novice(), plans=["initial", "skip_length"], settings=Settings("policy", 1))
    with DuckDBEngine(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(runs: DuckDBEngine, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("out") / "report.html"
    options = ("--method", "eef", "--method", "eto", "--skill", r"next=click\[next", "--iteration", 1, "--set", "m=3")
    result = trajkit("report", "--runs", runs.path, "--out", out, *options, "--json")
    assert (result.code, result.err) == (0, "")
    said = json.loads(result.out)
    assert [file.name for file in out.parent.iterdir()] == ["report.html"]
    assert (said["bytes"], said["tasks"], said["cut_texts"]) == (out.stat().st_size, 52, 0)
    return out.read_text()


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of the time goes into charts, which other tests draw."""
    monkeypatch.setattr("trajkit.display.report.charts.charts", lambda *_: iter(()))


def blocks(page: str) -> dict[str, Any]:
    """What is packed in the page, by its id."""
    found = re.findall(r'<script type="application/gzip;base64" id="([\w-]+)">([A-Za-z0-9+/=]*)</script>', page)
    return {name: json.loads(gzip.decompress(base64.b64decode(packed))) for name, packed in found}


def unpacked(page: str) -> list[tuple[dict[str, Any], list[Any]]]:
    """Each task, and the texts of its chunk."""
    found = blocks(page)
    chunks = [found[f"chunk-{number}"] for number in range(len(found) - 1)]
    return [(task, chunk["texts"]) for chunk in chunks for task in chunk["tasks"]]


def test_the_index_says_what_the_tables_say(runs: DuckDBEngine, page: str) -> None:
    index = blocks(page)["index"]
    columns = index["columns"]
    wanted = runs.rows(
        "SELECT task_id AS id, count(*) AS trajectories, count(CASE WHEN solved THEN 1 END) AS solved, "
        "max(CASE WHEN role = 'policy' THEN value END) AS policy FROM outcomes GROUP BY task_id ORDER BY task_id"
    )
    assert [{name: columns[name][n] for name in wanted[0]} for n in range(len(wanted))] == wanted
    solver = {row["task_id"]: row["solver"] for row in runs.rows("FROM task_outcomes WHERE iteration IS NULL")}
    assert [tasks_module.SOLVERS[number] for number in index["solvers"]["all"]] == [solver[id] for id in columns["id"]]
    recovered = {row["task_id"] for row in runs.rows("FROM first_recovery_state")}
    assert {id for id, found in zip(columns["id"], columns["recovery"], strict=True) if found} == recovered
    assert not index["left_out"]
    assert index["starts"] == [0, 50]
    assert not columns["text"][0].startswith("WebShop")  # what all instructions begin with says nothing


def test_task_outcomes_in_plain_python(runs: DuckDBEngine) -> None:
    found = {(row["task_id"], row["iteration"]): row["solver"] for row in runs.rows("FROM task_outcomes")}
    rows = runs.rows("FROM outcomes")
    assert found.keys() == {
        (row["task_id"], iteration)
        for row in rows
        for iteration in (None, row["iteration"])
        if iteration is None or row["role"] == "policy"
    }
    for (task, iteration), solver in found.items():
        own = [row for row in rows if row["task_id"] == task]
        own = [row for row in own if row["role"] == "expert" or iteration in (None, row["iteration"])]
        solved = [(row["role"], row["branch_step"] == 0) for row in own if row["solved"]]
        assert solver == (
            "policy" if ("policy", True) in solved
            else "expert" if any(role == "expert" for role, _ in solved)
            else "branch" if solved
            else "unsolved" if any(row["solved"] is not None for row in own)
            else "none"
        )  # fmt: skip


def test_every_message_lies_there_once(runs: DuckDBEngine, page: str) -> None:
    found = []
    for task, texts in unpacked(page):
        for trajectory, messages in zip(task["t"], task["m"], strict=True):
            found += [
                (task["id"], trajectory[0], message[0], MESSAGE_ROLES[message[1]], texts[message[2]])
                for message in messages
            ]
    wanted = runs.rows(
        "SELECT t.task_id, m.trajectory_id, m.step, m.role, m.content FROM messages AS m "
        "JOIN trajectories AS t USING (trajectory_id)"
    )
    assert sorted(found) == sorted(tuple(row.values()) for row in wanted)


def test_what_methods_choose_lies_with_its_task(runs: DuckDBEngine, page: str) -> None:
    examples, pairs = [], []
    for task, _ in unpacked(page):
        ids = [trajectory[0] for trajectory in task["t"]]
        for method, chosen, kind, side, expert, from_step, _, row, _ in task["answers"]:
            if method == 0:
                examples.append((task["id"], kind, ids[chosen], None if expert is None else ids[expert], from_step))
            else:
                pairs.append((row, side, ids[chosen]))
    rows = runs.rows("SELECT task_id, kind, trajectory_id, expert_id, from_step FROM eef")
    assert sorted(examples, key=str) == sorted((tuple(row.values()) for row in rows), key=str)
    sides = {row: {side: id for n, side, id in pairs if n == row} for row, _, _ in pairs}
    rows = runs.rows("SELECT chosen_id, rejected_id FROM eto")
    assert sorted((pair["chosen"], pair["rejected"]) for pair in sides.values()) == sorted(
        tuple(row.values()) for row in rows
    )


def test_the_policy_lets_only_this_script_and_style_run(page: str) -> None:
    [policy] = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    [script], [style] = (
        re.findall(r"<script>(.*?)</script>", page, re.DOTALL),
        re.findall(r"<style>(.*?)</style>", page, re.DOTALL),
    )
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    assert html.unescape(policy) == (
        f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(",
        script.replace("(no innerHTML, no document.write)", ""),
    )
    assert not re.search(
        r"(?:https?:)?//(?!www\.w3\.org/2000/svg)\w", re.sub(r"<script type.*?</script>", "", page).replace(script, "")
    )
    assert not re.search(r"\sstyle=", page)  # the policy would refuse it


def test_the_charts_commands_give_their_numbers(runs: DuckDBEngine, page: str) -> None:
    import shlex

    commands = [html.unescape(code) for code in re.findall(r'<div class="command"><code>(.*?)</code>', page, re.DOTALL)]
    assert len(commands) >= 8
    for command in commands[:2]:
        program, *args = shlex.split(command)
        assert (program, args[-4:]) == ("trajkit", ["--set", "m=3", "--set", "iteration=1"])
        assert trajkit(*args).code == 0


@pytest.mark.usefixtures("no_charts")
def test_what_does_not_fit_is_cut_and_said(runs: DuckDBEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_module, "SAMPLED_TASKS", 10)
    whole = report(runs.path, tmp_path / "whole.html")
    packed = sum(
        len(block) for block in re.findall(r'base64" id="chunk[^>]*>([^<]*)', (tmp_path / "whole.html").read_text())
    )
    for share, cuts_texts in ((0.8, True), (0.02, True)):
        monkeypatch.setattr(tasks_module, "BYTES", int(share * packed))
        written = report(runs.path, tmp_path / "cut.html")
        assert written.tasks == whole.tasks
        assert written.trajectories == whole.trajectories
        assert written.bytes < whole.bytes
        assert bool(written.cut_texts) == cuts_texts
        text = (tmp_path / "cut.html").read_text()
        assert blocks(text)["index"]["left_out"] == written.left_out()
        assert all(line in written.text() for line in written.left_out())
        assert "trajkit show ID --full" in written.text()
        n_cut = 0
        for task, texts in unpacked(text):
            for message in (message for messages in task["m"] or [] for message in messages or []):
                if isinstance(texts[message[2]], list):
                    content, length = texts[message[2]]
                    assert len(content) == written.text_limit < length
                    n_cut += 1
        assert n_cut == written.cut_texts
        assert sum(task["m"] is None for task, _ in unpacked(text)) == written.tasks_without_messages
    assert written.tasks_without_messages  # of 2% of the size


@pytest.mark.usefixtures("no_charts")
def test_tool_calls_reasoning_and_numbers_that_json_lacks(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    told = record(
        task_id="t", role="expert", reward=0.5,
        messages=[
            {"role": "system", "content": "s"},
            {"role": "assistant", "content": "shown", "context": True},
            {"role": "user", "content": "x" * 30_000},
            {"role": "assistant", "content": None, "reasoning": "why", "tool_calls": [call]},
            {"role": "tool", "content": "\U0001f600 seen </script>", "tool_call_id": "c1", "name": "look"},
        ],
    )  # fmt: skip
    with RunWriter(tmp_path / "runs" / "own") as writer:
        writer.add(told)
    written = report(tmp_path / "runs", tmp_path / "r.html", ("sft_all",))
    assert (written.cut_texts, written.text_limit) == (1, 20_000)
    [(task, texts)] = unpacked((tmp_path / "r.html").read_text())
    [messages] = task["m"]
    assert messages[1][3] == {"context": True}
    assert texts[messages[2][2]] == ["x" * 20_000, 30_000]
    assert messages[3][2] is None
    assert texts[messages[3][3]["reasoning"]] == "why"
    assert json.loads(texts[messages[3][3]["calls"]])[0]["function"]["name"] == "look"
    assert {name: texts[number] for name, number in messages[4][3].items()} == {"call_id": "c1", "name": "look"}


@pytest.mark.usefixtures("no_charts")
def test_a_failed_report_leaves_what_was_there(
    runs: DuckDBEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report.html"
    out.write_text("before")

    def full(*_: Any) -> Iterator[bytes]:
        yield b"x"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trajkit.display.report.pack", full)
    result = trajkit("report", "--runs", runs.path, "--out", out)
    assert (result.code, out.read_text(), list(tmp_path.iterdir())) == (1, "before", [out])
    assert "No space left on device" in result.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--method", "eff"], "did you mean eef"),
        (["--skill", "next"], "--skill NAME=REGEX"),
        (["--set", "rate=1"], "there is no such parameter"),
        (["--out", "nowhere/report.html"], "Make it first (mkdir -p"),
    ],
)
def test_wrong_calls_say_the_way_out(runs: DuckDBEngine, tmp_path: Path, args: list[str], said: str) -> None:
    out = [] if "--out" in args else ["--out", tmp_path / "report.html"]
    result = trajkit("report", "--runs", runs.path, *out, *args)
    assert result.code == 2
    assert said in result.err
    assert not list(tmp_path.iterdir())


def test_a_folder_without_trajectories_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no trajectories"):
        report(tmp_path, tmp_path.parent / "report.html")
