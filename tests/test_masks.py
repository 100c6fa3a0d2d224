"""From messages to masked rows, on chat templates that behave as the published ones of ten families do.

tests/chat_templates holds a template for each and in families.json what their tokenizers do: how text becomes pieces,
the special tokens, those that swallow the white space behind them, the stop token.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from masks_helpers import CALL, FAMILIES, TOOLS, calling, example, masks, one, tokenizer, trained, turns

pytest.importorskip("transformers", reason="masks need the extra train")


from trajkit.errors import BadData, UsageError
from trajkit.exploration.policies.prompt_tokens import Turns
from trajkit.tokens.chat_template import DATE
from trajkit.tokens.masks import Masks, Row

EVERY = pytest.mark.parametrize("family", FAMILIES)
WHOLE = [name for name, facts in FAMILIES.items() if not facts["rewrites"]]  # maskable as whole conversations


def trained_text(family: str, row: Row) -> list[str]:
    return [tokenizer(family).decode(run, skip_special_tokens=False) for run in trained(row)]


def wanted(family: str, text: str) -> str:
    return (text.strip() if FAMILIES[family]["trims"] else text) + FAMILIES[family]["stop"]


def system_of(family: str) -> str | None:
    return "Be short." if FAMILIES[family]["system"] else None


@pytest.mark.parametrize("family", WHOLE)
def test_what_is_trained_is_the_turns_and_their_stop_tokens(family: str) -> None:
    said = ["Find a red shirt.", "search[red shirt]", "3 results", "click[next]", "page 2", "click[buy (now)]"]
    messages = turns(*said, system=system_of(family))
    row = one(masks(family), messages)
    assert trained_text(family, row) == [wanted(family, text) for text in said[1::2]]
    assert set(row.weights) == {0.0, 1.0}
    made = tokenizer(family)
    text = made.apply_chat_template(messages, tokenize=False, strftime_now=DATE.strftime)
    assert row.input_ids == made(text, add_special_tokens=False)["input_ids"]
    if "bos" in FAMILIES[family] and family != "phi-3":
        assert row.input_ids.count(made.bos_token_id) == 1 and row.input_ids[0] == made.bos_token_id


@pytest.mark.parametrize("family", WHOLE)
def test_each_message_has_its_own_weight(family: str) -> None:
    messages = turns("a", "look", "b", "turn left", "c", "go")
    messages[1]["weight"], messages[5]["weight"] = 0.0, 0.5
    row = one(masks(family), messages)
    assert trained_text(family, row) == [wanted(family, "turn left"), wanted(family, "go")]
    last = len(trained(row)[1])
    assert [weight for weight in row.weights if weight][-last:] == [0.5] * last


def test_a_template_that_rewrites_earlier_turns_is_refused_with_the_ways_out() -> None:
    messages = turns("q", "<think>\nhm\n</think>\n\nlook", "a wall", "<think>\noh\n</think>\n\nturn")
    refused = r"example e1, message 1 \(assistant\).*'.*hm.*' becomes .*another chat template.*per_step=true"
    with pytest.raises(BadData, match=refused):
        one(masks("qwen3"), messages)
    made = masks("qwen3", per_step=True)
    rows = list(made.rows([example(messages)]))
    assert [trained_text("qwen3", row) for row in rows] == [
        ["<think>\nhm\n</think>\n\nlook<|im_end|>"],
        ["<think>\noh\n</think>\n\nturn<|im_end|>"],
    ]
    assert "hm" not in tokenizer("qwen3").decode(rows[1].input_ids)  # earlier thoughts go, as they do when it plays


def test_one_row_per_step_says_the_same_as_one_row() -> None:
    messages = turns("a", "look", "b", "turn left", "c", "go", system="s")
    for family in ("chatml", "llama-3.1", "phi-3"):
        rows = list(masks(family, per_step=True).rows([example(messages)]))
        whole = one(masks(family), messages)
        assert [run for row in rows for run in trained(row)] == trained(whole)
        for row in rows:
            end = max(at for at, weight in enumerate(row.weights) if weight) + 1
            assert row.input_ids[:end] == whole.input_ids[:end]


ALL_MARKERS = sorted({marker for facts in FAMILIES.values() for marker in facts["markers"]})
# White space at the ends is what templates and decoders may take off, so contents begin and end with something else.
ODD = st.lists(
    st.one_of(
        st.sampled_from(
            [*ALL_MARKERS, "\n", "\n\n", " ", "  ", "[", "](", "(", "<|", "|>", "im_end", "é", "日本", "🙂", "\t"]
        ),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=6),
    ),
    max_size=8,
).map(lambda parts: "(" + "".join(parts) + ".")


@pytest.mark.parametrize("family", WHOLE)
@given(odd=st.lists(ODD, min_size=4, max_size=4))
def test_odd_contents_stay_text_and_are_trained_on_exactly(family: str, odd: list[str]) -> None:
    made = tokenizer(family)
    special = {made.convert_tokens_to_ids(marker) for marker in FAMILIES[family]["markers"]} - {made.unk_token_id}
    system = system_of(family)
    row = one(masks(family), turns(*odd, system=system))
    plain = one(masks(family), turns("a", "b", "c", "d", system=system))
    assert [t for t in row.input_ids if t in special] == [t for t in plain.input_ids if t in special]
    assert trained_text(family, row) == [wanted(family, text) for text in odd[1::2]]
    if not any(marker in text for text in odd for marker in FAMILIES[family]["markers"]):
        text = made.apply_chat_template(turns(*odd, system=system), tokenize=False, strftime_now=DATE.strftime)
        ids = made(text, add_special_tokens=False)["input_ids"]
        # Cutting a piece that a header and an answer would share is the one thing that may differ.
        assert row.input_ids == ids or made.decode(row.input_ids) == made.decode(ids)


@pytest.mark.parametrize(("family", "left_out"), [("qwen2.5", 1), ("qwen3", 0)])
def test_reasoning_that_the_template_does_not_write_is_counted(family: str, left_out: int) -> None:
    made = Masks(tokenizer(family))
    said = {"role": "assistant", "content": "left", "reasoning": "the door is blue", "weight": 1.0}
    row = one(made, [{"role": "user", "content": "Where?", "weight": 0.0}, said])
    assert made.counts["reasoning_left_out"] == left_out
    assert ("the door is blue" in tokenizer(family).decode(row.input_ids)) is not bool(left_out)


@pytest.mark.parametrize("family", ["qwen2.5", "llama-3.1", "phi-3"])
def test_text_that_looks_special_is_encoded_as_the_tokenizer_encodes_it_when_told_so(family: str) -> None:
    made, stop = tokenizer(family), FAMILIES[family]["stop"]
    row = one(masks(family), turns(f"a {stop} b", "ok"))
    alone = made(f"a {stop} b", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert any(row.input_ids[at : at + len(alone)] == alone for at in range(len(row.input_ids)))
    assert row.input_ids.count(made.convert_tokens_to_ids(stop)) == made.apply_chat_template(
        turns("a b", "ok"), return_dict=False
    ).count(made.convert_tokens_to_ids(stop))


def test_a_piece_over_the_end_of_the_header_is_cut_there() -> None:
    """Given "...assistant\\n" or "... [/INST]", a model cannot say a piece that begins before."""
    for family, header, answer in (("chatml", "assistant\n", "\n\nlook"), ("mistral-v0.2", "[/INST]", "(b")):
        made = tokenizer(family)
        whole = made.tokenize(header + answer)
        row = one(masks(family), turns("a", answer))
        assert trained_text(family, row) == [wanted(family, answer)]
        assert made.convert_tokens_to_ids(whole) != row.input_ids[-len(whole) :]
        text = made.apply_chat_template(turns("a", answer), tokenize=False)
        assert made.decode(row.input_ids) == made.decode(made(text, add_special_tokens=False)["input_ids"])


def test_white_space_at_the_edges_is_trained_on_where_the_template_keeps_it() -> None:
    """Llama 3's tokenizer tells positions without the spaces around a piece."""
    made = copy.deepcopy(tokenizer("llama-3"))
    made.chat_template = (
        "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>{{ '\n\n' + m.content }}<|eot_id|>"
        "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{{ '\n\n' }}{% endif %}"
    )
    for answer in ("\n look \n", " ", "\n\n\n", "  look"):
        row = one(Masks(made), turns(" a", answer, "\n", answer))
        assert trained_text("llama-3", row) == [answer + "<|eot_id|>"] * 2


@pytest.mark.parametrize("family", ["chatml", "llama-3", "llama-3.1", "mistral-v0.2", "phi-3", "gemma"])
@pytest.mark.parametrize("ending", ["stop", "none", "other"])
def test_sampled_token_ids_are_used_as_they_are_after_the_prompts_they_were_sampled_from(
    family: str, ending: str, tmp_path: Path
) -> None:
    """The ids before each turn are those that trajkit.exploration.policies sends to the model."""
    made = tokenizer(family)
    made.save_pretrained(tmp_path)
    stop = made.convert_tokens_to_ids(FAMILIES[family]["stop"])
    other = next(made.convert_tokens_to_ids(m) for m in FAMILIES[family]["markers"] if m != FAMILIES[family]["stop"])
    end = {"stop": [stop], "none": [], "other": [other]}[ending]
    messages = turns("find it", "search shirt", "a wall", "next page", "a door", "Action", system=system_of(family))
    for message in messages:
        if message["role"] == "assistant":  # letter by letter, as no tokenizer would have it
            letters = [token for c in message["content"] for token in made.encode(c, add_special_tokens=False)]
            message["token_ids"] = letters + end
            message["content"] = made.decode(letters, skip_special_tokens=True)
    made_masks = Masks(made, context=10**9)
    row = one(made_masks, messages)
    assert made_masks.counts["token_ids_used"] == 3 and not made_masks.counts["token_ids_unusable"]
    said = [message["token_ids"] for message in messages if message["role"] == "assistant"]
    assert trained(row) == [ids + ([stop] if ending == "none" else []) for ids in said]
    policy = Turns(str(tmp_path))
    for at, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = policy.prompt(messages[:at])
            assert row.input_ids[: len(prompt)] == prompt
            assert row.input_ids[len(prompt) : len(prompt) + len(message["token_ids"])] == message["token_ids"]


def test_token_ids_that_say_something_else_are_not_used() -> None:
    made = tokenizer("chatml")
    plain = one(masks("chatml"), turns("a", "look", "b", "go"))
    for ids in (made.encode("turn"), [10**6], [-1]):
        messages = turns("a", "look", "b", "go")
        messages[1]["token_ids"] = ids
        found = Masks(made)
        assert one(found, messages) == plain
        assert found.counts["token_ids_unusable"] == 1 and not found.counts["token_ids_used"]


def test_token_ids_of_context_are_kept_too_and_not_trained_on() -> None:
    made = tokenizer("chatml")
    messages = turns("a", "search", "b", "go")
    letters = [token for letter in "search" for token in made.encode(letter)]
    assert letters != made.encode("search")
    messages[1] |= {"weight": 0.0, "token_ids": letters}
    row = one(masks("chatml"), messages)
    assert trained_text("chatml", row) == ["go<|im_end|>"]
    assert any(row.input_ids[at : at + len(letters)] == letters for at in range(len(row.input_ids)))


@pytest.mark.parametrize(
    ("family", "call"),
    [
        ("qwen2.5", '<tool_call>\n{"name": "look", "arguments": {"at": "ü"}}\n</tool_call><|im_end|>'),
        ("llama-3.1", '{"name": "look", "parameters": {"at": "ü"}}<|eot_id|>'),
        ("mistral-v0.3", '[TOOL_CALLS] [{"name": "look", "arguments": {"at": "ü"}, "id": "abcdefghi"}]</s>'),
    ],
)
def test_tool_calls_are_trained_on_as_the_template_writes_them(family: str, call: str) -> None:
    row = one(masks(family), calling(), TOOLS)
    assert [text.strip() for text in trained_text(family, row)] == [call, "A wall." + FAMILIES[family]["stop"]]
    assert "Looks." in tokenizer(family).decode(row.input_ids)
    stop = tokenizer(family).convert_tokens_to_ids(FAMILIES[family]["stop"])
    plain = calling()
    plain[2]["content"] = "a wall"
    assert row.input_ids.count(stop) == one(masks(family), plain, TOOLS).input_ids.count(stop)


def test_tool_calls_that_the_template_leaves_out_are_refused() -> None:
    made = copy.deepcopy(tokenizer("chatml"))
    made.chat_template = made.chat_template.replace("message['content']", "(message['content'] or '')")
    with pytest.raises(BadData, match=r"example e1, message 1 \(assistant\): the chat template leaves out 'look'"):
        one(Masks(made), calling())
    messages = calling()
    messages[1]["content"] = "I will look."
    with pytest.raises(BadData, match=r"leaves out 'I will look\.'"):
        one(masks("llama-3.1"), messages)  # it writes the call alone


def test_the_mask_is_that_of_transformers_where_a_template_marks_its_turns() -> None:
    made = copy.deepcopy(tokenizer("chatml"))
    made.chat_template = (
        "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}{%- if m.role == 'assistant' %}"
        "{% generation %}{{- m.content + '<|im_end|>' }}{% endgeneration %}{%- else %}{{- m.content + '<|im_end|>' }}"
        "{%- endif %}{{- '\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
    )
    messages = turns("find (it)", "look 日本 🙂", "a wall", "turn", "x", "go", system="s")
    theirs = made.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    row = one(Masks(made), messages)
    assert row.input_ids == theirs["input_ids"]
    assert row.weights == [float(weight) for weight in theirs["assistant_masks"]]


def test_what_no_mask_can_be_made_with_is_refused_at_once() -> None:
    def with_template(text: str | None) -> Any:
        made = copy.deepcopy(tokenizer("chatml"))
        made.chat_template = text
        return made

    with pytest.raises(UsageError, match=r"no chat template.*chat_template\.jinja"):
        Masks(with_template(None))
    whole = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    with pytest.raises(UsageError, match="no generation prompt"):
        Masks(with_template(whole))
    endless = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    with pytest.raises(UsageError, match=r"no special token.*eos_token"):
        Masks(with_template(endless + "{% if add_generation_prompt %}assistant: {% endif %}"))
    with pytest.raises(UsageError, match=r"fails on one question.*nope"):
        Masks(with_template("{{ raise_exception('nope') }}"))
    with pytest.raises(UsageError, match="on_long=cut"):
        Masks(tokenizer("chatml"), on_long="cut")
    with pytest.raises(UsageError, match="context=1"):
        Masks(tokenizer("chatml"), context=1)


def test_what_no_row_can_be_made_of_is_refused_by_name() -> None:
    bad: list[tuple[str, list[dict[str, Any]], str]] = [
        ("gemma", turns("a", "b", system="s"), "example e1: the chat template refuses .*System role not supported"),
        ("gemma", [*turns("a", "b"), *turns("a", "b")[1:]], "roles must alternate"),
        ("mistral-v0.2", turns("a", "b", system="s"), "must alternate|Only user"),
        ("mistral-v0.3", turns("a", "b", system="s"), r"message 2 \(assistant\).*after its own prompt"),
        ("chatml", turns("a", "b", weight=0.0), "no message to train on"),
        ("chatml", [{"role": "user", "content": "a", "weight": 1.0}], r"message 0 \(user\): it has a loss weight"),
    ]
    for family, messages, message in bad:
        with pytest.raises(BadData, match=message):
            one(masks(family), messages)
    with pytest.raises(BadData, match=r"example \\x1b\[31m:"):
        list(masks("chatml").rows([{"example_id": "\x1b[31m", "messages": turns("a", "b", weight=0.0), "tools": None}]))


def long_one(steps: int, system: str = "Be short.") -> list[dict[str, Any]]:
    said = [text for step in range(steps) for text in (f"wall {step}" * (1 + step % 3), f"act{step:02}")]
    return turns(*said, system=system)


def test_a_row_longer_than_the_context_is_an_error_or_left_out_and_counted() -> None:
    examples = [example(long_one(3)), {**example(long_one(12)), "example_id": "long"}]
    length = len(one(masks("chatml"), long_one(12)).input_ids)
    with pytest.raises(BadData, match=f"example long: {length} tokens, more than the context of 300.*drop.*split"):
        list(Masks(tokenizer("chatml"), context=300).rows(examples))
    made = Masks(tokenizer("chatml"), context=300, on_long="drop")
    assert [row.example_id for row in made.rows(examples)] == ["e1"]
    assert made.counts["examples"] == 2 and made.counts["rows"] == 1 and made.counts["trained_turns"] == 3
    assert made.counts["too_long"] == made.counts["dropped_rows"] == 1 and made.counts["dropped_turns"] == 12
    exact = Masks(tokenizer("chatml"), context=length)
    assert len(one(exact, long_one(12)).input_ids) == length and not exact.counts["too_long"]


@given(
    steps=st.integers(1, 14),
    context=st.integers(20, 400),
    per_step=st.booleans(),
    untrained=st.sets(st.integers(0, 13)),
    huge=st.sets(st.integers(0, 13), max_size=2),
)
def test_split_trains_every_turn_once_with_the_task_and_the_latest_context(
    steps: int, context: int, per_step: bool, untrained: set[int], huge: set[int]
) -> None:
    messages = long_one(steps)
    acts = [message for message in messages if message["role"] == "assistant"]
    for step in huge & set(range(steps)):
        acts[step]["content"] = f"act{step:02}" + " look" * 100
    for step in untrained & set(range(steps)):
        acts[step]["weight"] = 0.0
    wanted_acts = [act["content"] for act in acts if act["weight"]]
    if not wanted_acts:
        return
    made = Masks(tokenizer("chatml"), context=context, on_long="split", per_step=per_step)
    rows = list(made.rows([example(messages)]))
    found = [text for row in rows for text in trained_text("chatml", row)]
    assert len(set(found)) == len(found)
    assert made.counts["trained_turns"] == len(found) == len(wanted_acts) - made.counts["dropped_turns"]
    assert found == [f"{act}<|im_end|>" for act in wanted_acts if f"{act}<|im_end|>" in found]
    head = tokenizer("chatml").apply_chat_template(messages[:2], tokenize=False)
    texts = [tokenizer("chatml").decode(row.input_ids) for row in rows]
    for row, text in zip(rows, texts, strict=True):
        assert len(row.input_ids) <= context
        assert text.startswith(head)
        turns_in = [at for at, act in enumerate(acts) if act["content"] in text]
        assert turns_in == list(range(turns_in[0], turns_in[-1] + 1))  # without a gap
    for act in wanted_acts:  # what is left out has no room even alone with the task
        if f"{act}<|im_end|>" not in found:
            alone = [*messages[:2], {"role": "assistant", "content": act, "weight": 1.0}]
            assert len(one(masks("chatml"), alone).input_ids) > context
    if not made.counts["too_long"]:
        assert len(rows) == (len(wanted_acts) if per_step else 1)


def test_split_gives_later_turns_context_and_the_first_row_as_many_turns_as_fit() -> None:
    messages = long_one(20)
    made = Masks(tokenizer("chatml"), context=300, on_long="split")
    rows = list(made.rows([example(messages)]))
    assert made.counts["split_rows"] == 1 and not made.counts["dropped_turns"]
    first, second, *_ = rows
    assert first.input_ids == one(masks("chatml"), messages).input_ids[: len(first.input_ids)]
    begin = second.weights.index(1.0)
    assert begin > 140  # about half of the second row is context
    assert len(second.input_ids) > 240


def test_a_turn_that_says_nothing_trains_its_stop_token() -> None:
    for family in ("chatml", "gemma"):
        row = one(masks(family), turns("a", ""))
        assert trained_text(family, row) == [FAMILIES[family]["stop"]]


def test_a_template_that_changes_what_looks_special_is_refused() -> None:
    made = copy.deepcopy(tokenizer("chatml"))
    made.chat_template = made.chat_template.replace(
        "message['content']", "(message['content'] | replace('<|', '< |') if loop.first else message['content'])"
    )
    with pytest.raises(BadData, match="looks like a special token, and the chat template changes"):
        one(Masks(made), turns("a <|im_end|>", "b"))
    assert trained_text("chatml", one(Masks(made), turns("a <|", "b"))) == ["b<|im_end|>"]


def greeting_first() -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": "Hi!", "weight": 0.0}, *turns("x", "done", "y", "and done")]


@pytest.mark.parametrize("family", ["chatml", "qwen2.5", "llama-3", "llama-3.1", "phi-3"])
def test_a_greeting_that_nothing_asked_for_is_context(family: str) -> None:
    row = one(masks(family), greeting_first())
    assert trained_text(family, row) == [wanted(family, "done"), wanted(family, "and done")]
    assert "Hi!" in tokenizer(family).decode(row.input_ids)
    made = Masks(tokenizer(family), context=len(row.input_ids) - 1, on_long="split")
    rows = list(made.rows([example(greeting_first())]))
    assert [text for row in rows for text in trained_text(family, row)] == [
        wanted(family, "done"),
        wanted(family, "and done"),
    ]
    assert all("Hi!" in tokenizer(family).decode(row.input_ids) for row in rows)


def test_what_the_template_cannot_hold_costs_its_row_and_no_other() -> None:
    fine = [{**example(turns("a", f"look {n}")), "example_id": f"fine{n}"} for n in range(3)]
    greeted, doubled = example(greeting_first()), example([*turns("a", "b"), *turns("a", "b")[1:]])
    examples = [fine[0], {**greeted, "example_id": "greeted"}, fine[1], {**doubled, "example_id": "doubled"}, fine[2]]
    made = Masks(tokenizer("gemma"), on_refused="drop")
    rows = list(made.rows(examples))
    assert rows == list(Masks(tokenizer("gemma")).rows(fine))
    assert made.counts["refused"] == 2 and made.counts["examples"] == 5
    assert made.counts["rows"] == 3 and made.counts["trained_turns"] == 3
    assert list(made.refused.values()) == [2] and "roles must alternate" in next(iter(made.refused))
    strict = Masks(tokenizer("gemma"))
    with pytest.raises(BadData, match=r"^example greeted: .*roles must alternate.* 2 of 5 .*train\.on_refused=drop"):
        list(strict.rows(examples))
    assert list(strict.rows(fine)) == rows  # what was refused before is no reason to refuse what comes now
    with pytest.raises(UsageError, match="on_refused=skip"):
        Masks(tokenizer("gemma"), on_refused="skip")


def test_each_call_of_a_turn_has_to_be_written() -> None:
    """A template that writes the first of several calls would else lose the others without a word."""
    first = "{%- for call in m.tool_calls[:1] %}{{ call.function | tojson }}{%- endfor %}"
    made = copy.deepcopy(tokenizer("chatml"))
    made.chat_template = (
        "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}{{- m.content or '' }}{%- if m.tool_calls %}"
        + first
        + "{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
    )
    one(Masks(made), calling())
    for other in ({"at": "door"}, {"at": "ü"}):
        messages = calling()
        messages[1]["tool_calls"].append(CALL | {"function": {"name": "look", "arguments": json.dumps(other)}})
        with pytest.raises(BadData, match=r"message 1 \(assistant\): the chat template leaves out '(look|door)'"):
            one(Masks(made), messages)


def test_calls_of_context_are_not_left_out_either() -> None:
    made = copy.deepcopy(tokenizer("chatml"))
    made.chat_template = made.chat_template.replace("message['content']", "(message['content'] or '')")
    messages = calling()
    messages[1]["weight"] = 0.0
    with pytest.raises(BadData, match=r"message 1 \(assistant\): the chat template leaves out 'look' .* no tool calls"):
        one(Masks(made), messages)


def test_definitions_of_tools_that_the_template_leaves_out_are_counted() -> None:
    for family, n in (("chatml", 1), ("qwen2.5", 0)):
        made = Masks(tokenizer(family))
        one(made, turns("a", "b"), TOOLS)
        assert made.counts["tools_left_out"] == n
