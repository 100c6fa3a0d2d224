"""Examples as token ids with a loss weight each, by the chat template of the model's tokenizer.

A conversation is rendered once as a whole and encoded once. Where an assistant's turn stands in that text is told by
two more renderings: the prompt of the turn (everything before it and the generation prompt) has to be how the text
begins, and so has the conversation up to the end of the turn. What lies between is the turn: what the template puts
after its generation prompt, up to and with the stop token that the model must emit to end it. Headers, and what stands
after the stop token, are never trained on. Where a template writes a turn otherwise once more messages follow, no mask
over the whole conversation can be right, and the example is refused.

Text that only looks like a special token stays text: the template renders a stand-in for it, and the special tokens
that the template itself writes are encoded under names that no content can guess.
"""

from __future__ import annotations

import json
import re
import secrets
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from trajkit.console import clean
from trajkit.errors import BadData, UsageError
from trajkit.selection.dataset import Message
from trajkit.tokens.chat_template import ChatTemplate

ON_LONG = ("error", "drop", "split")
ON_REFUSED = ("error", "drop")
# The settings of train/ that errors name, and what they are called on trajkit's command line.
_FLAGS = {
    "--set train.on_long=": "--on-long ",
    "--set train.on_refused=": "--on-refused ",
    "--set train.per_step=true": "--per-step",
    "train.context": "--max-length",
}
_SAID = "\u2e28what was said\u2e29"  # stands where the model's own text would be in the chat template


@dataclass(frozen=True)
class Row:
    """A conversation as the model reads it; rows made of one example have its example_id.

    weights[t] is the loss weight of predicting input_ids[t] from all before it, 0.0 where it is context only;
    weights[0] is 0.0, as nothing comes before the first token.
    """

    example_id: str
    input_ids: list[int]
    weights: list[float]


class _NotSplit(ValueError):
    """A token begins in a header and ends in an answer, and the vocabulary has nothing for its parts."""


class _Turn(NamedTuple):
    """Where an assistant's turn stands in the rendered text: what it says from start to stop, then the stop token."""

    start: int
    stop: int
    end: int


class Refused(BadData):
    """The chat template cannot hold an example, or no mask of it is exact. `reason` is the same for all of a kind."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class _Rewritten(Refused):
    """The template writes a turn otherwise than the model would have had to say it."""


class Masks:
    """Turns examples into rows, with the tokenizer's own chat template, and counts what it did.

    A message's `token_ids` are used as they are wherever they say what the message says: nothing that a model sampled
    is encoded again.

    Args:
        tokenizer: A fast tokenizer of transformers with a chat template.
        context: The most tokens of a row.
        on_long: What is done with a longer row: "error" raises, "drop" leaves it out, "split" cuts it between
            messages into rows that fit, so that each trained turn is trained on in one of them. Each of these begins
            with the messages before the first assistant's; then come the next turns in line, as many as fit (from the
            second row on: as many as fit in half of the context, at least one), and between the two as many of the
            turns right before them, as context, as there is room for. A turn for which even a row of its own has no
            room is left out.
        per_step: One row per trained turn, which ends with it: exact for templates that rewrite earlier turns too.
        template_args: What the chat template is given beside messages and tools (see ChatTemplate).
        on_refused: What is done with an example that the chat template cannot hold: "error" raises, once all have been
            tried, and names the first and how many there are; "drop" leaves it out and counts it by its reason.

    Raises UsageError for a tokenizer or a chat template with which no exact mask can be made.

    Attributes:
        counts: So far: examples, rows, tokens, trained_tokens, trained_turns; too_long (rows longer than the context),
            dropped_rows and split_rows (how many of these were left out whole, and cut), dropped_turns (trained turns
            in no row); token_ids_used and token_ids_unusable (messages whose token_ids were taken as they are; those
            whose text was encoded instead, as the token_ids say something else); reasoning_left_out (trained turns
            whose reasoning the chat template does not write); tools_left_out (examples whose tools' definitions it does
            not write); refused (examples that it cannot hold).
        refused: How many of these there are so far, by their reason.
        stop_id: The token that the template ends an assistant's turn with.
    """

    def __init__(
        self,
        tokenizer: Any,
        context: int = 4096,
        on_long: str = "error",
        per_step: bool = False,
        template_args: Mapping[str, Any] | None = None,
        on_refused: str = "error",
    ) -> None:
        if on_long not in ON_LONG:
            raise UsageError(f"train.on_long={on_long}: one of {', '.join(ON_LONG)}.")
        if on_refused not in ON_REFUSED:
            raise UsageError(f"train.on_refused={on_refused}: one of {', '.join(ON_REFUSED)}.")
        if context < 2:
            raise UsageError(f"train.context={context}: a row needs at least two tokens.")
        self.tokenizer, self.context, self.on_long, self.per_step = tokenizer, context, on_long, per_step
        self.on_refused = on_refused
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._unchecked: list[Refused] = []  # the first one since check_refused
        self._checked = Counter[str]()  # counts at that time
        self.template = ChatTemplate(tokenizer, template_args)
        name = self.template.named
        if not getattr(tokenizer, "is_fast", False):
            raise UsageError(f"{name}: not a fast tokenizer (tokenizer.json), so where its tokens stand is not known.")
        self._stop = self._stop_token(name)
        self.stop_id: int = tokenizer.convert_tokens_to_ids(self._stop)
        self._text = _Text(tokenizer, self._stop)

    def rows(self, examples: Iterable[dict[str, Any]]) -> Iterator[Row]:
        """The rows of examples (as trajkit.selection.dataset.read yields them), in order.

        Raises BadData, naming the example: no trained message; a trained message that is not the assistant's; a row too
        long with on_long "error"; and at the end, with on_refused "error", the first conversation that the template
        refuses, rewrites or leaves words of out.
        """
        for example in examples:
            yield from self.tried(example)
        self.check_refused()

    def tried(self, example: dict[str, Any]) -> list[Row]:
        """The rows of one example; none where the template cannot hold it, which is counted (see check_refused)."""
        before = self.counts.copy()
        self.counts["examples"] += 1
        try:
            rows = list(_Example(self, example).rows())
        except Refused as error:
            self.counts.clear()
            self.counts.update(before)
            self.counts.update(examples=1, refused=1)
            self.refused[error.reason] += 1
            self._unchecked = self._unchecked or [error]
            return []
        self.counts["rows"] += len(rows)
        self.counts["tokens"] += sum(len(row.input_ids) for row in rows)
        self.counts["trained_tokens"] += sum(sum(map(bool, row.weights)) for row in rows)
        return rows

    def check_refused(self) -> None:
        """Raise BadData, naming the first of them, where examples were refused and on_refused is "error".

        What counts are those since it was called the last time.
        """
        (refused, examples), first = (
            ((self.counts - self._checked)[name] for name in ("refused", "examples")),
            self._unchecked,
        )
        self._checked, self._unchecked = self.counts.copy(), []
        if first and self.on_refused == "error":
            raise BadData(
                f"{first[0]} {refused:,} of {examples:,} conversations cannot be held; --set "
                "train.on_refused=drop leaves them out, and counts them by their reason."
            ) from first[0]

    def _stop_token(self, name: str) -> str:
        """What the template ends an assistant's turn with. Also refuses templates without a generation prompt."""
        user = {"role": "user", "content": "-"}
        try:
            text = self.template.render([user, {"role": "assistant", "content": _SAID}])
            prompt, bare = self.template.render([user], prompt=True), self.template.render([user])
        except Exception as error:
            raise UsageError(
                f"{name}: its chat template fails on one question and one answer ({clean(str(error))})."
            ) from error
        before, said, after = text.rpartition(_SAID)
        if not said or not before.startswith(prompt):
            raise UsageError(f"{name}: its chat template does not write an answer as it is, right after its prompt.")
        if prompt == bare and before[len(prompt) :].strip():
            raise UsageError(
                f"{name}: its chat template has no generation prompt (add_generation_prompt), so the header of a turn "
                "cannot be told from what the model says. Add one to the template."
            )
        added = sorted(
            (
                (not token.special, at, -len(token.content), token.content)
                for token in self.tokenizer.added_tokens_decoder.values()
                if token.content.strip() and (at := after.find(token.content)) >= 0
            ),
        )
        if not added:
            raise UsageError(
                f"{name}: its chat template ends an answer with no special token, so a model could not learn to stop. "
                "Use a template that ends answers with {{ eos_token }}."
            )
        return str(added[0][3])


def with_flags(text: str) -> str:
    """An error's text, or a reason, with the flags of trajkit's command line in place of the settings of train/."""
    for setting, flag in _FLAGS.items():
        text = text.replace(setting, flag)
    return text


def conversation(pair: dict[str, Any], side: str) -> dict[str, Any]:
    """A side of a pair ("chosen" or "rejected") as an example: the prompt, then what that side says."""
    name = f"{pair['pair_id']}, {side}"
    return {"example_id": name, "messages": [*pair["prompt"], *pair[side]], "tools": pair["tools"]}


def value_rows(masks: Masks, example: dict[str, Any]) -> Iterator[tuple[Row, list[float]]]:
    """The rows of an example of a file of values, and the values of each.

    A row's weight is the action's at the tokens where its values are read, in their order, and 0.0 elsewhere: at the
    last token of each action that has one. None where the template cannot hold it (see Masks.tried). Raises BadData
    where no action has a value.
    """
    values: list[float] = []
    worth: list[float] = []  # how much each value's error weighs
    numbered = []  # weighted by the value's number from 1 on, so that the mask tells whose each token is
    for message in example["messages"]:
        plain = {key: part for key, part in message.items() if key != "value"}
        if "value" in message:
            values.append(message["value"])
            worth.append(float(message.get("weight") or 1.0))
        numbered.append(plain | {"weight": float(len(values)) if "value" in message else 0.0})
    if not values:
        raise BadData(f"example {clean(str(example['example_id']))}: no action of it has a value.")
    for row in masks.tried({**example, "messages": numbered}):
        last = {int(number): t for t, number in enumerate(row.weights) if number}
        weights = [0.0] * len(row.input_ids)
        for number, t in last.items():
            weights[t] = worth[number - 1]
        yield replace(row, weights=weights), [values[number - 1] for number in sorted(last, key=lambda n: last[n])]


class _Example:
    """One example on its way to rows."""

    def __init__(self, masks: Masks, example: dict[str, Any]) -> None:
        self.masks = masks
        self.id = str(example["example_id"])
        self.messages: list[Message] = example["messages"]
        self.trained = [at for at, message in enumerate(self.messages) if message.get("weight")]
        if not self.trained:
            raise BadData(f"{self.named()}: no message to train on: every weight is 0.")
        for at in self.trained:
            if self.messages[at]["role"] != "assistant":
                raise BadData(f"{self.named(at)}: it has a loss weight, which only the assistant's can have.")
        # The template sees stand-ins for what looks like a special token.
        plain: list[Message] = [masks.template.message(message) for message in self.messages]
        self.chat: list[Message] = masks._text.hide(plain)
        self.tools: Any = masks._text.hide(example.get("tools") or None)
        if self.tools and not masks.template.writes_tools:
            masks.counts["tools_left_out"] += 1
        if not masks.template.writes_calls:
            for at, message in enumerate(self.messages):
                if message.get("tool_calls"):  # also of context: what follows would answer nothing
                    raise Refused(
                        f"{self.named(at)}: the chat template leaves out "
                        f"{self._quoted(str(message['tool_calls'][0]['function'].get('name')))} of this turn: it "
                        "writes no tool calls. Use a template that does, or take them out of the data.",
                        "the chat template writes no tool calls",
                    )
        if self.chat != plain or self.tools != (example.get("tools") or None):
            self._check_stand_ins(plain, example.get("tools") or None)
        self.sampled = {at: ids for at, message in enumerate(self.messages) if (ids := self._sampled(message))}

    def rows(self) -> Iterator[Row]:
        if not self.masks.per_step:
            yield from self._fitting(len(self.messages), self.trained)
            return
        for at in self.trained:
            yield from self._fitting(at + 1, [at])

    def named(self, at: int | None = None) -> str:
        name = f"example {clean(self.id)}"
        return name if at is None else f"{name}, message {at} ({clean(str(self.messages[at]['role']))})"

    def _fitting(self, until: int, train: Sequence[int]) -> Iterator[Row]:
        """The messages before `until` as one row, or what on_long makes of them."""
        masks, counts = self.masks, self.masks.counts
        row = self._row(range(until), train)
        if len(row.input_ids) <= masks.context:
            counts["trained_turns"] += len(train)
            yield row
            return
        counts["too_long"] += 1
        if masks.on_long == "error":
            raise BadData(
                f"{self.named()}: {len(row.input_ids):,} tokens, more than the context of {masks.context:,}. Raise "
                "train.context, leave such examples out (--set train.on_long=drop), or cut them into several rows "
                "(--set train.on_long=split)."
            )
        if masks.on_long == "drop":
            counts["dropped_rows"] += 1
            counts["dropped_turns"] += len(train)
            return
        counts["split_rows"] += 1
        yield from self._windows(until, train)

    def _windows(self, until: int, train: Sequence[int]) -> Iterator[Row]:
        """The messages before `until` in rows that fit (see on_long in Masks)."""
        masks, counts = self.masks, self.masks.counts
        # An assistant's greeting, which answers nothing, belongs to what every row begins with.
        asked = next(
            (at for at, m in enumerate(self.messages) if m["role"] not in ("system", "developer", "assistant")), 0
        )
        greetings = set(range(asked)) - set(train)
        steps = [at for at in range(until) if self.messages[at]["role"] == "assistant" and at not in greetings]

        def window(first: int, last: int) -> list[int]:
            return [*range(steps[0]), *range(steps[first], steps[last] + 1)]

        def size(first: int, last: int) -> int:
            return len(self._row(window(first, last), ()).input_ids)

        waiting = [step for step, at in enumerate(steps) if at in set(train)]
        while waiting:
            first = waiting[0]
            if size(first, first) > masks.context:
                counts["dropped_turns"] += 1
                waiting.pop(0)
                continue
            room = masks.context if first == 0 else masks.context // 2
            fit = bisect_right(waiting, room, key=lambda last: size(first, last))
            now, waiting = waiting[: max(fit, 1)], waiting[max(fit, 1) :]
            since = bisect_left(range(first), True, key=lambda since: size(since, now[-1]) <= masks.context)
            counts["trained_turns"] += len(now)
            yield self._row(window(since, now[-1]), [steps[step] for step in now])

    def _row(self, keep: Sequence[int], train: Collection[int]) -> Row:
        """The messages numbered in keep as one row; those numbered in train are trained on."""
        chat = [self.chat[at] for at in keep]
        text = self._text_of_step(chat) if self.masks.per_step else self._render(chat, False)
        row = Row(self.id, [], [])
        since = 0  # where the text begins that is not in the row yet
        marks: list[tuple[int, int, float]] = []  # what is trained on in there: from, to, weight
        for number, at in enumerate(keep):
            if at not in train and at not in self.sampled:
                continue
            try:
                turn = self._turn(chat, number, text, at)
            except Refused:
                if at in train:
                    raise
                continue  # context, rendered as the template will have it
            weight = float(self.messages[at]["weight"]) if at in train else 0.0
            said = self.sampled.get(at)
            if said is None:
                self._check_all_said(chat[number], text[turn.start : turn.stop], at)
                marks.append((turn.start, turn.end, weight))
                continue
            self._add(row, text[since : turn.start], [(a - since, b - since, w) for a, b, w in marks])
            row.input_ids.extend(said)
            row.weights.extend([weight] * len(said))
            since, marks = turn.stop, []
            # The stop token that the template writes is the model's to say, unless it has ended its turn already.
            if said[-1] not in self.masks._text.special:
                marks = [(turn.stop, turn.end, weight)]
        self._add(row, text[since:], [(a - since, b - since, w) for a, b, w in marks])
        row.weights[0] = 0.0
        if train and not any(row.weights):
            raise Refused(
                f"{self.named()}: not one token of it would be trained on.", "not one token of it would be trained on"
            )
        return row

    def _text_of_step(self, chat: Sequence[Message]) -> str:
        """The conversation up to a turn: the turn's own prompt, and what the template writes of the turn.

        gpt-oss's template drops the thoughts of earlier calls once an answer follows, which the prompt of that answer
        still had. Where the turn begins is told by another answer in its place.
        """
        text, prompt = self._render(chat, False), self._render(chat[:-1], True)
        before = self._render(chat[:-1], False)
        if text.startswith(prompt) or not prompt.startswith(before) or prompt == before:
            return text
        header = prompt[len(before) :]
        other = self._render([*chat[:-1], {"role": "assistant", "content": _SAID}], False)
        begin = other.rfind(header, 0, other.find(_SAID)) + len(header)
        if begin < len(header) or text[:begin] != other[:begin]:
            return text
        return prompt + text[begin:]

    def _turn(self, chat: Sequence[Message], number: int, text: str, at: int) -> _Turn:
        """Where message `number` of the chat (message `at` of the example) stands in the rendered text."""
        prompt = self._render(chat[:number], True)
        alone = text if number == len(chat) - 1 else self._render(chat[: number + 1], False)
        if not alone.startswith(prompt):
            raise _Rewritten(
                f"{self.named(at)}: the chat template does not write the answer after its own prompt "
                f"({_difference(prompt, alone)}), so no mask is exact. Use another chat template.",
                "the chat template does not write an answer after its own prompt",
            )
        stop_token = self.masks._stop
        stop = alone.rfind(stop_token, len(prompt))
        if stop < 0:  # another one, as Llama 3.1's <|eom_id|> after some tool calls
            markers = list(self.masks._text.markers.finditer(alone, len(prompt)))
            if not markers:
                raise _Rewritten(
                    f"{self.named(at)}: the chat template ends this turn with no special token, so a model could not "
                    "learn to stop there. Use another chat template.",
                    "the chat template ends a turn with no special token",
                )
            stop, stop_token = markers[-1].start(), markers[-1].group()
        turn = _Turn(len(prompt), stop, stop + len(stop_token))
        if not text.startswith(alone[: turn.end]):
            raise _Rewritten(
                f"{self.named(at)}: the chat template writes the conversation up to here otherwise once more messages "
                f"follow ({_difference(alone[: turn.end], text)}), so no mask over the whole conversation is exact. "
                "Use another chat template, or train on one row per step (--set train.per_step=true).",
                "the chat template rewrites a turn once more messages follow (--set train.per_step=true)",
            )
        return turn

    def _check_all_said(self, message: Message, said: str, at: int) -> None:
        """Refuses a template that silently leaves out what a trained turn says; of reasoning it counts it."""
        bare = called = _bare(said)
        reasoning = _bare(self.masks._text.hide(self.messages[at].get("reasoning") or ""))
        if reasoning not in bare:
            self.masks.counts["reasoning_left_out"] += 1
        content = message["content"] or ""
        missing = [] if _bare(content) in bare else [content]
        for words in filter(None, (reasoning, _bare(content))):  # they may name what is called
            called = called.replace(words, " ", 1)
        functions = [call["function"] for call in message.get("tool_calls", ())]
        names = Counter(str(function.get("name")) for function in functions)
        missing += [name for name, n in names.items() if called.count(_bare(name)) < n]
        missing += [
            text for function in functions for text in _texts(function["arguments"]) if not _holds(called, text)
        ]
        for part in missing:
            raise Refused(
                f"{self.named(at)}: the chat template leaves out {self._quoted(part)} of this turn (it writes "
                f"{self._quoted(said)}). Use a template that writes all of it, or take it out of the data.",
                "the chat template leaves out a part of a trained turn",
            )

    def _quoted(self, text: str, most: int = 60) -> str:
        text = clean(self.masks._text.reveal(text))
        return f"'{text}'" if len(text) <= most else f"'{text[:most]}...'"

    def _add(self, row: Row, text: str, marks: Sequence[tuple[int, int, float]]) -> None:
        """Encodes text and adds it to the row, what is marked with its weight."""
        try:
            ids, weights = self.masks._text.encode(text, marks)
        except _NotSplit as error:
            raise Refused(
                f"{self.named()}: {error}", "one token is the end of a header and the beginning of an answer"
            ) from error
        # The end of a sampled turn is already there where the model has said it.
        own = 1 if row.input_ids and ids and row.input_ids[-1] == ids[0] else 0
        row.input_ids.extend(ids[own:])
        row.weights.extend(weights[own:])

    def _sampled(self, message: Message) -> list[int] | None:
        """The token ids that the message was sampled as; None where there are none, or not this tokenizer's."""
        ids = message.get("token_ids")
        if not ids or message["role"] != "assistant":
            return None
        tokenizer = self.masks.tokenizer
        usable = all(0 <= token < len(tokenizer) for token in ids) and not message.get("tool_calls")
        usable = usable and _bare(tokenizer.decode(ids, skip_special_tokens=True)) == _bare(message["content"] or "")
        self.masks.counts["token_ids_used" if usable else "token_ids_unusable"] += 1
        return list(ids) if usable else None

    def _render(self, chat: Sequence[Message], prompt: bool) -> str:
        return self._rendered(chat, self.tools, prompt)

    def _rendered(self, chat: Sequence[Message], tools: Any, prompt: bool) -> str:
        try:
            return self.masks.template.render(chat, tools, prompt)
        except Exception as error:
            raise Refused(
                f"{self.named()}: the chat template refuses the conversation ({clean(str(error))}). Use another chat "
                "template, or leave such examples out of the data.",
                f"the chat template refuses the conversation ({clean(str(error))[:100]})",
            ) from error

    def _check_stand_ins(self, plain: list[Message], tools: Any) -> None:
        if self.masks._text.reveal(self._render(self.chat, False)) != self._rendered(plain, tools, False):
            raise Refused(
                f"{self.named()}: it holds text that looks like a special token, and the chat template changes that "
                "text, so that it cannot be told from a real one. Leave the example out of the data.",
                "text that looks like a special token, which the chat template changes",
            )


class _Text:
    """Rendered text to token ids, in which only the template's own special tokens become special tokens."""

    def __init__(self, tokenizer: Any, stop: str) -> None:
        added = tokenizer.added_tokens_decoder
        special = {token.content: number for number, token in added.items() if token.special or token.content == stop}
        secret = secrets.token_hex(8)
        self.special = set(special.values())
        self._added = set(added)
        # They begin with a rare character, so that the patterns pass over other text quickly.
        self._names = {token: f"\u2e28{secret}s{number}\u2e29" for token, number in special.items()}
        self._stand_ins = {token: f"\u2e28{secret}t{number}\u2e29" for token, number in special.items()}
        self._real = {stand_in: token for token, stand_in in self._stand_ins.items()}
        any_special = "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True))
        self.markers = re.compile(any_special)
        self._stand_in = re.compile(rf"\u2e28{secret}t\d+\u2e29")
        self._either = re.compile(f"{any_special}|{self._stand_in.pattern}")
        data = json.loads(tokenizer.backend_tokenizer.to_str())
        # In the normaliser or the pre-tokeniser: tokens are strings of stand-ins for bytes.
        self._bytes = '"ByteLevel"' in json.dumps([data["normalizer"], data["pre_tokenizer"]])
        self._backend = Tokenizer.from_str(json.dumps(_renamed(data, self._names)))
        for token, number in special.items():
            if self._backend.token_to_id(self._names[token]) != number:
                raise UsageError(f"the tokenizer's {clean(token)} cannot be told from text that looks so.")

    def hide(self, value: Any) -> Any:
        """The value with stand-ins for all text in it that looks like a special token."""
        if isinstance(value, str):
            return self.markers.sub(lambda match: self._stand_ins[match.group()], value)
        if isinstance(value, dict):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.hide(item) for item in value]
        return value

    def reveal(self, text: str) -> str:
        """The text with what the stand-ins stand for."""
        return self._stand_in.sub(lambda match: self._real[match.group()], text)

    def encode(self, text: str, marks: Sequence[tuple[int, int, float]]) -> tuple[list[int], list[float]]:
        """The token ids of text with stand-ins and the weight of each: marks are from, to, weight, in their order."""
        parts, ends = [], [0]
        cuts = [0, *(cut for start, end, _ in marks for cut in (start, end)), len(text)]
        for start, end in pairwise(cuts):
            parts.append(self._either.sub(self._for_encoding, text[start:end]))
            ends.append(ends[-1] + len(parts[-1]))
        text = "".join(parts)
        encoding = self._backend.encode(text, add_special_tokens=False)
        ids, offsets = encoding.ids, encoding.offsets
        starts = [start for start, _ in offsets]
        weights = [0.0] * len(ids)
        # From the last one, as cutting a token in two moves those behind it.
        for (_, _, weight), start, end in reversed(list(zip(marks, ends[1::2], ends[2::2], strict=False))):
            first, last = bisect_left(starts, start), bisect_left(starts, end)
            weights[first:last] = [weight] * (last - first)
            if first and offsets[first - 1][1] > start and ids[first - 1] not in self.special:
                # One token for the end of the header and the beginning of the answer ("\n" and "\n"), which a model
                # that is given the header cannot say.
                left, right = self._split(ids[first - 1], text[slice(*offsets[first - 1])], start - starts[first - 1])
                ids[first - 1 : first] = left + right
                weights[first - 1 : first] = [0.0] * len(left) + [weight] * len(right)
        return ids, weights

    def _for_encoding(self, match: re.Match[str]) -> str:
        found = match.group()
        return self._names.get(found) or self._real[found]

    def _split(self, token: int, text: str, at: int) -> tuple[list[int], list[int]]:
        """The ids of a token's text before character `at`, and from there on."""
        string = str(self._backend.id_to_token(token))
        if token in self._added:  # others are in the model's own alphabet
            parts = [text[:at], text[at:]]
            found = [self._backend.encode(part, add_special_tokens=False).ids for part in parts]
            same = [self._backend.decode(ids, skip_special_tokens=False) for ids in found] == parts
        else:
            # Counted from the end where a token may begin with a space that the text does not have.
            cut = len(text[:at].encode()) if self._bytes else len(string) - len(text[at:])
            parts = [string[:cut], string[cut:]]
            pieces = [self._backend.model.tokenize(part) for part in parts]
            found = [[piece.id for piece in several] for several in pieces]
            same = ["".join(piece.value for piece in several) for several in pieces] == parts
        if not same:
            raise _NotSplit(f"the token {clean(string)!r} is both the end of a header and the beginning of an answer.")
        return found[0], found[1]


def _renamed(data: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """A tokenizer.json in which special tokens have other names, and nothing comes before, after or between."""
    model = data["model"]
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(token, token): number for token, number in vocab.items()}
    else:  # Unigram: token and score
        model["vocab"] = [[names.get(token, token), score] for token, score in vocab]
    if "merges" in model:
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & names.keys()]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    for token in data["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    return data | {"post_processor": None, "truncation": None, "padding": None}


def _texts(arguments: Any) -> Iterator[str]:
    """The words of a call's arguments: its keys, and its values that are text."""
    if isinstance(arguments, str):
        yield arguments
    elif isinstance(arguments, dict):
        for key, value in arguments.items():
            yield str(key)
            yield from _texts(value)
    elif isinstance(arguments, list):
        for value in arguments:
            yield from _texts(value)


def _holds(bare: str, text: str) -> bool:
    """Whether the text is in there, as it is or as JSON has it."""
    return any(
        _bare(form) in bare for form in (text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1])
    )


def _bare(text: str) -> str:
    """Templates trim and indent what they write."""
    return "".join(text.split())


def _difference(expected: str, found: str) -> str:
    pairs = enumerate(zip(expected, found, strict=False))
    at = next((at for at, (one, other) in pairs if one != other), min(len(expected), len(found)))
    return f"'{clean(expected[max(at - 20, 0) : at + 30])}' becomes '{clean(found[max(at - 20, 0) : at + 30])}'"
