"""`trajkit show sft.parquet`: what gets loss is what the file says; token by token, what training's masks say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from small_runs import trajkit
from worlds import Traj, World, expert, policy, write

from trajkit.selection.dataset import read
from trajkit.selection.select import select

HOSTILE = "a\x1b[31mred\x1b]0;t\x07 [bold]b[/bold] \u202eevil\u2069 \x9b2J \r\x00 :smile: \U0001f600\n\tline 2"

# An expert that thinks and calls tools, and fails; rollouts that solve it; what a scorer thinks of two actions.
SHOWN = World(
    (
        expert("e", "abTrU", reward=0.25, task="t", style=127),
        policy("p", "bb", reward=1.0),
        policy("q", "aT", parent="e", at=3, reward=1.0),
        *(Traj(f"mc{n}", "scorer", "b", parent="e", at=2, reward=n / 4, sample=n) for n in range(3)),
    )
)


KINDS = {"examples": "sft_all", "more": "eef", "pairs": "eto", "values": "step_rewards"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind."""
    folder = tmp_path_factory.mktemp("selected")
    runs = write(SHOWN, folder / "runs")
    plain = World(
        tuple(replace(t, style=0, actions=t.actions.replace("T", "a").replace("U", "a")) for t in SHOWN.trajs)
    )
    plain_runs = write(plain, folder / "plain-runs")  # without what some chat templates refuse: system, tools
    for kind, method in KINDS.items():
        select(runs, folder / f"{kind}.parquet", method)
        select(plain_runs, folder / f"plain-{kind}.parquet", method)
    return {kind: folder / f"{kind}.parquet" for kind in [*KINDS, *(f"plain-{kind}" for kind in KINDS)]}


def shown(*args: object) -> str:
    result = trajkit("show", *args)
    assert result.code == 0, result
    assert all(c.isprintable() or c == "\n" for c in result.out)
    return result.out


MESSAGE = re.compile(r"^\[(x| )\] (?:LOSS   |context)  (\d+)  (\w+).*?, weight (\S+?)(?:, value (\S+))?$", re.MULTILINE)


@pytest.mark.parametrize("kind", ["examples", "pairs", "values", "more"])
def test_every_message_has_its_weight_and_every_line_its_mark(
    files: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    for row in read(files[kind]):
        id = row.get("pair_id") or row["example_id"]
        text = shown(files[kind], "--example", id)
        parts = [row[name] for name in ("messages", "prompt", "chosen", "rejected") if name in row]
        told = [
            (
                "x" if m["weight"] else " ",
                str(n),
                m["role"],
                f"{m['weight']:g}",
                f"{m['value']:.6g}" if "value" in m else "",
            )
            for part in parts
            for n, m in enumerate(part)
        ]
        assert MESSAGE.findall(text) == told
        blocks = MESSAGE.split(text)
        for (mark, *_), body, message in zip(told, blocks[6::6], [m for part in parts for m in part], strict=True):
            lines = [line for line in body.split("\n\n")[0].split("\n") if line]
            assert all(line.startswith("x| " if mark == "x" else " | ") for line in lines)
            said = "\n".join(line[3:] for line in lines)
            for piece in (message["content"], message.get("reasoning")):
                assert (piece or "") in said
            for call in message.get("tool_calls", ()):
                assert f"(call) {call['function']['name']}({call['function']['arguments']})" in said
        n_trained = sum(mark == "x" for mark, *_ in told)
        assert f"{n_trained} of {len(told)} messages have a weight" in text
        if kind == "pairs":
            assert re.findall(r"^(PROMPT|CHOSEN|REJECTED): ", text, re.MULTILINE) == ["PROMPT", "CHOSEN", "REJECTED"]
            assert f"to be preferred, reward {row['chosen_reward']:g}" in text


def test_which_example(files: dict[str, Path]) -> None:
    ids = pq.read_table(files["values"])["example_id"].to_pylist()
    assert shown(files["values"]) == shown(files["values"], "--example", ids[0])
    for number, id in enumerate(ids, 1):
        text = shown(files["values"], "--example", id[:8])
        assert text.startswith(f"values {id}\n{number} of {len(ids)} in {files['more']}"[:60])
    for wanted, said in (
        ("zz", "begins so"),
        ("", f"{len(ids)} ids begin so"),
        (ids[0][:-1] + "z", f"did you mean {ids[0]}"),
    ):
        result = trajkit("show", files["values"], "--example", wanted)
        assert result.code == 2 and result.out == "" and said in result.err, result


def test_what_is_no_such_file(files: dict[str, Path], tmp_path: Path) -> None:
    runs = files["examples"].parent / "runs"
    (tmp_path / "torn.parquet").write_bytes(files["examples"].read_bytes()[:-20])
    select(runs, tmp_path / "empty.parquet", "nat", {"iteration": 9}, allow_empty=True)
    empty = select(runs, tmp_path / "none.parquet", "self_play", allow_empty=True)
    assert empty.n_rows == 0
    for args, code, said in (
        ([tmp_path / "no.parquet"], 2, "no such file"),
        ([tmp_path / "torn.parquet"], 3, "no whole Parquet file"),
        ([runs / "run" / "messages.parquet"], 3, "not written by `trajkit select`"),
        ([tmp_path / "none.parquet"], 2, "it holds no pairs"),
        ([files["examples"], "--runs", runs], 2, "a file needs none of them"),
        ([files["examples"], "--tokenizer", tmp_path / "gone"], 2, "no such folder"),
        (["e", "--runs", runs, "--tokenizer", tmp_path], 2, "are for a file"),
    ):
        result = trajkit("show", *args)
        assert result.code == code and result.out == "" and said in result.err, result


def test_no_text_acts_on_the_terminal_and_long_text_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trajkit.runs.records import record
    from trajkit.runs.writer import RunWriter

    said = [{"role": "user", "content": HOSTILE + "x" * 100_000}, {"role": "assistant", "content": HOSTILE}]
    said.append({"role": "user", "content": "日本語 " * 50})
    with RunWriter(tmp_path / "runs" / "run") as writer:
        writer.add(record(task_id=HOSTILE, role="expert", messages=said, ended="done", success=True))
    select(tmp_path / "runs", tmp_path / "sft.parquet", "sft_all")
    monkeypatch.setenv("COLUMNS", "40")
    text = shown(tmp_path / "sft.parquet")
    from rich.cells import cell_len

    assert max(map(cell_len, text.splitlines())) <= 40
    assert text.count("x") > 100_000
    assert r"\x1b[31mred\x1b]0;t\x07" in text.replace("\nx| ", "")
    assert "\nx|     line 2\n" in text  # its line breaks and tabs are there


# --- token by token ---


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    """Tokenizers that write spaces and bytes in different ways, with families of chat templates."""
    pytest.importorskip("transformers", reason="token by token needs the extra server")
    from masks_helpers import tokenizer

    return {family: tokenizer(family) for family in ("qwen2.5", "llama-3.1", "mistral-v0.3", "gemma")}


@pytest.mark.parametrize("family", ["qwen2.5", "llama-3.1", "mistral-v0.3", "gemma"])
@pytest.mark.parametrize("kind", ["examples", "pairs", "values"])
def test_tokens_are_those_of_the_masks(
    files: dict[str, Path], tokenizers: dict[str, Any], family: str, kind: str, tmp_path: Path
) -> None:
    from trajkit.display.terminal.tokens import _Names
    from trajkit.tokens.masks import Masks, conversation, value_rows

    file = files[kind if family in ("qwen2.5", "llama-3.1") else f"plain-{kind}"]
    made = tokenizers[family]
    made.save_pretrained(tmp_path / "tokenizer")
    row = next(iter(read(file)))
    masks = Masks(made, context=10**6)
    if kind == "values":
        rows = [row for row, _ in value_rows(masks, row)]
    elif kind == "pairs":
        rows = list(masks.rows([conversation(row, "chosen"), conversation(row, "rejected")]))
    else:
        rows = list(masks.rows([row]))
    text = shown(file, "--tokenizer", tmp_path / "tokenizer", "--full")
    found = re.findall(r"^ +\d+ +(\d+) +([\d.]+) (x| )│(.*)│( value .*)?$", text, re.MULTILINE)
    assert [int(token) for token, *_ in found] == [token for row in rows for token in row.input_ids]
    weights = [weight for row in rows for weight in row.weights]
    assert [float(weight) for _, weight, *_ in found] == weights
    assert [mark == "x" for _, _, mark, *_ in found] == [weight > 0 for weight in weights]
    stop = _Names(made).text(masks.stop_id)
    assert f"an answer ends with {stop} (id {masks.stop_id})" in text
    assert ("x", stop) in {(mark, name) for _, _, mark, name, _ in found}
    assert re.findall(r"([\d,]+) tokens, ([\d,]+) of them", text) == [
        (f"{len(row.input_ids):,}", f"{sum(map(bool, row.weights)):,}") for row in rows
    ]
    inline = shown(file, "--tokenizer", tmp_path / "tokenizer")
    lines = [line for line in inline.splitlines() if re.match("[x ]│", line)]
    pieces = [
        (line[0], piece) for line in lines for piece in line[2:].partition("│ value")[0].removesuffix("│").split("│")
    ]
    assert pieces == [(mark, name) for _, _, mark, name, _ in found]
    if kind == "values":
        assert [line.partition(" value ")[2] for line in lines if " value " in line] == [
            f"{message['value']:.6g}" for message in row["messages"] if "value" in message
        ]


def test_tokens_look_like_what_they_are(tokenizers: dict[str, Any]) -> None:
    from trajkit.display.terminal.tokens import _Names

    text = "a  b · [x]\n\tc \U0001f600 \x1b[31m"
    for family, made in tokenizers.items():
        names = _Names(made)
        ids = made.encode(text, add_special_tokens=False)
        said = [names.text(token) for token in ids]
        assert all(c.isprintable() and c != " " for name in said for c in name), family
        whole = "".join(said).removeprefix("·")
        assert re.match(r"a··b·(\\xb7|<0xC2><0xB7>)·\[x\]\\n", whole) and whole.endswith("\\x1b[31m"), family
        assert "\\t" in whole or "<0x09>" in whole, family


def test_a_tokenizer_that_makes_no_masks(files: dict[str, Path], tokenizers: dict[str, Any], tmp_path: Path) -> None:
    tokenizers["qwen2.5"].save_pretrained(tmp_path / "plain")
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        file = tmp_path / "plain" / name
        if name.endswith("json"):
            config = json.loads(file.read_text())
            config.pop("chat_template", None)
            file.write_text(json.dumps(config))
        else:
            file.unlink(missing_ok=True)
    result = trajkit("show", files["examples"], "--tokenizer", tmp_path / "plain")
    assert result.code == 2 and "no chat template" in result.err
    (tmp_path / "empty").mkdir()
    result = trajkit("show", files["examples"], "--tokenizer", tmp_path / "empty")
    assert result.code == 2 and "no tokenizer can be loaded there" in result.err


def test_without_the_packages_it_names_the_extra(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    result = trajkit("show", files["examples"], "--tokenizer", tmp_path)
    assert result.code == 2 and "pip install 'trajkit[server]'" in result.err
