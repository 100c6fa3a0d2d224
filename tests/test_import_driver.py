"""The importers' driver: idempotent, streaming, nothing lost, and a way out in every message."""

from __future__ import annotations

import gzip
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st
from import_helpers import chat_record, files_below, read_runs, run_import, write_lines

from trajkit.cli.import_ import command
from trajkit.errors import BadData, BadRecord, TrajkitError, UsageError
from trajkit.importers import Options, _source, formats, import_files, load
from trajkit.importers._source import Raw, SourceFile, Window, elements, members


class Text(SourceFile):
    """A file that is a string, read a few bytes at a time."""

    def __init__(self, text: str | bytes, name: str = "f.json", size: int = 7) -> None:
        super().__init__(name)
        data = text.encode() if isinstance(text, str) else text
        self.parts = [data[i : i + size] for i in range(0, len(data), size)]

    def chunks(self) -> Any:
        return iter(self.parts)


def read(file: SourceFile, head: int) -> list[Raw]:
    """Its records, told by the first `head` characters how it is laid out, so that the window has still to move."""
    with patch.object(_source, "_HEAD", head):
        return list(elements(file))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
layouts = st.sampled_from([None, 0, 4])
sizes = st.integers(1, 40)


@given(values=st.lists(json_values, max_size=6), indent=layouts, ascii=st.booleans(), size=sizes)
def test_an_array_gives_its_elements_exactly(values: list[Any], indent: int | None, ascii: bool, size: int) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii)
    found = read(Text(text, size=size), size)
    assert [raw.exact().value for raw in found] == values and all(raw.error is None for raw in found)
    assert [json.loads(raw.text) for raw in found] == values
    lines = text.split("\n")
    assert all(raw.text.split("\n")[0] in lines[raw.line - 1] for raw in found)


@given(values=st.dictionaries(st.text(max_size=6), json_values, max_size=6), indent=layouts, size=sizes)
def test_an_object_gives_its_members_exactly(values: dict[str, Any], indent: int | None, size: int) -> None:
    found = list(members(Window(Text(json.dumps(values, indent=indent), size=size)), inner="logs"))
    inner = values.get("logs")
    flat = [
        pair for k, v in values.items() for pair in (v.items() if k == "logs" and isinstance(inner, dict) else [(k, v)])
    ]
    assert [(raw.key, raw.exact().value) for raw in found] == flat


@given(values=st.lists(json_values, max_size=6), size=sizes)
@example([{"𐀀": {"": None, "\x80": None}}], 22)  # the first bytes end inside a character
def test_json_lines_and_a_row_of_objects(values: list[Any], size: int) -> None:
    lines = "".join(json.dumps(value, ensure_ascii=False) + "\r\n\n" for value in values)
    lines = lines.rstrip("\n") if size % 2 else lines
    found = list(elements(Text(lines, "f.jsonl", size)))
    if len(values) == 1 and isinstance(values[0], list):  # a document with an array, whatever the file is called
        assert [raw.exact().value for raw in found] == values[0]
    else:
        assert [raw.exact().value for raw in found] == values
        assert [raw.line for raw in found] == [1 + 2 * i for i in range(len(values))]
    boxes = [{"v": value} for value in values]
    pretty = "\n".join(json.dumps(box, indent=2) for box in boxes)
    assert [raw.exact().value for raw in read(Text(pretty, "f.json", size), 50)] == boxes


@given(
    values=st.lists(st.dictionaries(st.text(max_size=6), json_values, max_size=4), min_size=1, max_size=6),
    data=st.data(),
)
def test_a_cut_costs_the_record_it_is_in_and_loses_no_text(values: list[Any], data: st.DataObject) -> None:
    text = json.dumps(values, ensure_ascii=False, indent=data.draw(layouts))
    cut = data.draw(st.integers(1, len(text) - 1))
    *whole, last = read(Text(text[:cut], size=data.draw(sizes)), data.draw(sizes))
    assert [raw.exact().value for raw in whole] == values[: len(whole)] and all(raw.error is None for raw in whole)
    assert last.error is not None and "cut" in last.error and text[:cut].endswith(last.text)


@given(
    text=st.text(st.sampled_from('[]{},:"\\ \n10.eE-naN⏎tru'), max_size=40),
    size=sizes,
    name=st.sampled_from(["f.json", "f.jsonl"]),
)
@example("[}]", 1, "f.json")
@example('[{"a": }, {"a": 1}]', 3, "f.json")
@example(",", 1, "f.json")
@example('{"a": 1} ] {"b": 2}', 4, "f.json")
def test_whatever_a_file_holds_reading_ends_and_says_what_is_wrong(text: str, size: int, name: str) -> None:
    for found in (list(elements(Text(text, name, size))), list(members(Window(Text(text, size=size)), inner="logs"))):
        assert len(found) <= len(text) + 1
        assert all(raw.error is None or raw.text in text for raw in found)


nested = st.recursive(
    st.integers(0, 9) | st.sampled_from(['}, {"a"', '}, "k": {"a"', "x"]),
    lambda inner: st.dictionaries(st.sampled_from("ab"), inner, max_size=2) | st.lists(inner, max_size=2),
    max_leaves=6,
)


@given(values=st.lists(st.fixed_dictionaries({"a": nested}), min_size=2, max_size=8), indent=layouts, size=sizes)
def test_records_that_hold_what_looks_like_their_end(values: list[Any], indent: int | None, size: int) -> None:
    found = read(Text(json.dumps(values, indent=indent), size=size), size)
    assert [(raw.value, raw.error) for raw in found] == [(value, None) for value in values]
    keyed = {str(n): value for n, value in enumerate(values)}
    found = list(members(Window(Text(json.dumps(keyed, indent=indent), size=size)), inner="logs"))
    assert [(raw.key, raw.value) for raw in found] == list(keyed.items())


def test_integers_beyond_64_bits_stay_what_they_are(tmp_path: Path) -> None:
    calls = [{"id": "1", "function": {"name": "f", "arguments": "{}", "n": 2**70}}]
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": calls}]
    more = {
        "messages": said,
        "task_id": 2**64,
        "tools": [{"type": "function", "function": {"name": "f", "n": -(2**65)}}],
        "meta": {"n": [2**64, 1e16, 1e-7]},
    }
    run = run_import(tmp_path / "runs", "openai", write_lines(tmp_path / "1.jsonl", [chat_record(**more)]))
    row = run.by_task()[str(2**64)]
    assert json.loads(row["tools"]) == more["tools"] and json.loads(row["meta"]) == {"meta": more["meta"]}
    assert json.loads(run.of(row)[1]["tool_calls"]) == calls


def test_a_broken_record_costs_only_itself() -> None:
    good = '{"text": "a, } ] \\" b"}'
    broken = ['{"a": }', '{"a": [1, 2}', "nope", '{"a": "\\x"}']
    for bad in broken:
        found = list(elements(Text(f"[{good}, {bad}, {good}]", size=1000)))
        assert [raw.exact().value for raw in (found[0], found[-1])] == [json.loads(good)] * 2, bad
        assert any(raw.error for raw in found[1:-1]), bad


def test_bytes_that_are_no_utf8_and_too_deep_nesting_cost_their_record(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    bad = json.dumps(chat_record(2)).replace("question", "ques\xff").encode("latin-1")
    deep = b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    good = [json.dumps(chat_record(n)).encode() for n in (1, 3)]
    file.write_bytes(b"\xef\xbb\xbf" + b"\n".join([good[0], bad, deep, good[1]]))
    run = run_import(tmp_path / "runs", "openai", file)
    assert sorted(run.by_task()) == ["task-1", "task-3"]
    assert [r["line"] for r in run.rejected] == [2, 3]
    assert run.rejected[0]["raw"].encode("utf-8", "surrogateescape") == bad


@given(value=json_values, format=st.sampled_from(sorted(formats())), path=st.sampled_from(["-", "x/1.json"]))
def test_no_json_at_all_crashes_a_format(value: Any, format: str, path: str) -> None:
    module = load(format)
    module.recognises(value)
    raw = Raw(1, "0", "", value)
    try:
        module.convert(raw, SourceFile(path), Options())
    except BadRecord as error:
        assert str(error)


def seeds() -> dict[str, Any]:
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "tool_calls": [{"id": "1"}]}]
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "loss": True}]
    state = {"history": chat, "error": "e", "latest_output": {"content": "q"}}
    played = {"steps": 1, "reward": 1, "error": "a/b"}
    history = {"actions": ["a"], "observations": ["o"], "rewards": [1]}
    step = {"step_id": 1, "source": "agent", "message": "m", "reasoning_content": "r"}
    metrics = {"logprobs": [0.5], "completion_token_ids": [1]}
    calls = [{"tool_call_id": "c", "function_name": "f", "arguments": {}}]
    seen = {"results": [{"source_call_id": "c", "content": [{"type": "text", "text": "x"}]}]}
    return {
        "openai": {"messages": chat, "reward": 1, "success": True, "tools": [{}], "error": "e", "sample": 1},
        "tau-bench": {"task_id": 1, "traj": chat, "reward": 1, "trial": 1, "info": {"reward_info": None, "error": "e"}},
        "mint": {"state": state, "task": {"task_id": 1, "task_name": "a/b"}},
        "agentgym": {"conversations": turns, "item_id": "a_1", "meta": played, "reward": 1},
        "intercode": {
            "environment": "ic_sql",
            "query": "q",
            "task_id": 1,
            "turn_history": history,
            "summary": {"max_reward": 1, "turns_max": 1},
        },
        "atif": {
            "schema_version": "ATIF-v1.5",
            "agent": {"name": "n", "model_name": "m", "tool_definitions": [{}]},
            "steps": [{**step, "tool_calls": calls, "observation": seen, "metrics": metrics}],
        },
    }


@given(value=json_values, format=st.sampled_from(sorted(formats())), data=st.data())
def test_no_wrong_value_anywhere_in_a_record_crashes_a_format(value: Any, format: str, data: st.DataObject) -> None:
    seed = seeds()[format]
    places: list[tuple[Any, Any]] = []

    def walk(holder: Any) -> None:
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            places.append((holder, key))
            if isinstance(holder[key], (dict, list)):
                walk(holder[key])

    walk(seed)
    holder, key = data.draw(st.sampled_from(places))
    holder[key] = value
    try:
        load(format).convert(Raw(1, "0", "", seed), SourceFile("x/1.json"), Options())
    except BadRecord as error:
        assert str(error)


def test_every_format_has_what_the_driver_needs() -> None:
    assert {"agentgym", "atif", "intercode", "mint", "openai", "tau-bench"} <= set(formats())
    for name, description in formats().items():
        module = load(name)
        assert description.endswith(".") and module.FILES
        assert f"## {name}" in Path(__file__).parents[1].joinpath("docs", "importing.md").read_text()


def test_again_and_in_another_order_changes_nothing(tmp_path: Path) -> None:
    one = write_lines(tmp_path / "1.jsonl", [chat_record(1), "bad", chat_record(2), chat_record(1)])
    two = write_lines(tmp_path / "2.jsonl.gz", [chat_record(3), chat_record(reward="x")])
    first = run_import(tmp_path / "runs", "openai", one, two)
    assert (first.counts.imported, first.counts.duplicates, sum(first.counts.set_aside.values())) == (3, 1, 2)
    before = files_below(tmp_path / "runs")
    again = run_import(tmp_path / "runs", "openai", one, two)
    assert (again.counts.imported, again.counts.already, again.counts.duplicates) == (0, 4, 0)
    assert files_below(tmp_path / "runs") == before
    run_import(tmp_path / "runs", "openai", two, one)
    rejected = read_runs(tmp_path / "runs").rejected
    assert sorted(map(json.dumps, rejected)) == sorted(map(json.dumps, first.rejected))


def test_what_a_mended_file_had_set_aside_goes_away_and_the_rest_stays(tmp_path: Path) -> None:
    one = write_lines(tmp_path / "1.jsonl", [chat_record(1), "bad"])
    two = write_lines(tmp_path / "2.jsonl", [chat_record(2), "worse"])
    run_import(tmp_path / "runs", "openai", one, two)
    write_lines(one, [chat_record(1), chat_record(5)])
    run = run_import(tmp_path / "runs", "openai", one)
    assert [json.loads(r["raw"]) for r in run.rejected] == ["worse"]
    write_lines(two, [chat_record(2)])
    run_import(tmp_path / "runs", "openai", two)
    assert not list((tmp_path / "runs").rglob("*rejected*"))


def test_one_record_under_several_roles_is_several_trajectories(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "1.jsonl", [chat_record(1)])
    for options in ({"role": "expert"}, {"role": "policy"}, {"role": "policy", "iteration": 2, "actor": "Llama 3/8B"}):
        run_import(tmp_path / "runs", "openai", file, **options)
    folders = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert folders == ["import-openai-expert", "import-openai-policy", "import-openai-policy-llama-3-8b-i2"]
    assert len(read_runs(tmp_path / "runs").trajectories) == 3


def test_strict_stops_at_the_first_bad_record_and_writes_nothing(tmp_path: Path) -> None:
    good = write_lines(tmp_path / "1.jsonl", [chat_record(1)])
    bad = write_lines(tmp_path / "2.jsonl", [chat_record(2), chat_record(reward="x"), chat_record(3)])
    with pytest.raises(BadData, match=r"2\.jsonl: line 2, record 1: reward is 'x'.*--strict"):
        run_import(tmp_path / "runs", "openai", good, bad, strict=True)
    assert files_below(tmp_path / "runs") == {} and not list((tmp_path / "runs").iterdir())


def test_strict_with_many_records_keeps_only_full_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trajkit.runs.writer.PART_TRAJECTORIES", 2)
    file = write_lines(tmp_path / "1.jsonl", [*map(chat_record, range(5)), "bad"])
    with pytest.raises(BadData):
        run_import(tmp_path / "runs", "openai", file, strict=True)
    assert len(read_runs(tmp_path / "runs").trajectories) == 4
    write_lines(file, [chat_record(n) for n in range(6)])
    run = run_import(tmp_path / "runs", "openai", file, strict=True)
    assert (run.counts.imported, run.counts.already, len(run.trajectories)) == (2, 4, 6)


@pytest.fixture
def several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes also for what is small, with a few records a job."""
    monkeypatch.setattr("trajkit.importers._parallel.LARGE", 0)
    monkeypatch.setattr("trajkit.importers._parallel.JOB_BYTES", 2_000)
    monkeypatch.setattr("trajkit.importers._parallel._cores", lambda: 2)


def odd_lines(folder: Path) -> list[Path]:
    """Files with everything that a line can be, each a few jobs long; some alike."""
    odd = ["", "  ", "bad", "[1]", json.dumps(chat_record(1, x=2**70)), json.dumps(chat_record(reward="x"))]
    odd += [json.dumps(chat_record(2, x=math.nan)), '{"messages": ["\\ud83d"]}', "[" * 2000]
    lines = [json.dumps(chat_record(n % 40, noise="é" * (n % 300))) if n % 3 else odd[n % len(odd)] for n in range(120)]
    text = "\ufeff\n" + "\n".join(lines)
    folder.mkdir()
    (folder / "1.jsonl").write_text(text)
    (folder / "2.jsonl").write_text("\n".join(lines[::-1]) + "\r\n\n")
    (folder / "3.jsonl.gz").write_bytes(gzip.compress(text.encode())[:-20])
    (folder / "4.json").write_text("[" + ",\n".join(line for line in lines if line.startswith('{"messages": [{')))
    (folder / "5.jsonl").write_text("bad\n" * 1000)
    (folder / "6.jsonl").write_text("")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("strict", [False, True])
def test_several_processes_import_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, strict: bool
) -> None:
    files = [str(path) for path in odd_lines(tmp_path / "logs")]
    monkeypatch.setattr("trajkit.runs.writer.PART_TRAJECTORIES", 7)
    results = []
    for name in ("one", "two"):
        if name == "two":
            request.getfixturevalue("several_processes")
        said: list[str] = []
        ended: Any
        try:
            ended = vars(import_files("openai", files, tmp_path / name, Options(), strict=strict, say=said.append))
            assert ended.pop("rejected") == tmp_path / name / "import-openai-policy" / "rejected.jsonl"
        except BadData as error:
            ended = str(error)
        results.append((ended, said, files_below(tmp_path / name)))
    assert results[0] == results[1]
    assert strict == isinstance(results[0][0], str)
    assert strict or len(results[0][2]) > 10


def test_a_process_that_is_killed_is_said_and_the_import_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, several_processes: None
) -> None:
    file = write_lines(tmp_path / "1.jsonl", [chat_record(n, noise="x" * 1000) for n in range(40)])

    class Dying(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.kill()

    with monkeypatch.context() as patch:
        patch.setattr("trajkit.importers._parallel.subprocess.Popen", Dying)
        with pytest.raises(TrajkitError, match=r"ended \(exit code -9\).*Run the command again"):
            run_import(tmp_path / "runs", "openai", file)
    assert not (tmp_path / "runs" / "import-openai-policy").exists()
    assert run_import(tmp_path / "runs", "openai", file).counts.imported == 40


def test_a_torn_gzip_gives_what_can_be_read(tmp_path: Path) -> None:
    lines = "".join(json.dumps(chat_record(n, noise=os.urandom(200).hex())) + "\n" for n in range(50))
    whole = gzip.compress(lines[: len(lines) // 2].encode()) + gzip.compress(lines[len(lines) // 2 :].encode())
    file = tmp_path / "log.jsonl.gz"
    file.write_bytes(whole)
    assert run_import(tmp_path / "whole", "openai", file).counts.imported == 50
    file.write_bytes(whole[:-4000])
    run = run_import(tmp_path / "cut", "openai", file)
    assert 25 < run.counts.imported < 50 and "the gzip file is cut" in run.rejected[-1]["reason"]
    file.write_bytes(whole[:2000] + b"\xff" * 500 + whole[2500:])
    run = run_import(tmp_path / "damaged", "openai", file)
    assert 0 < run.counts.imported < 25 and "the gzip file is damaged" in run.rejected[-1]["reason"]


def test_paths_that_give_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="there is no such file or folder"):
        run_import(tmp_path / "runs", "openai", tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match=r"looks for \*.jsonl or \*.json and there is none"):
        run_import(tmp_path / "runs", "openai", tmp_path / "empty")
    with pytest.raises(UsageError, match="nothing to import"):
        run_import(tmp_path / "runs", "openai")
    with pytest.raises(UsageError, match="Did you mean `tau-bench`"):
        run_import(tmp_path / "runs", "tau-bnech", tmp_path)
    assert not (tmp_path / "runs").exists()


def test_a_folder_is_searched_but_not_the_runs_in_it(tmp_path: Path) -> None:
    (tmp_path / "deep" / ".hidden").mkdir(parents=True)
    write_lines(tmp_path / "deep" / "1.jsonl", [chat_record(1), "bad"])
    write_lines(tmp_path / "deep" / ".hidden" / "2.jsonl", [chat_record(2)])
    for _ in range(2):
        run = run_import(tmp_path / "runs", "openai", tmp_path)
    assert run.counts.files == 1 and len(run.trajectories) == len(run.rejected) == 1


def test_an_unreadable_file_and_an_unwritable_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_lines(tmp_path / "1.jsonl", [chat_record(1)])
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(TrajkitError, match=r"taken.*cannot be read"):
        run_import(tmp_path / "taken" / "runs", "openai", file)

    def refuse(self: SourceFile) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(SourceFile, "chunks", refuse)
    with pytest.raises(TrajkitError, match=r"1\.jsonl: cannot be read \(Permission denied\)"):
        run_import(tmp_path / "runs", "openai", file)


def test_a_full_disk_leaves_no_half_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_lines(tmp_path / "1.jsonl", [chat_record(1), "bad"])

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TrajkitError, match="No space left on device"):
        run_import(tmp_path / "runs", "openai", file)
    assert files_below(tmp_path / "runs") == {}
    monkeypatch.undo()
    assert run_import(tmp_path / "runs", "openai", file).counts.imported == 1


def cli(*arguments: str | Path, input: str | None = None) -> Any:
    return CliRunner().invoke(command, [str(a) for a in arguments], input=input)


def test_the_command_says_what_became_of_the_records_on_stderr(tmp_path: Path) -> None:
    file = write_lines(
        tmp_path / "1.jsonl", [chat_record(1), chat_record(1), chat_record(reward="x"), chat_record(2, reward=None)]
    )
    result = cli("openai", file, "--runs", tmp_path / "runs", "--role", "expert", "--actor", "gpt-4")
    assert result.exit_code == 0 and result.stdout == ""
    run = tmp_path / "runs" / "import-openai-expert-gpt-4"
    assert result.stderr.splitlines() == [
        "4 records read from 1 file",
        f"2 imported into {run} (1 without an outcome)",
        "1 duplicates of others in this import",
        f"1 set aside in {run / 'rejected.jsonl'}:",
        "  1  reward is 'x'",
    ]


def test_stdin(tmp_path: Path) -> None:
    lines = json.dumps(chat_record(1)) + "\n" + json.dumps("bad") + "\n"
    for _ in range(2):
        result = cli("openai", "-", "--runs", tmp_path / "runs", input=lines)
        assert result.exit_code == 0
    run = read_runs(tmp_path / "runs")
    assert len(run.trajectories) == 1 and [r["file"] for r in run.rejected] == ["-"]
    assert (
        cli("openai", "-", "--runs", tmp_path / "array", input=json.dumps([chat_record(1), chat_record(2)])).exit_code
        == 0
    )
    assert len(read_runs(tmp_path / "array").trajectories) == 2


def test_a_wrong_format_is_named(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "1.jsonl", [chat_record(1)])
    result = cli("mint", file, "--runs", tmp_path / "runs")
    assert isinstance(result.exception, BadData) and result.exception.exit_code == 3
    assert "It looks like openai: `trajkit import openai ...`" in result.stderr
    result = cli("intercode", "-", "--runs", tmp_path / "runs", input=f"[{file.read_text()}]")
    assert isinstance(result.exception, BadData) and "It looks like openai" in result.stderr
    result = cli("mint", file, "--runs", tmp_path / "runs", "--reward-field", "x")
    assert isinstance(result.exception, UsageError) and "--reward-field" in str(result.exception)


def test_a_big_array_is_not_held_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "big.json"
    record = {"conversations": [{"from": "human", "value": "x" * 100_000}], "item_id": "webshop_1"}
    with file.open("w") as out:
        out.write("[")
        for n in range(1500):
            out.write(("," if n else "") + json.dumps({**record, "item_id": f"webshop_{n % 3}"}))
        out.write("]")
    code = (
        "import resource, sys; from trajkit.importers import *; import pyarrow.parquet\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"counts = import_files('agentgym', [{str(file)!r}], {str(tmp_path / 'runs')!r}, Options())\n"
        "assert (counts.imported, counts.duplicates) == (3, 1497)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    grown = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert grown < 60, f"{grown} MB for a file of {file.stat().st_size >> 20} MB"
