"""How templates want messages: found by trying, on templates of each kind; what they are given; the date."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="chat templates need the extra server")

from masks_helpers import CALL, TOOLS, calling, example, one, tokenizer, trained, turns

from trajkit.errors import BadData, UsageError
from trajkit.exploration.policies.prompt_tokens import Turns
from trajkit.tokens.chat_template import DATE, ChatTemplate
from trajkit.tokens.masks import Masks

FOLDER = Path(__file__).parent / "chat_templates"
OPEN, CLOSE = "{{- '<|im_start|>' + m.role + '\\n' }}", "{{- '<|im_end|>\\n' }}"
HEADER = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"


def template(turn: str, args: dict[str, Any] | None = None, head: str = "") -> ChatTemplate:
    made = copy.deepcopy(tokenizer("chatml"))
    made.chat_template = f"{head}{{%- for m in messages %}}{OPEN}{turn}{CLOSE}{{%- endfor %}}{HEADER}"
    return ChatTemplate(made, args)


def call(arguments: str, content: str = "{{- m.content or '' }}") -> str:
    return (
        content
        + "{%- for c in m.tool_calls or [] %}{{- '<call>' + c.function.name + ' ' }}"
        + f"{{{{- {arguments} }}}}{{{{- '</call>' }}}}{{%- endfor %}}"
    )


NULL = "{%- if m.content is not none %}{{- m.content }}{%- endif %}"
WORD = "{{- m.content | trim }}"  # which writes None for null
JSON = "c.function.arguments | tojson"


@pytest.mark.parametrize(
    ("turn", "content", "arguments"),
    [
        (call(JSON), None, {"at": "ü"}),
        (call(JSON, NULL), None, {"at": "ü"}),
        (call(JSON, WORD), "", {"at": "ü"}),
        (call(JSON, "{{- m.content.split('</think>')[-1] }}"), "", {"at": "ü"}),
        (call("'```' + c.function.arguments"), None, '{"at": "ü"}'),
        (call("c.function.arguments"), None, '{"at": "ü"}'),  # an object as Python writes it is no JSON
        (call("c.function.arguments", WORD), "", '{"at": "ü"}'),
        (call("c.function.arguments.items() | list | tojson"), None, {"at": "ü"}),
        (  # as DeepSeek-V3's: calls only beside null
            "{%- if m.content is none %}"
            + call("'' + c.function.arguments", "")
            + "{%- else %}{{- m.content }}{%- endif %}",
            None,
            '{"at": "ü"}',
        ),
    ],
)
@pytest.mark.parametrize("given", ["text", "object", "blank"])
def test_calls_are_given_as_the_template_writes_them(turn: str, content: Any, arguments: Any, given: str) -> None:
    message = copy.deepcopy(calling()[1])
    if given != "text":
        message["tool_calls"][0]["function"]["arguments"] = {"at": "ü"}
    if given == "blank":
        message["content"] = ""
    made = template(turn)
    taken = made.message(message)
    assert made.writes_calls
    assert taken["content"] == content and taken["tool_calls"][0]["function"]["arguments"] == arguments
    text = made.render([{"role": "user", "content": "?"}, taken])
    assert "None" not in text and "look" in text and "ü" in text
    assert "weight" not in taken


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("only_beside_calls", [False, True])
def test_thoughts_have_the_name_that_the_template_reads(key: str, only_beside_calls: bool) -> None:
    where = "and m.tool_calls" if only_beside_calls else ""
    made = template(f"{{%- if m.{key} {where} %}}{{{{- m.{key} }}}}{{%- endif %}}" + call(JSON))
    taken = made.message({"role": "assistant", "content": "look", "reasoning": "it is blue"})
    assert taken == {"role": "assistant", "content": "look", key: "it is blue"}


def test_no_arguments_are_an_empty_object() -> None:
    for turn, wanted in ((call(JSON), {}), (call("'' + c.function.arguments"), "{}")):
        message = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look"}}]}
        assert template(turn).message(message)["tool_calls"][0]["function"]["arguments"] == wanted


def test_what_is_not_written_is_known() -> None:
    made = template("{{- m.content or '' }}")
    assert not made.writes_calls and not made.writes_tools
    assert template(call(JSON), head="{{- tools | tojson }}").writes_tools


def test_arguments_of_the_template() -> None:
    head = "{{- 'effort ' + (reasoning_effort if reasoning_effort is defined else 'medium') }}"
    say = {"role": "user", "content": "?"}
    assert template("{{- m.content }}", {"reasoning_effort": "low"}, head).render([say]).startswith("effort low")
    assert template("{{- m.content }}", {}, head).render([say]).startswith("effort medium")
    with pytest.raises(UsageError, match=r"--template-arg reasoning_efort: .* does not read it.*reasoning_effort"):
        template("{{- m.content }}", {"reasoning_efort": "low"}, head)
    for name in ("messages", "tools", "add_generation_prompt", "tokenize"):
        with pytest.raises(UsageError, match=f"--template-arg {name}: that is the conversation's"):
            template("{{- m.content }}", {name: 1}, "{{- tools }}")


def test_training_and_policies_give_the_template_the_same_arguments(tmp_path: Path) -> None:
    made = copy.deepcopy(tokenizer("chatml"))
    made.chat_template = (
        "{%- for m in messages %}" + OPEN + "{{- m.content }}" + CLOSE + "{%- endfor %}{%- if add_generation_prompt %}"
        "{{- '<|im_start|>assistant\n' }}{%- if not thinks %}{{- '<think></think>' }}{%- endif %}{%- endif %}"
    )
    made.save_pretrained(tmp_path)
    asked = turns("find it", "look")
    prompts = [Turns(str(tmp_path), {"thinks": thinks}).prompt(asked[:1]) for thinks in (True, False)]
    assert prompts[0] != prompts[1]
    row = one(Masks(made, template_args={"thinks": True}), asked)
    assert row.input_ids[: len(prompts[0])] == prompts[0]
    with pytest.raises(UsageError, match="does not write an answer"):  # the answer has no empty thoughts before it
        Masks(made, template_args={"thinks": False})


def gpt_oss(args: dict[str, Any] | None = None, **options: Any) -> Masks:
    made = copy.deepcopy(tokenizer("chatml"))
    made.add_special_tokens(
        {
            "additional_special_tokens": [
                f"<|{name}|>" for name in ("start", "message", "channel", "end", "call", "return")
            ]
        }
    )
    made.chat_template = (FOLDER / "gpt-oss.jinja").read_text()
    return Masks(made, context=10**6, template_args=args, **options)


def said(made: Masks, row: Any) -> list[str]:
    return [made.tokenizer.decode(run, skip_special_tokens=False) for run in trained(row)]


def test_gpt_oss_thinks_and_calls_exactly_one_row_a_step() -> None:
    messages = calling()
    messages[1]["reasoning"], messages[3]["reasoning"] = "I look", "so it is"
    with pytest.raises(BadData, match="per_step=true"):
        one(gpt_oss(), messages, TOOLS)
    made = gpt_oss(per_step=True)
    first, second = made.rows([example(messages, TOOLS)])
    to = "<|start|>assistant to=functions.look<|channel|>commentary json"
    thought = f'<|channel|>analysis<|message|>I look<|end|>{to}<|message|>{{"at": "ü"}}<|call|>'
    assert said(made, first) == [thought]
    assert said(made, second) == [
        "<|channel|>analysis<|message|>so it is<|end|><|start|>assistant<|channel|>final<|message|>A wall.<|return|>"
    ]
    assert thought in made.tokenizer.decode(second.input_ids)  # as in the prompt that the answer was given to
    assert not made.counts["reasoning_left_out"] and not made.counts["tools_left_out"]
    messages[1]["tool_calls"].append(CALL | {"function": {"name": "look", "arguments": "{}"}})
    with pytest.raises(BadData, match="leaves out 'look'"):
        list(gpt_oss(per_step=True).rows([example(messages, TOOLS)]))


def test_a_template_that_writes_todays_date_gets_a_fixed_one_and_it_is_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = gpt_oss()
    rows = list(made.rows([example(turns("a", "b"))] * 3))
    assert f"Current date: {DATE.isoformat()}\n" in made.tokenizer.decode(rows[0].input_ids)
    told = capsys.readouterr().err
    assert told.count("today's date") == 1 and DATE.isoformat() in told and "--template-arg strftime_now=" in told
    other = gpt_oss({"strftime_now": "2025-08-05", "reasoning_effort": "low"})
    text = other.tokenizer.decode(one(other, turns("a", "b")).input_ids)
    assert "Current date: 2025-08-05\n" in text and "Reasoning: low" in text
    assert not capsys.readouterr().err
    with pytest.raises(UsageError, match=r"strftime_now: it is a date"):
        gpt_oss({"strftime_now": "today"})
    one(Masks(tokenizer("qwen2.5")), turns("a", "b"))
    assert not capsys.readouterr().err


def test_arguments_that_are_no_json_stay_what_the_model_wrote() -> None:
    message = copy.deepcopy(calling()[1])
    message["tool_calls"][0]["function"]["arguments"] = "{at: "
    for turn in (call(JSON), call("'' + c.function.arguments")):
        text = template(turn).render([{"role": "user", "content": "?"}, template(turn).message(message)])
        assert "{at: " in json.loads(f"[{json.dumps(text)}]")[0]
