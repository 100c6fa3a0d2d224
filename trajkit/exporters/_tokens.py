"""Examples as token ids with their loss mask: the very tokens that `train/` trains on, by trajkit.tokens.masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trajkit.console import clean
from trajkit.errors import BadData, TrajkitError
from trajkit.exporters._rows import Row, Unfit, check_on_or_off, check_text, row, with_reasoning
from trajkit.messages import from_row
from trajkit.selection.dataset import Selected
from trajkit.tokens.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from trajkit.exporters._format import Options, Summary
    from trajkit.tokens.masks import Masks
    from trajkit.tokens.masks import Row as Masked

TOO_LONG = "longer than --max-length (--on-long split cuts it into rows that fit)"
REASONING = "reasoning is trained on only where the chat template writes it"
TOOLS = "the chat template leaves out the definitions of tools"
NO_ROOM = "an action that with its context is longer than --max-length is in no row"


def labels(row: Masked) -> Row:
    """input_ids, and labels that are -100 where no loss is."""
    pairs = zip(row.input_ids, row.weights, strict=True)
    return {"input_ids": row.input_ids, "labels": [token if weight else -100 for token, weight in pairs]}


def rows(file: Selected, turn: Callable[[Masked], Row], options: Options, summary: Summary) -> Iterator[Row]:
    """The file's examples as rows of token ids, as `turn` writes one.

    An example of which nothing fits is left out and counted, and with on_refused "drop" one of which no exact mask can
    be made; else that raises BadData at the end, naming the first. Raises UsageError for a tokenizer or a chat template
    that makes none at all.
    """
    with _our_names(file.path):
        masks = _masks(options)
        counts = masks.counts
        for given, example in _read(file):
            summary.read += 1
            try:
                check_on_or_off(given, summary.trainer)
                check_text(given)
            except Unfit as error:
                summary.left_out[str(error)] += 1
                continue
            before = counts.copy()
            yield from map(turn, masks.tried(example))
            if counts["refused"] > before["refused"]:
                continue
            if counts["rows"] > before["rows"]:
                summary.written += 1
                if with_reasoning(example):
                    summary.notes[REASONING] += 1
                if counts["tools_left_out"] > before["tools_left_out"]:
                    summary.notes[TOOLS] += 1
                if counts["dropped_turns"] > before["dropped_turns"]:
                    summary.notes[NO_ROOM] += 1
            else:
                summary.left_out[TOO_LONG if masks.on_long == "drop" else NO_ROOM] += 1
            summary.tokens, summary.trained_tokens = counts["tokens"], counts["trained_tokens"]
        masks.check_refused()
        from trajkit.tokens.masks import with_flags

        for reason, n in masks.refused.items():
            summary.left_out[with_flags(reason)] += n


def _read(file: Selected) -> Iterator[tuple[Row, dict[str, Any]]]:
    """The examples as the formats get them, and as trajkit.tokens.masks takes them."""
    for values in file.rows(("example_id", "messages", "tools")):
        try:
            given = row(values)  # which says what is wrong with it
        except ValueError as error:
            raise BadData(f"example {clean(str(values['example_id']))}: {error}") from error
        messages = [from_row(message) for message in values["messages"]]
        yield given, {"example_id": values["example_id"], "messages": messages, "tools": given["tools"]}


def _masks(options: Options) -> Masks:
    tokenizer = load_tokenizer(options.tokenizer or "")
    from trajkit.tokens.masks import Masks

    context = {} if options.max_length is None else {"context": options.max_length}
    return Masks(
        tokenizer,
        on_long=options.on_long or "error",
        per_step=options.per_step,
        template_args=options.template_args,
        on_refused=options.on_refused or "error",
        **context,
    )


@contextmanager
def _our_names(path: Path) -> Iterator[None]:
    """Errors of trajkit.tokens.masks with export's names for its settings, and the file's."""
    try:
        yield
    except TrajkitError as error:
        from trajkit.tokens.masks import with_flags

        text = with_flags(str(error))
        if isinstance(error, BadData) and str(path) not in text:
            text = f"{path}: {text}"
        raise (BadData if isinstance(error, BadData) else type(error))(text) from error
