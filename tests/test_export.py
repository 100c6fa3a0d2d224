"""Pairs for other trainers: what is written is the pair, and the trainers' own code reads it so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import other_trainers
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from export_helpers import (
    ARGUMENTS,
    DOCUMENT,
    HOSTILE,
    MESSAGE,
    TEXT,
    TOOLS,
    WORDS,
    Row,
    Said,
    act,
    call,
    calling,
    lines,
    result,
    said,
    said_in_llamafactory,
    said_in_swift,
    settings_of,
    stretches,
    tiny_models,
    user,
)
from hypothesis import given
from hypothesis import strategies as st
from small_runs import trajkit

from trajkit.exporters import Summary, export

FORMATS = ["axolotl", "llamafactory", "ms-swift", "trl"]  # those of pairs; the rest is in test_export_examples.py
PAIR = pa.schema(
    [("pair_id", TEXT), ("task_id", TEXT), ("method", TEXT), ("level", TEXT), ("tools", TEXT)]
    + [(name, pa.large_list(MESSAGE)) for name in ("prompt", "chosen", "rejected")]
)


def pair(prompt: Sequence[Row], chosen: Sequence[Row], rejected: Sequence[Row], tools: Any = None) -> Row:
    text = None if tools is None else json.dumps(tools)
    return {"prompt": list(prompt), "chosen": list(chosen), "rejected": list(rejected), "tools": text}


STEP = pair(
    [{"role": "system", "content": "You shop. " + HOSTILE, "weight": 0.0}, user("find <b>a</b> hat"),
     act("search[hat]", 0.0), user(HOSTILE)],
    [act("click[b] " + HOSTILE), user("done")],
    [act("")],
)  # fmt: skip
WHOLE = pair(
    [user("find a hat")],
    [act("search[hat]"), user("3 hats"), act("click[a]"), user("bought\u2029")],
    [act("search[cap]"), user("none"), act("search[caps]"), user("none"), act("give up")],
)
STEP_CALL = pair(
    [user("find a hat"), calling(call({"q": "cap"}), weight=0.0), result("no\x85caps")],
    [calling(call({"q": 'hat "<think>x</think>"', "n": [1, {"z": None}]}))],
    [act("I give up.")],
    TOOLS,
)
WHOLE_CALLS = pair(
    [user("find two hats")],
    [
        calling(call({"q": "a"}, "c1"), call({"q": "b", "k": 2}, "c2"), content="Both."),
        result("A", "c1"),
        result("B", "c2"),
        act("Here."),
    ],
    [calling(call({"q": "a"})), result("A"), act("Only one.")],
    TOOLS,
)
CALL_ALONE = pair([user("go")], [calling(call({"to": "left"}), content="Left.")], [calling(call({"to": "right"}))])
THINKING = pair([user("go")], [act("left", reasoning="the exit is there")], [act("right")])


def write(path: Path, *pairs: Row, footer: dict[str, str] | None = None, group: int = 2) -> Path:
    """The pairs as `trajkit select` writes them."""
    rows = [{"pair_id": f"p{n}", "task_id": "t", "method": "eto", "level": "step"} | row for n, row in enumerate(pairs)]
    footer = {"trajkit.method": "eto", "trajkit.kind": "pairs"} if footer is None else footer
    table = pa.Table.from_pylist(rows, schema=PAIR).replace_schema_metadata(footer)
    pq.write_table(table, path, row_group_size=group)
    return path


def exported(folder: Path, to: str, *pairs: Row) -> tuple[list[Row], Summary]:
    summary = export(write(folder / "pairs.parquet", *pairs), folder / "out.jsonl", to)
    return lines(folder / "out.jsonl"), summary


def ended(side: Sequence[Row]) -> list[Row]:
    last = max(at for at, message in enumerate(side) if message["weight"])
    return list(side[: last + 1])


def rebuilt(to: str, line: Row) -> list[list[Said]]:
    """Prompt, chosen and rejected of a line of the format."""
    if to == "trl":
        return [said(line[name]) for name in ("prompt", "chosen", "rejected")]
    if to == "axolotl":
        return [said(line["messages"]), said([line["chosen"]]), said([line["rejected"]])]
    if to == "llamafactory":
        system: list[Said] = [("system", line["system"], ())] if line["system"] else []
        first = system + said_in_llamafactory(line["conversations"])
        return [first, said_in_llamafactory([line["chosen"]]), said_in_llamafactory([line["rejected"]])]
    both = [said_in_swift(line["messages"]), said_in_swift(line["rejected_messages"])]
    n = [one.get("loss") for one in line["messages"]].index(True)
    prompt = said_in_swift(line["messages"][:n])
    assert all(one[: len(prompt)] == prompt for one in both)
    return [prompt, *(one[len(prompt) :] for one in both)]


def expected(given: Row) -> list[list[Said]]:
    return [said(given["prompt"]), said(ended(given["chosen"])), said(ended(given["rejected"]))]


@st.composite
def some_pairs(draw: st.DrawFn) -> Row:
    """Sides that alternate, with calls and results where there are tools."""
    tools = draw(st.booleans())

    def action(weight: float) -> Row:
        if not (tools and draw(st.booleans())):
            return act(draw(WORDS), weight)
        return calling(call(draw(ARGUMENTS)), content=draw(st.none() | WORDS), weight=weight)

    def turns(n: int, weight: float) -> list[Row]:
        found = []
        for _ in range(n):
            found.append(action(weight))
            found.append(result(draw(WORDS)) if "tool_calls" in found[-1] else user(draw(WORDS)))
        return found

    system = [{"role": "system", "content": draw(WORDS), "weight": 0.0}] if draw(st.booleans()) else []
    prompt = [*system, user(draw(WORDS)), *turns(draw(st.integers(0, 2)), 0.0)]
    sides = [turns(draw(st.integers(1, 2)), 1.0)[: draw(st.sampled_from([None, -1]))] for _ in range(2)]
    return pair(prompt, *sides, tools=TOOLS if tools else None)


@given(given=st.lists(some_pairs(), min_size=1, max_size=5), to=st.sampled_from(FORMATS))
def test_a_pair_is_the_same_when_read_back_or_left_out(
    given: list[Row], to: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("export")
    given = [*given, STEP]  # one that every format holds
    found, summary = exported(folder, to, *given)
    assert summary.read == len(given) == summary.written + summary.left_out.total()
    assert summary.written == len(found)
    # An empty system message is none, in LLaMA-Factory; said_in_swift cannot tell an empty text beside a call.
    wanted = [[[one for one in part if one != ("system", "", ())] for part in expected(row)] for row in given]
    read = [[[one for one in part if one != ("system", "", ())] for part in rebuilt(to, line)] for line in found]
    if to in ("trl", "ms-swift"):
        assert read == wanted and not summary.left_out
    else:
        rest = iter(wanted)
        assert all(row in rest for row in read)  # in order
        assert read[-1] == wanted[-1]
        assert all(len(row[1]) == len(row[2]) == 1 for row in read)


def test_formats_hold_what_they_say(tmp_path: Path) -> None:
    every = (STEP, WHOLE, STEP_CALL, WHOLE_CALLS, THINKING)
    kept = {}
    for to in FORMATS:
        found, summary = exported(tmp_path, to, *every)
        texts = [expected(row) for row in every]
        kept[to] = ([texts.index(rebuilt(to, line)) for line in found], dict(summary.notes))
    assert [numbers for numbers, _ in kept.values()] == [[0, 4], [0, 2, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    assert kept["trl"][1] == {
        "DPOTrainer takes no masks: what the environment says between a side's actions gets loss, too": 2
    }
    assert [len(notes) for _, notes in kept.values()] == [0, 1, 1, 1]


def test_trl_lines(tmp_path: Path) -> None:
    [plain, tools, thinking], _ = exported(tmp_path, "trl", STEP, STEP_CALL, THINKING)
    assert list(plain) == ["prompt", "chosen", "rejected"]
    assert plain["rejected"] == [{"role": "assistant", "content": ""}]
    assert json.loads(tools["tools"]) == TOOLS
    [action] = tools["chosen"]
    assert action["content"] is None and action["tool_calls"][0]["function"]["arguments"]["n"] == [1, {"z": None}]
    assert tools["prompt"][2] == {"role": "tool", "content": "no\x85caps", "tool_call_id": "c1"}
    assert thinking["chosen"] == [{"role": "assistant", "content": "left", "reasoning_content": "the exit is there"}]


def test_ms_swift_lines(tmp_path: Path) -> None:
    [whole, calls], _ = exported(tmp_path, "ms-swift", WHOLE, WHOLE_CALLS)
    assert [turn.get("loss") for turn in whole["messages"]] == [None, True, None, True]
    assert [turn["role"] for turn in calls["messages"]] == [
        "user", "assistant", "tool_call", "tool_call", "tool", "tool", "assistant"
    ]  # fmt: skip
    assert json.loads(calls["tools"]) == json.loads(calls["rejected_tools"]) == TOOLS
    [step], _ = exported(tmp_path, "ms-swift", STEP)
    assert [turn.get("loss") for turn in step["messages"]] == [None, None, False, None, True]


@pytest.mark.parametrize(
    ("to", "given", "reason"),
    [
        ("llamafactory", WHOLE, "`trajkit select --method eto_step` makes pairs of single actions"),
        ("axolotl", WHOLE, "`trajkit select --method eto_step` makes pairs of single actions"),
        ("axolotl", STEP_CALL, "tool definitions"),
        ("llamafactory", pair([user("a"), user("b")], [act("c")], [act("d")]), "two messages in a row"),
        ("llamafactory", pair([user("a"), calling(call({}), weight=0.0), result("1"), result("2")], [act("c")],
            [act("d")], TOOLS), "two messages in a row"),
        ("llamafactory", pair([user("a")], [calling(call({}), content="b")], [act("d")], TOOLS), "text beside a tool"),
        ("llamafactory", pair([user("a"), act("b", 0.0)], [act("c")], [act("d")]), "does not end with a message to"),
        ("llamafactory", pair([user("a"), {"role": "system", "content": "s"}], [act("c")], [act("d")]), "a system"),
        ("ms-swift", pair([user("a"), {"role": "system", "content": "s"}], [act("c")], [act("d")]), "a system"),
        ("ms-swift", pair([user("a")], [calling(call("{q:"))], [act("d")], TOOLS), "no JSON object"),
        ("llamafactory", pair([user("a")], [calling(call("[1]"))], [act("d")], TOOLS), "no JSON object"),
        ("trl", pair([user("a")], [calling(call('"\\ud800"'))], [act("d")]), "surrogate"),
    ],
)  # fmt: skip
def test_what_a_format_cannot_hold_is_left_out(tmp_path: Path, to: str, given: Row, reason: str) -> None:
    source, out = write(tmp_path / "pairs.parquet", STEP, given), tmp_path / "out.jsonl"
    done = trajkit("export", source, "--to", to, "--out", out)
    assert done.code == 0 and done.out == "" and len(lines(out)) == 1
    [told] = [line for line in done.err.splitlines() if reason in line]
    assert told.split()[0] == "1"
    out.write_text("before")
    done = trajkit("export", write(source, given), "--to", to, "--out", out)
    assert done.code == 3 and reason in done.err and "nothing to export" in done.err
    assert out.read_text() == "before" and sorted(path.name for path in tmp_path.iterdir())[-1] == source.name


def test_a_line_is_a_line(tmp_path: Path) -> None:
    """Also for readers that end a line where Python's str.splitlines does."""
    for to in FORMATS:
        export(write(tmp_path / "pairs.parquet", STEP, WHOLE, STEP_CALL), tmp_path / "o.jsonl", to)
        text = (tmp_path / "o.jsonl").read_bytes().decode()
        assert len(text.splitlines()) == text.count("\n") == len(lines(tmp_path / "o.jsonl"))
        assert "帽子" in text


def test_dataset_info_is_written_once(tmp_path: Path) -> None:
    source, info = write(tmp_path / "pairs.parquet", STEP), tmp_path / "dataset_info.json"
    first = trajkit("export", source, "--to", "llamafactory", "--out", tmp_path / "a.jsonl")
    assert f"wrote {info}" in first.err
    before = info.read_text()
    again = trajkit("export", source, "--to", "llamafactory", "--out", tmp_path / "a.jsonl")
    assert "dataset_info.json" not in again.err and info.read_text() == before
    other = trajkit("export", source, "--to", "llamafactory", "--out", tmp_path / "b.jsonl")
    assert info.read_text() == before and '"file_name": "b.jsonl"' in other.err
    info.write_text("{")
    broken = trajkit("export", source, "--to", "llamafactory", "--out", tmp_path / "b.jsonl")
    assert broken.code == 3 and "no JSON" in broken.err and (tmp_path / "b.jsonl").exists()


def test_wrong_calls(tmp_path: Path) -> None:
    source, out = write(tmp_path / "pairs.parquet", STEP), tmp_path / "o.jsonl"
    examples = write(tmp_path / "sft.parquet", STEP, footer={"trajkit.method": "eef"})
    values = write(tmp_path / "v.parquet", STEP, footer={"trajkit.method": "m", "trajkit.kind": "values"})
    foreign = write(tmp_path / "foreign.parquet", STEP, footer={})
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(source.read_bytes()[:-9])
    short = tmp_path / "short.parquet"
    pq.write_table(pq.read_table(source).drop_columns("rejected"), short)
    none = write(tmp_path / "none.parquet")
    for args, code, told in (
        ((source, "--to", "llamafactroy", "--out", out), 2, "did you mean llamafactory?"),
        (
            (source, "--to", "_rows", "--out", out),
            2,
            "Formats: axolotl, datasets, llamafactory, ms-swift, openai, slime, trl, unsloth, verl.",
        ),
        ((source, "--to", "trl", "--out", tmp_path), 2, "that is a folder"),
        ((source, "--to", "trl", "--out", tmp_path / "no/o.jsonl"), 2, "mkdir -p"),
        ((source, "--to", "trl", "--out", source), 2, "the file that is read"),
        ((source, "--to", "trl", "--out", tmp_path / "o.txt"), 2, ".jsonl"),
        ((tmp_path / "nope.parquet", "--to", "trl", "--out", out), 2, "there is no such file"),
        ((source, "--out", out), 2, "--to"),
        ((examples, "--to", "trl", "--out", out), 3, "no column example_id, messages"),
        ((source, "--to", "openai", "--out", out), 2, "it holds pairs (method eto), and --to openai exports examples"),
        ((source, "--to", "llamafactory", "--out", tmp_path / "dataset_info.json"), 2, "LLaMA-Factory looks its"),
        ((source, "--to", "trl", "--out", out, "--per-step"), 2, "--per-step: with --tokenizer"),
        ((source, "--to", "llamafactory", "--out", out, "--per-step"), 2, "for examples"),
        ((source, "--to", "trl", "--out", out, "--license", "mit"), 2, "--to datasets has"),
        ((values, "--to", "trl", "--out", out), 2, "it holds values"),
        ((foreign, "--to", "trl", "--out", out), 3, "no trajkit.method in its footer"),
        ((torn, "--to", "trl", "--out", out), 3, "no whole Parquet file"),
        ((short, "--to", "trl", "--out", out), 3, "no column rejected"),
        ((none, "--to", "trl", "--out", out), 3, "the file holds no pairs"),
    ):
        done = trajkit("export", *args)
        assert done.code == code and told in done.err and done.out == "", (args, done)
        assert not out.exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (pair([user("a")], [user("b")], [act("c")]), "chosen: it has no action"),
        (pair([user("a")], [], [act("c")]), "chosen: it has no action"),
        (pair([user("a")], [act(None, tool_calls="[{]")], [act("c")]), "tool_calls: no JSON"),
        (pair([user("a")], [act(None, tool_calls='[{"x": NaN}]')], [act("c")]), "NaN is no JSON"),
        (pair([user("a")], [act(None, tool_calls='[{"x": 1}]')], [act("c")]), "without a function's name"),
        (pair([user("a")], [act("b")], [act("c")]) | {"tools": '{"a": 1}'}, "tools: a list is needed"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, given: Row, told: str) -> None:
    source = write(tmp_path / "pairs.parquet", STEP, STEP, given)
    done = trajkit("export", source, "--to", "trl", "--out", tmp_path / "o.jsonl")
    assert done.code == 3 and f"{source}: pair p2: " in done.err and told in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.parquet"]


def test_damage_inside_is_found_and_nothing_is_written(tmp_path: Path) -> None:
    source = write(tmp_path / "pairs.parquet", *[STEP] * 50, group=5)
    data = bytearray(source.read_bytes())
    at = len(data) // 3
    data[at : at + 400] = b"\xff" * 400
    source.write_bytes(data)
    done = trajkit("export", source, "--to", "trl", "--out", tmp_path / "o.jsonl")
    assert done.code == 3 and "row group" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.parquet"]


def test_commands_of_the_document_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("pairs.parquet"), STEP)
    (tmp_path / "data").mkdir()
    commands = re.findall(r"^trajkit (export pairs.parquet .*)$", DOCUMENT.read_text(), re.MULTILINE)
    assert {words.split()[3] for words in commands} == {*FORMATS, "datasets"}
    for words in commands:
        done = trajkit(*words.split())
        assert done.code == 0, done.err


# --- The trainers themselves ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return tiny_models(tmp_path_factory)


def chat(given: Row, side: str) -> list[Row]:
    """The side's whole conversation as chat templates take it."""
    messages = []
    for message in [*given["prompt"], *ended(given[side])]:
        turn = {key: message[key] for key in ("role", "content")}
        if "tool_calls" in message:
            turn["tool_calls"] = json.loads(message["tool_calls"])
            for one in turn["tool_calls"]:
                one["function"]["arguments"] = json.loads(one["function"]["arguments"])
        if "reasoning" in message:
            turn["reasoning_content"] = message["reasoning"]
        messages.append(turn)
    return messages


def of_tools(text: str) -> str:
    """Without the system message, where each trainer has its own words about tools."""
    return text[text.index("<|im_start|>user") :] if "# Tools" in text else text


# What is loaded: the chat template's family, the format, the pairs.
LOADED = {
    "trl": ("qwen2.5", "trl", [STEP, WHOLE, STEP_CALL, WHOLE_CALLS]),
    "trl with reasoning": ("qwen3", "trl", [THINKING, STEP]),
    "axolotl": ("qwen3", "axolotl", [STEP, CALL_ALONE, THINKING]),
    "axolotl passthrough": ("qwen2.5", "trl", [STEP, WHOLE, STEP_CALL, WHOLE_CALLS]),
    "llamafactory": ("qwen2.5", "llamafactory", [STEP, STEP_CALL]),
    "ms-swift": ("qwen2.5", "ms-swift", [STEP, WHOLE, STEP_CALL, WHOLE_CALLS]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADED)
def test_the_trainer_reads_our_conversations(tmp_path: Path, models: Callable[[str], Path], name: str) -> None:
    from transformers import AutoTokenizer

    family, to, given = LOADED[name]
    trainer = name.split()[0]
    try:
        other_trainers.environment(trainer)
    except ConnectionError as error:
        pytest.skip(str(error))
    out = tmp_path / "dpo.jsonl"
    export(write(tmp_path / "pairs.parquet", *given), out, to)
    settings = settings_of(trainer, "Pairs")
    read = other_trainers.load(trainer, out, models(family), settings[-1 if "passthrough" in name else 0])
    assert len(read) == len(given)
    tokenizer = AutoTokenizer.from_pretrained(models(family))

    def rendered(messages: list[Row], prompt: bool = False) -> str:
        text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=prompt)
        # ms-swift's own templates put nothing between what is said and the call.
        return str(text.replace("Both.\n<tool_call>", "Both.<tool_call>") if to == "ms-swift" else text)

    for row, theirs in zip(given, read, strict=True):
        tools = json.loads(row["tools"]) if row["tools"] else None
        for side in ("chosen", "rejected"):
            ids, trained = theirs[side]
            messages, n = chat(row, side), len(row["prompt"])
            ours, text = rendered(messages), tokenizer.decode(ids)
            assert of_tools(text).rstrip("\n") == of_tools(ours).rstrip("\n")
            if tools:
                assert '{"name": "search", "description": "find <b>things</b>"' in text
            if to == "ms-swift":  # each action by itself
                actions = [at for at in range(n, len(messages)) if messages[at]["role"] == "assistant"]
                wanted = [rendered(messages[: at + 1])[len(rendered(messages[:at], True)) :] for at in actions]
            else:  # all behind the prompt
                wanted = [ours[len(rendered(messages[:n], True)) :]]
            found = [tokenizer.decode(stretch) for stretch in stretches(ids, trained)]
            assert [one.rstrip("\n") for one in found] == [one.rstrip("\n") for one in wanted]
