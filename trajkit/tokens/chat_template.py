"""The chat template of a tokenizer: which way it takes messages, and what it is given beside them.

Templates differ. Beside tool calls some want null for the content and some "", some want a call's arguments as an
object and some as text, and a model's thoughts have three names. What a template does not know it leaves out without a
word, or writes as "None". So each way is tried on a conversation of which every part is known, and the first that
writes all of it is taken.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from itertools import product
from typing import Any

import click

from trajkit.console import clean
from trajkit.errors import UsageError, did_you_mean
from trajkit.selection.dataset import Message

BLANKS: tuple[str | None, ...] = (None, "")  # the content beside tool calls
THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # the names that templates have for it
DATE = date(2024, 7, 26)  # in place of today: what Llama 3.1's template writes where there is no clock
CLOCK = "strftime_now"  # what templates ask for the date, and the argument that sets it

_CALL = {"id": "a1b2c3d4e", "type": "function", "function": {"name": "probe_call"}}
_ARGUMENTS = {"probe_key": "probe_value"}
_THOUGHT = "probe_thought"
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "probe_tool",
            "description": "A probe.",
            "parameters": {"type": "object", "properties": {"probe_key": {"type": "string", "description": "Any."}}},
        },
    }
]


class ChatTemplate:
    """The chat template of a tokenizer of transformers.

    Args:
        tokenizer: The tokenizer.
        args: What the template is given beside messages and tools (enable_thinking, reasoning_effort, ...), by name.
            `strftime_now` is the date, as YYYY-MM-DD, that the template gets for today's. None: nothing.
        named: What errors begin with; None: the tokenizer's folder.

    Raises UsageError where there is no template, or for arguments that it does not read.

    Attributes:
        writes_calls: False: it leaves out tool calls, whichever way they are given.
        writes_tools: False: it leaves out the definitions of tools.
    """

    def __init__(self, tokenizer: Any, args: Mapping[str, Any] | None = None, named: str | None = None) -> None:
        self._tokenizer = tokenizer
        self.named = named or clean(str(getattr(tokenizer, "name_or_path", "") or "the tokenizer"))
        if not getattr(tokenizer, "chat_template", None):
            raise UsageError(
                f"{self.named}: it has no chat template. Put the chat_template.jinja of the model's instruct version, "
                "or one of your own, into the model's folder."
            )
        self._date, self._told = DATE, False
        self._args = self._checked(dict(args or {}))
        self._blank, self._as_text, self.writes_calls = self._find_calls()
        self._thoughts = self._find_thoughts()
        self.writes_tools = "probe_tool" in (self._tried([], tools=_TOOLS) or "probe_tool")

    def message(self, message: Message) -> Message:
        """The message as this template takes it; weight and token_ids are not the template's."""
        given = {key: value for key, value in message.items() if key not in ("weight", "token_ids", "reasoning")}
        if given.get("tool_calls"):
            given["tool_calls"] = [self._call(call) for call in given["tool_calls"]]
            given["content"] = given.get("content") or self._blank
        else:
            given.pop("tool_calls", None)
            given["content"] = given.get("content") or ""
        if message.get("reasoning"):
            given[self._thoughts] = message["reasoning"]
        return given

    def render(self, messages: Sequence[Message], tools: Any = None, prompt: bool = False) -> str:
        """The text of messages that `message` made, with the header of the next answer where prompt is true.

        Raises what the template raises.
        """
        text = self._tokenizer.apply_chat_template(
            list(messages),
            tools=tools,
            tokenize=False,
            add_generation_prompt=prompt,
            **{CLOCK: self._today, **self._args},
        )
        return str(text)

    def _today(self, form: str) -> str:
        """What the template gets for today, so that the same data always give the same text."""
        if not self._told:
            self._told = True
            click.echo(
                f"{self.named}: its chat template writes today's date. It gets {self._date.isoformat()}; "
                f"--template-arg {CLOCK}=YYYY-MM-DD (train.template_args.{CLOCK}) sets another.",
                err=True,
            )
        return self._date.strftime(form)

    def _checked(self, args: dict[str, Any]) -> dict[str, Any]:
        given = set(inspect.signature(type(self._tokenizer).apply_chat_template).parameters) | {"messages"}
        template = self._tokenizer.chat_template
        text = template if isinstance(template, str) else "\n".join(map(str, template.values()))
        for name in args:
            if name in given:
                raise UsageError(f"--template-arg {name}: that is the conversation's, and not to be set.")
            if not re.search(rf"\b{re.escape(name)}\b", text):
                words = sorted(set(re.findall(r"[A-Za-z_]\w+", text)))
                raise UsageError(
                    f"--template-arg {name}: the chat template of {self.named} does not read it"
                    f"{did_you_mean(name, words)}"
                )
        if CLOCK in args:
            try:
                self._date, self._told = date.fromisoformat(str(args.pop(CLOCK))), True
            except ValueError:
                raise UsageError(f"--template-arg {CLOCK}: it is a date, for instance {CLOCK}={DATE}.") from None
        return args

    def _find_calls(self) -> tuple[str | None, bool, bool]:
        """(the content beside tool calls, whether arguments are text, whether calls are written at all)."""
        seen = False
        for blank, as_text in product(BLANKS, (False, True)):
            self._blank, self._as_text = blank, as_text
            text = self._tried([self._answer(None)])
            seen = seen or text is not None
            parts = ("probe_call", *_ARGUMENTS, *_ARGUMENTS.values())
            if text is None or not all(part in text for part in parts):
                continue
            # An object as Python writes it, text as text in JSON again, or the lack of content as a word.
            if "{'probe_key'" not in text and '\\"probe_key' not in text and "None" not in text:
                return blank, as_text, True
        return "", False, not seen

    def _find_thoughts(self) -> str:
        """The name under which the template writes thoughts; the first where it writes them under none."""
        for called, key in product((False, True), THOUGHTS):
            answer = self._answer(None) if called else {"role": "assistant", "content": "probe_answer"}
            if _THOUGHT in (self._tried([answer | {key: _THOUGHT}]) or ""):
                return key
        return THOUGHTS[0]

    def _answer(self, content: str | None) -> Message:
        call = _CALL | {"function": _CALL["function"] | {"arguments": _ARGUMENTS}}  # type: ignore[operator]
        return self.message({"role": "assistant", "content": content, "tool_calls": [call]})

    def _tried(self, answers: list[Message], tools: Any = None) -> str | None:
        """What the template writes of these after a question, or None where it raises."""
        question = [{"role": "user", "content": "probe_question"}]
        try:
            text = self.render([*question, *answers], tools)
            return text.partition("probe_question")[2] if answers else text
        except Exception:  # the template's own, jinja's, Python's
            return None

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        """The call with its arguments as this template takes them; text that is no JSON stays as the model wrote it."""
        function = call["function"]
        arguments = function.get("arguments")
        if arguments is None:
            arguments = {}
        if self._as_text and not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        elif not self._as_text and isinstance(arguments, str):
            with suppress(ValueError):
                arguments = json.loads(arguments)
        return call | {"function": function | {"arguments": arguments}}
