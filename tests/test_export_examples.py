"""Examples for other trainers: what is written is the example, and the trainers' own code trains on the same tokens."""

from __future__ import annotations

import json
import re
import shutil
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

from trajkit.exporters import Options, Summary, export
from trajkit.selection.dataset import read

MESSAGES = ["axolotl", "llamafactory", "ms-swift", "openai", "slime", "trl", "unsloth", "verl"]
TOKENS = ["trl", "unsloth", "verl"]
EXAMPLE = pa.schema(
    [(name, TEXT) for name in ("example_id", "task_id", "env", "method", "kind")]
    + [("from_step", pa.int32()), ("iteration", pa.int32()), ("tools", TEXT), ("messages", pa.large_list(MESSAGE))]
)
FOOTER = {"trajkit.method": "eef", "trajkit.kind": "examples", "trajkit.params": '{"solved_rate": 0.5}',
          "trajkit.version": "0.1.0", "trajkit.iteration": "2", "trajkit.input_fingerprint": "abc"}  # fmt: skip
Part = tuple[Said, bool]  # what a message says, and whether it is trained on


def system(content: str) -> Row:
    return {"role": "system", "content": content, "weight": 0.0}


def plain(content: str | None, weight: float = 1.0, **more: Any) -> Row:
    """An action without token ids, which are no other tokenizer's."""
    return {"role": "assistant", "content": content, "weight": weight} | more


def example(*messages: Row, tools: Any = None, **more: Any) -> Row:
    return {"messages": list(messages), "tools": None if tools is None else json.dumps(tools)} | more


FROM_STEP = example(
    system("You shop."), user("find <b>a</b> hat"), plain("search[hat]", 0.0), user("3 hats, 帽子 🧢"),
    plain("click[b]"), user(""), plain("click[naïve 帽子]"), user("bought"),
)  # fmt: skip
CONTEXT = example(
    user("find a hat"), plain("search[cap]"), user("none"), plain("(as shown) search[caps]", 0.0), user("none"),
    plain("search[hat]"),
)  # fmt: skip
ALL = example(user("find a hat"), plain("search[hat]"), user("3 hats"), plain("click[a]"))
CALLS = example(
    user("find two hats"), calling(call({"q": "cap"}, "c0"), weight=0.0), result("no caps", "c0"),
    calling(call({"q": "a", "n": [1, {"z": None}]}, "c1"), call({"q": "b"}, "c2"), content="Both."),
    result("A", "c1"), result("", "c2"), plain("Here."),
    tools=TOOLS,
)  # fmt: skip
ONE_CALL = example(
    user("find a hat"), calling(call({"q": "帽子"}, "c1")), result("A", "c1"), plain("Here."), tools=TOOLS
)
THINKING = example(user("go"), plain("left", reasoning="the exit is there"), user("ok"), plain("out", reasoning="so"))
HOSTILE_ONE = example(system(HOSTILE), user(HOSTILE), act(HOSTILE, 0.0), user(HOSTILE), act("click[b] " + HOSTILE))


def write(path: Path, *examples: Row, footer: dict[str, str] | None = None, group: int = 2) -> Path:
    """The examples as `trajkit select` writes them."""
    usual = {"task_id": "t", "env": "shop", "method": "eef", "kind": "initial", "from_step": 0, "iteration": 1}
    rows = [{"example_id": f"e{n}"} | usual | row for n, row in enumerate(examples)]
    table = pa.Table.from_pylist(rows, schema=EXAMPLE).replace_schema_metadata(FOOTER if footer is None else footer)
    pq.write_table(table, path, row_group_size=group)
    return path


def rows_of(path: Path) -> list[Row]:
    return pq.read_table(path).to_pylist() if path.suffix == ".parquet" else lines(path)


def exported(folder: Path, to: str, *examples: Row, **options: Any) -> tuple[list[Row], Summary]:
    out = folder / ("out.parquet" if to == "verl" else "out.jsonl")
    summary = export(write(folder / "sft.parquet", *examples), out, to, Options(**options))
    return rows_of(out), summary


def expected(given: Row) -> list[Part]:
    """What the example says up to its last trained message."""
    messages = given["messages"]
    last = max(at for at, message in enumerate(messages) if message["weight"])
    kept = messages[: last + 1]
    return list(zip(said(kept), [bool(message["weight"]) for message in kept], strict=True))


def in_parts(messages: Sequence[Row]) -> list[Said]:
    """LLaMA-Factory v1's."""
    found = []
    for message in messages:
        text = "".join(part["value"] for part in message["content"] if part["type"] == "text")
        called = [json.loads(part["value"]) for part in message["content"] if part["type"] == "tool_call"]
        found += said([{"role": message["role"], "content": text, "tool_calls": [{"function": one} for one in called]}])
    return found


def rebuilt(to: str, row: Row) -> list[Part]:
    """What the row says, and what the trainer is told to train on."""
    if to in ("trl", "unsloth"):  # assistant_only_loss, and of the completion alone
        prompt, completion = row["prompt"], row["completion"]
        trained = [False] * len(prompt) + [message["role"] == "assistant" for message in completion]
        return list(zip(said(prompt + completion), trained, strict=True))
    messages = row["messages"]
    if to == "ms-swift":
        calls_of = [one for one in messages if one["role"] != "tool_call"]
        told = said_in_swift(messages)
        losses = [bool(one.get("loss")) for one in calls_of] if len(calls_of) == len(told) else None
        return list(zip(told, losses or _losses(messages, len(told)), strict=True))
    key = {"axolotl": "training", "llamafactory": "loss_weight", "openai": "weight", "slime": "step_loss_mask"}.get(to)
    trained = [bool(one.get(key)) if key else one["role"] == "assistant" for one in messages]
    return list(zip(in_parts(messages) if to == "llamafactory" else said(messages), trained, strict=True))


def _losses(messages: Sequence[Row], n: int) -> list[bool]:
    """ms-swift's, where a call stands without a text before it."""
    losses: list[bool] = []
    for at, one in enumerate(messages):
        if one["role"] != "tool_call" or at == 0 or messages[at - 1]["role"] not in ("assistant", "tool_call"):
            losses.append(bool(one.get("loss")))
    assert len(losses) == n
    return losses


@st.composite
def some_examples(draw: st.DrawFn) -> Row:
    """Turns that alternate, with calls and results where there are tools, trained from somewhere on."""
    tools = draw(st.booleans())
    n = draw(st.integers(1, 4))
    trained = [draw(st.booleans()) for _ in range(n)]
    trained[draw(st.integers(0, n - 1))] = True
    messages = [system(draw(WORDS))] if draw(st.booleans()) else []
    messages.append(user(draw(WORDS)))
    for number, train in enumerate(trained):
        if tools and draw(st.booleans()):
            id = f"c{number}"
            messages.append(calling(call(draw(ARGUMENTS), id), content=draw(st.none() | WORDS), weight=float(train)))
            messages.append(result(draw(WORDS), id))
        else:
            messages += [act(draw(WORDS), float(train)), user(draw(WORDS))]
    return example(*messages, tools=TOOLS if tools else None)


def holds(to: str, given: Row) -> bool:
    """Whether the format should hold the example."""
    roles = [(said[0], trained) for said, trained in expected(given)]
    since = roles[[trained for _, trained in roles].index(True) :]
    if to in ("trl", "unsloth"):
        return all(trained or role != "assistant" for role, trained in since) and not (
            to == "unsloth" and given["tools"]
        )
    if to == "verl":
        return all(trained or role != "assistant" for role, trained in roles) and not given["tools"]
    return True


@given(given=st.lists(some_examples(), min_size=1, max_size=4), to=st.sampled_from(MESSAGES))
def test_an_example_is_the_same_when_read_back_or_left_out(
    given: list[Row], to: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    given = [*given, ALL]  # which every format holds
    found, summary = exported(tmp_path_factory.mktemp("export"), to, *given)
    assert summary.read == len(given) == summary.written + summary.left_out.total()
    assert [rebuilt(to, row) for row in found] == [expected(row) for row in given if holds(to, row)]


@given(given=st.lists(some_examples(), min_size=1, max_size=3))
def test_per_step_gives_llamafactory_a_row_per_action(
    given: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> None:
    given = [*given, FROM_STEP]
    found, summary = exported(tmp_path_factory.mktemp("export"), "llamafactory", *given, per_step=True)
    assert summary.read == summary.written + summary.left_out.total() and summary.rows == len(found)
    wanted = []
    for row in given:
        parts = expected(row)
        if all(not (said[1] and said[2]) for said, _ in parts):  # it cannot hold text beside a call
            wanted += [[said for said, _ in parts[: at + 1]] for at, (_, trained) in enumerate(parts) if trained]
    read_back = []
    for row in found:
        first: list[Said] = [("system", row["system"], ())] if row["system"] else []
        read_back.append(first + said_in_llamafactory(row["conversations"]))
    empty: Said = ("system", "", ())
    assert read_back == [[one for one in parts if one != empty] for parts in wanted]


def test_what_the_lines_look_like(tmp_path: Path) -> None:
    [line], _ = exported(tmp_path, "trl", CALLS)
    assert list(line) == ["prompt", "completion", "tools"] and json.loads(line["tools"]) == TOOLS
    [call_of, *_] = line["completion"][0]["tool_calls"]
    assert call_of["function"]["arguments"] == {"q": "a", "n": [1, {"z": None}]}
    [line], _ = exported(tmp_path, "axolotl", CALLS)
    assert [one["training"] for one in line["messages"]] == [False, False, False, True, False, False, True]
    assert json.loads(line["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {"q": "cap"}
    [line], summary = exported(tmp_path, "openai", CALLS)
    assert [one.get("weight") for one in line["messages"]] == [None, 0, None, 1, None, None, 1]
    assert line["tools"] == TOOLS and line["parallel_tool_calls"] is True
    assert isinstance(line["messages"][1]["tool_calls"][0]["function"]["arguments"], str)
    assert list(summary.notes) == ["a message that says nothing: OpenAI's checks may refuse the file for it"]
    [line], _ = exported(tmp_path, "slime", CALLS)
    assert [one.get("step_loss_mask") for one in line["messages"]] == [None, 0, None, 1, None, None, 1]
    [line], _ = exported(tmp_path, "llamafactory", THINKING)
    assert line["messages"][1] == {
        "role": "assistant",
        "content": [{"type": "reasoning", "value": "the exit is there"}, {"type": "text", "value": "left"}],
        "loss_weight": 1.0,
    }
    for to in MESSAGES:
        [line], summary = exported(tmp_path, to, THINKING)
        assert ("the exit is there" in json.dumps(line)) == (to not in ("ms-swift", "openai"))
        told = "reasoning" in " ".join(summary.notes)
        assert told == (to in ("axolotl", "llamafactory", "ms-swift", "openai"))


@pytest.mark.parametrize(
    ("to", "given", "reason"),
    [
        ("trl", CONTEXT, "--tokenizer FOLDER"),
        ("trl", example(plain("hello")), "needs a prompt"),
        ("unsloth", CONTEXT, "--tokenizer FOLDER"),
        ("unsloth", ONE_CALL, "tool definitions"),
        ("verl", FROM_STEP, "--tokenizer FOLDER"),
        ("verl", ONE_CALL, "tool calls"),
        ("axolotl", example(user("a"), calling(call("{q:"))), "no JSON object"),
        ("llamafactory", example(user("a"), calling(call("[1]"))), "no JSON object"),
        ("ms-swift", example(user("a"), system("s"), plain("b")), "a system message"),
        ("openai", example(user("a"), calling(call({}, "")), result("b", "")), "without an id"),
        (
            "openai",
            example(user("a"), calling(call({}, "c")), result("b", "d"), plain("e")),
            "without the id of a call",
        ),
        ("openai", example(user("a"), calling(call({}, "c")), plain("e")), "without its result"),
        ("openai", example(user("a") | {"name": "J. R."}, plain("e")), "a speaker's name"),
        ("slime", example(user("a"), calling(call('"\\ud800"'))), "surrogate"),
    ],
)
def test_what_a_format_cannot_hold_is_left_out(tmp_path: Path, to: str, given: Row, reason: str) -> None:
    source = write(tmp_path / "sft.parquet", ALL, given)
    out = tmp_path / ("out.parquet" if to == "verl" else "out.jsonl")
    done = trajkit("export", source, "--to", to, "--out", out)
    assert done.code == 0 and done.out == "" and len(rows_of(out)) == 1
    assert [line.split()[0] for line in done.err.splitlines() if reason in line] == ["1"]
    out.write_text("before")
    done = trajkit("export", write(source, given), "--to", to, "--out", out)
    assert done.code == 3 and reason in done.err and "nothing to export" in done.err
    assert out.read_text() == "before" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (example(user("a"), plain("b", 0.0)), "no action"),
        (example(user("a"), plain("b", 1.5)), "a loss weight of 1.5"),
        (example(user("a") | {"weight": 1.0}, plain("b")), "not the assistant's"),
        (example(user("a"), plain(None, tool_calls="[{]")), "tool_calls: no JSON"),
        (example(user("a"), plain("b")) | {"tools": "{}"}, "tools: a list is needed"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, given: Row, told: str) -> None:
    source = write(tmp_path / "sft.parquet", ALL, ALL, given)
    done = trajkit("export", source, "--to", "axolotl", "--out", tmp_path / "o.jsonl")
    assert done.code == 3 and f"{source}: example e2: " in done.err and told in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["sft.parquet"]


def test_wrong_calls(tmp_path: Path) -> None:
    source, out = write(tmp_path / "sft.parquet", ALL), tmp_path / "o.jsonl"
    values = write(tmp_path / "v.parquet", ALL, footer={"trajkit.method": "m", "trajkit.kind": "values"})
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(source.read_bytes()[:-9])
    for args, code, told in (
        ((source, "--to", "verl", "--out", out), 2, "end the name in .parquet"),
        ((source, "--to", "trl", "--out", tmp_path / "o.parquet"), 2, "end the name in .jsonl or .json"),
        (
            (source, "--to", "axolotl", "--out", out, "--tokenizer", tmp_path),
            2,
            "--to trl, unsloth, verl take token ids",
        ),
        ((source, "--to", "trl", "--out", out, "--max-length", 9), 2, "--max-length: only with --tokenizer"),
        ((source, "--to", "trl", "--out", out, "--on-long", "drop"), 2, "--on-long: only with --tokenizer"),
        ((source, "--to", "trl", "--out", out, "--on-long", "cut"), 2, "'cut'"),
        ((source, "--to", "axolotl", "--out", out, "--per-step"), 2, "or with --to llamafactory"),
        ((source, "--to", "openai", "--out", out, "--license", "mit"), 2, "--to datasets has"),
        ((source, "--to", "datasets", "--out", tmp_path), 2, "there is something of that name"),
        ((source, "--to", "datasets", "--out", tmp_path / "no/ds"), 2, "mkdir -p"),
        ((torn, "--to", "datasets", "--out", tmp_path / "ds"), 3, "no whole Parquet file"),
        ((values, "--to", "slime", "--out", out), 2, "it holds values"),
    ):
        before = sorted(tmp_path.iterdir())
        done = trajkit("export", *args)
        assert done.code == code and told in done.err and done.out == "", (args, done)
        assert sorted(tmp_path.iterdir()) == before


def test_the_summary_as_json(tmp_path: Path) -> None:
    source = write(tmp_path / "sft.parquet", ALL, CONTEXT)
    done = trajkit("export", source, "--to", "trl", "--out", tmp_path / "o.jsonl", "--json")
    told = json.loads(done.out)
    assert done.code == 0 and done.err == "" and (told["read"], told["written"], told["rows"]) == (2, 1, 1)
    assert list(told["left_out"].values()) == [1] and told["out"] == str(tmp_path / "o.jsonl")


# --- Token ids ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder as far as a tokenizer goes."""
    pytest.importorskip("transformers", reason="needs transformers: make setup-train")
    from masks_helpers import tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer("qwen2.5").save_pretrained(folder)
    return folder


def by_masks(source: Path, **options: Any) -> list[tuple[list[int], list[bool]]]:
    """What train/ would train on."""
    from masks_helpers import masks

    return [
        (row.input_ids, [weight > 0 for weight in row.weights])
        for row in masks("qwen2.5", **options).rows(read(source))
    ]


def masked(row: Row) -> tuple[list[int], list[bool]]:
    mask = row["loss_mask"] if "loss_mask" in row else [label >= 0 for label in row["labels"]]
    if "labels" in row:
        assert all(label in (-100, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))
    return row["input_ids"], [bool(one) for one in mask]


@pytest.mark.parametrize("to", TOKENS)
def test_token_ids_are_those_of_train(tmp_path: Path, folder: Path, to: str) -> None:
    given = (FROM_STEP, CONTEXT, ALL, CALLS, ONE_CALL, HOSTILE_ONE, example(user(""), plain("")))
    source = write(tmp_path / "sft.parquet", *given)
    for suffix in (".parquet", *((".jsonl",) if to != "verl" else ())):
        out = tmp_path / f"tokens{suffix}"
        summary = export(source, out, to, Options(tokenizer=str(folder)))
        found = [masked(row) for row in rows_of(out)]
        assert found == by_masks(source)
        assert summary.written == summary.rows == len(given) and not summary.left_out
        assert summary.tokens == sum(len(ids) for ids, _ in found)
        assert summary.trained_tokens == sum(sum(trained) for _, trained in found)


def test_long_examples_and_steps_as_train_has_them(tmp_path: Path, folder: Path) -> None:
    from masks_helpers import tokenizer

    source, out = write(tmp_path / "sft.parquet", ALL, FROM_STEP, THINKING), tmp_path / "tokens.parquet"
    lengths = [len(ids) for ids, _ in by_masks(write(tmp_path / "two.parquet", ALL, FROM_STEP))]
    between = sum(lengths) // 2
    assert lengths[0] < between < lengths[1]
    cuts = [{"max_length": between, "on_long": on_long} for on_long in ("drop", "split")]
    for options in (*cuts, {"per_step": True}):
        renamed = {"max_length": "context"}
        ours = by_masks(tmp_path / "two.parquet", **{renamed.get(key, key): value for key, value in options.items()})
        summary = export(tmp_path / "two.parquet", out, "trl", Options(tokenizer=str(folder), **options))
        assert [masked(row) for row in rows_of(out)] == ours and summary.rows == len(ours)
        assert summary.read == 2 == summary.written + summary.left_out.total()
    args = ("export", tmp_path / "two.parquet", "--to", "trl", "--out", tmp_path / "o.jsonl", "--tokenizer", folder)
    done = trajkit(*args, "--max-length", between)
    assert (
        done.code == 3
        and "Raise --max-length" in done.err
        and "--on-long split" in done.err
        and "train." not in done.err
    )
    done = trajkit(*args, "--max-length", 2, "--on-long", "split")
    assert done.code == 3 and "an action that with its context is longer" in done.err
    odd = write(tmp_path / "odd.parquet", ALL, example(user("a"), calling(call('"\\ud800"'))))
    summary = export(odd, out, "trl", Options(tokenizer=str(folder)))
    assert summary.written == 1 and "surrogate" in " ".join(summary.left_out)
    tokenizer("qwen3").save_pretrained(tmp_path / "qwen3")
    args = ("export", source, "--to", "trl", "--out", tmp_path / "o.jsonl", "--tokenizer")
    done = trajkit(*args, tmp_path / "qwen3")
    assert done.code == 3 and f"{source}: example e0, message 1" in done.err  # it leaves out earlier thoughts
    assert "(--per-step)" in done.err
    done = trajkit(*args, tmp_path / "qwen3", "--per-step")
    assert done.code == 0 and "reasoning is trained on only where the chat template writes it" in done.err
    (tmp_path / "o.jsonl").unlink()
    done = trajkit(*args, tmp_path / "none")
    assert done.code == 2 and "there is no such folder" in done.err
    done = trajkit(*args, tmp_path)
    assert done.code == 2 and "no tokenizer can be loaded" in done.err
    assert not (tmp_path / "o.jsonl").exists()


# --- A folder for datasets ----------------------------------------------------------------------------------------


def front_of(card: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML, which transformers brings")
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert found
    return yaml.safe_load(found[1])


@pytest.mark.parametrize("kind", ["examples", "pairs", "values"])
def test_a_folder_with_a_card(tmp_path: Path, kind: str) -> None:
    footer = FOOTER | {"trajkit.kind": kind, "trajkit.method_sql": "-- mine\nSELECT '```' AS a"}
    source = write(tmp_path / "sft.parquet", FROM_STEP, ALL, CALLS | {"kind": "recovery"}, footer=footer)
    args = ("export", source, "--to", "datasets", "--out", tmp_path / "ds")
    done = trajkit(*args, "--license", "cc-by-4.0")
    assert done.code == 0 and f"3 {kind} of eef, 3 written for datasets" in done.err
    [data] = (tmp_path / "ds/data").iterdir()
    assert data.read_bytes() == source.read_bytes() and data.match("train-*.parquet")
    card = (tmp_path / "ds/README.md").read_text()
    front = front_of(card)
    assert front["license"] == "cc-by-4.0" and front["size_categories"] == ["n<1K"] and kind in front["tags"]
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    for told in ("| recovery | 1 |", "| initial | 2 |", "| shop | 3 |", "| trajkit | 0.1.0 |", "````sql\n-- mine\n"):
        assert told in card
    again = trajkit(*args)
    assert again.code == 2 and (tmp_path / "ds/README.md").read_text() == card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ds", "sft.parquet"]


@given(odd=st.text(max_size=30) | st.sampled_from([HOSTILE, "---\n# x: [", "<script>alert(1)</script>", "a|b`c`\\"]))
def test_text_of_the_data_stays_text_in_the_card(odd: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    odd = odd.encode("utf-8", "replace").decode()
    folder = tmp_path_factory.mktemp("card")
    footer = FOOTER | {"trajkit.method": odd, "trajkit.params": odd, "trajkit.method_sql": odd}
    source = write(folder / "sft.parquet", ALL | {"env": odd, "kind": odd}, footer=footer)
    assert export(source, folder / "ds", "datasets").written == 1
    card = (folder / "ds/README.md").read_text()
    front = front_of(card)
    assert front["license"] == "unknown" and len(front["tags"]) == 5 and front["tags"][-1].isprintable()
    body, code = card[card.index("\n---\n") + 5 :].split("The method's SQL:") if odd else (card, "")
    tables = [line for line in body.splitlines() if line.startswith("|")]
    cells = [re.findall(r"(?<!\\)(?:\\\\)*\|", line) for line in tables]
    assert all(len(bars) == 3 for bars in cells)
    assert not re.search(r"(?<!\\)(?:\\\\)*<", "\n".join(tables))
    if odd:
        fence = re.search(r"^(`+)sql$", code, re.MULTILINE)
        assert fence and code.rstrip().endswith("\n" + fence[1]) and code.count("\n" + fence[1]) == 2


def test_a_damaged_file_makes_no_folder(tmp_path: Path) -> None:
    source = write(tmp_path / "sft.parquet", *[FROM_STEP] * 50, group=5)
    data = bytearray(source.read_bytes())
    at = len(data) // 3
    data[at : at + 400] = b"\xff" * 400
    source.write_bytes(data)
    done = trajkit("export", source, "--to", "datasets", "--out", tmp_path / "ds")
    assert done.code == 3 and "row group" in done.err
    none = write(tmp_path / "none.parquet")
    assert trajkit("export", none, "--to", "datasets", "--out", tmp_path / "ds").code == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.parquet", "sft.parquet"]


# --- The document, and the trainers themselves --------------------------------------------------------------------


def test_commands_of_the_document_run(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("sft.parquet"), ALL)
    for made in ("data", "path/to"):
        (tmp_path / made).mkdir(parents=True)
    (tmp_path / "path/to/model").symlink_to(folder)
    commands = re.findall(r"^trajkit (export sft.parquet .*)$", DOCUMENT.read_text(), re.MULTILINE)
    assert {words.split()[3] for words in commands} == {*MESSAGES, "datasets"}
    for words in commands:
        done = trajkit(*words.split())
        assert done.code == 0, done.err


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return tiny_models(tmp_path_factory)


def trimmed(given: Row) -> Row:
    """The example up to its last trained message, which is all that is exported as messages."""
    last = max(at for at, message in enumerate(given["messages"]) if message["weight"])
    return given | {"messages": given["messages"][: last + 1]}


def ready(trainer: str) -> None:
    try:
        other_trainers.environment(trainer)
    except ConnectionError as error:
        pytest.skip(str(error))


def known_to_trl(model: Path, folder: Path, template: str) -> Path:
    """A copy of the model's folder with the chat template that TRL knows as the family's."""
    folder.mkdir()
    for file in model.iterdir():
        shutil.copy(file, folder)
    python = other_trainers.environment("trl")
    [text] = python.parents[1].glob(f"lib/python*/site-packages/trl/chat_templates/{template}.jinja")
    shutil.copy(text, folder / "chat_template.jinja")
    return folder


EVERY = [FROM_STEP, CONTEXT, ALL, CALLS, ONE_CALL]
SAID_FIRST = [FROM_STEP, ALL, CALLS, ONE_CALL]  # no turn to leave out behind the first trained one
NO_TOOLS = [FROM_STEP, ALL]
ALL_TURNS = [ALL, example(system("S"), *ALL["messages"]), example(user(""), *ALL["messages"][1:])]
LAST_THOUGHT = example(user("go"), plain("left", reasoning="the exit is there"))
# What is loaded: the trainer, the document's block of settings, the model, the examples, the options, and what the
# trainer gives loss beside our tokens: nothing, line ends, or the header, too.
LOADED: dict[str, tuple[str, int, str, list[Row], dict[str, Any], str]] = {
    "trl, token ids": ("trl", 0, "qwen2.5", [*EVERY, HOSTILE_ONE], {"tokenizer": "model"}, ""),
    "trl, steps": ("trl", 0, "qwen3", [THINKING, *EVERY], {"tokenizer": "model", "per_step": True}, ""),
    "trl": ("trl", 1, "qwen2.5 as qwen2_5", SAID_FIRST, {}, "\n"),
    "trl, reasoning": ("trl", 1, "qwen3 as qwen3", [LAST_THOUGHT], {}, "\n"),
    "unsloth, token ids": ("unsloth", 0, "qwen2.5", [*EVERY, HOSTILE_ONE], {"tokenizer": "model"}, ""),
    "unsloth": ("unsloth", 1, "qwen2.5 as qwen2_5", NO_TOOLS, {}, "\n"),
    "axolotl": ("axolotl", 0, "qwen2.5", EVERY, {}, ""),
    "axolotl, reasoning": ("axolotl", 0, "qwen3", [LAST_THOUGHT], {}, "\n"),
    "llamafactory v1": ("llamafactory", 0, "qwen2.5", EVERY, {}, "<|im_start|>assistant\n"),
    "llamafactory": ("llamafactory", 1, "qwen2.5", [FROM_STEP, CONTEXT, ALL, ONE_CALL], {"per_step": True}, "\n"),
    "ms-swift": ("ms-swift", 0, "qwen2.5", EVERY, {}, "\n"),
    "verl, token ids": ("verl", 1, "qwen2.5", [*EVERY, HOSTILE_ONE], {"tokenizer": "model"}, ""),
    "verl": ("verl", 0, "qwen2.5", ALL_TURNS, {}, "\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADED)
def test_the_trainer_gives_loss_to_our_tokens(tmp_path: Path, models: Callable[[str], Path], name: str) -> None:
    from transformers import AutoTokenizer

    from trajkit.tokens.masks import Masks

    trainer, number, family, given, options, beside = LOADED[name]
    ready(trainer)
    family, _, template = family.partition(" as ")
    model = known_to_trl(models(family), tmp_path / "model", template) if template else models(family)
    if options.get("tokenizer"):
        options, out = options | {"tokenizer": str(model)}, tmp_path / "tokens.parquet"
    else:
        given = [trimmed(row) for row in given]
        out = tmp_path / ("messages.parquet" if trainer == "verl" else "sft.jsonl")
    source = write(tmp_path / "selected.parquet", *given)
    assert export(source, out, trainer, Options(**options)).written == len(given)
    settings = settings_of(trainer, "Examples")
    chosen = "\n---\n".join(settings[1:]) if name == "verl, token ids" else settings[number]
    theirs = other_trainers.load_examples(trainer, out, model, chosen)
    tokenizer = AutoTokenizer.from_pretrained(model)
    ours = list(Masks(tokenizer, 10**6, per_step=options.get("per_step", False)).rows(read(source)))
    assert len(theirs) == len(ours)
    for (ids, loss), row in zip(theirs, ours, strict=True):
        weights = [int(weight > 0) for weight in row.weights]
        if not beside:
            assert (ids, loss) == (row.input_ids, weights)
            continue
        if trainer in ("trl", "unsloth", "axolotl", "verl"):  # that use the model's own template
            assert ids == row.input_ids
        wanted = [tokenizer.decode(stretch) for stretch in stretches(row.input_ids, weights)]
        found = [tokenizer.decode(stretch) for stretch in stretches(ids, loss)]
        if trainer == "ms-swift":  # whose own templates put nothing between what is said and the call
            wanted = [text.replace("Both.\n<tool_call>", "Both.<tool_call>") for text in wanted]
        if name == "axolotl, reasoning":  # it is the template that writes this
            wanted = [text.removeprefix("<think>\n") for text in wanted]
        assert [text.removeprefix(beside).strip("\n") for text in found] == wanted


@pytest.mark.slow
def test_openais_types_take_the_lines(tmp_path: Path) -> None:
    ready("openai")
    out = tmp_path / "sft.jsonl"
    given = [*EVERY, HOSTILE_ONE, THINKING, example(user("a") | {"name": "Ann"}, plain("b"))]
    assert export(write(tmp_path / "sft.parquet", *given), out, "openai").written == len(given)
    [block] = settings_of("openai", "Examples")
    assert other_trainers.check_openai(out, block) == len(given)
    lines_ = out.read_text().splitlines()
    out.write_text(lines_[3].replace('"tool_call_id"', '"tool_call"') + "\n")
    with pytest.raises(RuntimeError, match="tool_call_id"):  # the check finds what is wrong
        other_trainers.check_openai(out, block)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["examples", "pairs", "values"])
def test_datasets_loads_the_folder(tmp_path: Path, kind: str) -> None:
    ready("trl")
    source = write(tmp_path / "sft.parquet", *EVERY, footer=FOOTER | {"trajkit.kind": kind})
    export(source, tmp_path / "my-dataset", "datasets")
    loaded = other_trainers.load_folder(tmp_path / "my-dataset")
    assert loaded["rows"] == pq.read_table(source).to_pylist() and "'weight'" in loaded["features"]
