"""An example token by token: the very input_ids and weights that training makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trajkit.console import cell, clean
from trajkit.display.terminal.examples import Found, heading
from trajkit.errors import BadData
from trajkit.tokens.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from trajkit.tokens.masks import Masks, Row

TRAINED, CONTEXT, BETWEEN = "x", " ", "\u2502"
_LEGEND = f"{TRAINED}: trained on.  {BETWEEN} parts tokens, \u00b7 is a space, \\n a line break."
_AS_LONG_AS_IT_IS = 2**31  # tokens: what is too long for a model is for training to say


def shown_tokens(
    found: Found,
    tokenizer: str,
    one_per_line: bool = False,
    per_step: bool = False,
    template_args: Mapping[str, Any] | None = None,
    on_refused: str = "error",
) -> Iterator[RenderableType]:
    """What to print of an example, top to bottom: the tokens of its rows, of a pair those of both sides.

    `one_per_line`: position, id, weight and text of each. `per_step`, `template_args`, `on_refused`: as
    tokens.masks.Masks has them; with "drop" the reason for which training would leave the example out is what is
    printed. Raises UsageError for a folder without a tokenizer of which masks can be made, or where the packages for it
    are not installed; BadData where the example cannot be masked.
    """
    names = _Names(load_tokenizer(tokenizer))
    masks = _masks(names.tokenizer, per_step, template_args, on_refused)
    yield from heading(found)
    yield cell(_LEGEND, "dim")
    for title, row, values in _rows(found, masks):
        n_trained = sum(map(bool, row.weights))
        what = "whose prediction is a value" if values else "trained on"
        yield cell("")
        yield cell(f"{title}{len(row.input_ids):,} tokens, {n_trained:,} of them {what}", "bold")
        yield Tokens(row, values, names, one_per_line)
    from trajkit.tokens.masks import with_flags

    for reason in masks.refused:
        yield cell("")
        yield cell(f"left out: {with_flags(reason)}", "bold red")
    yield cell("")
    yield cell(f"an answer ends with {names.text(masks.stop_id)} (id {masks.stop_id})", "bold")


class Tokens:
    """The tokens of a row, a line's tokens either all trained on or all context; they break where the text breaks."""

    def __init__(self, row: Row, values: Sequence[float], names: _Names, one_per_line: bool) -> None:
        self.row, self.values, self.names, self.one_per_line = row, values, names, one_per_line

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        row, left = self.row, iter(self.values)
        if self.one_per_line:
            yield Text(f"{'at':>7} {'id':>7} {'weight':>6}", style="bold")
        line, trained = Text(), False
        for at, (token, weight) in enumerate(zip(row.input_ids, row.weights, strict=True)):
            text = self.names.text(token)
            style = "bold " * self.names.is_special(token) + ("green" if weight else "dim")
            value = f" value {next(left):.6g}" if weight and self.values else ""
            if self.one_per_line:
                mark = TRAINED if weight else CONTEXT
                yield Text(f"{at:>7} {token:>7} {weight:>6g} {mark}{BETWEEN}{text}{BETWEEN}{value}", style=style)
                continue
            fits = Text(text).cell_len + line.cell_len + 1 <= options.max_width
            if line and (bool(weight) != trained or not fits or line.plain.endswith(f"\\n{BETWEEN}")):
                yield line
                line = Text()
            trained = bool(weight)
            if not line:
                line.append(f"{TRAINED if trained else CONTEXT}{BETWEEN}", style="bold green" if trained else "dim")
            line.append(text, style=style)
            line.append(f"{BETWEEN}{value}", style="dim")
        if line:
            yield line


class _Names:
    """What tokens look like, whitespace and control characters made visible."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._anchor = tokenizer.encode("a", add_special_tokens=False)[-1:]
        self._anchored = len(self._decode(self._anchor))
        self._known: dict[int, str] = {}

    def is_special(self, token: int) -> bool:
        return token in self._special

    def text(self, token: int) -> str:
        """The token's text; of one that is only a part of a character the bytes."""
        if token not in self._known:
            # after another one, or some tokenizers would take the space at its beginning away
            text = self._decode([*self._anchor, token])[self._anchored :]
            if not text or "\ufffd" in text:
                text = _bytes(str(self.tokenizer.convert_ids_to_tokens(token)))
            self._known[token] = clean(text.replace("\u00b7", "\\xb7")).replace(" ", "\u00b7")
        return self._known[token]

    def _decode(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _bytes(name: str) -> str:
    """A name of GPT-2's byte-level vocabularies, in which a character stands for a byte, as <0xC2> and so on."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]  # stand for themselves; the others from 256 on
    others = [byte for byte in range(256) if byte not in own]
    known = {chr(byte): byte for byte in own} | {chr(256 + n): byte for n, byte in enumerate(others)}
    if name.startswith("<0x") or any(letter not in known for letter in name):
        return name
    return "".join(f"<0x{known[letter]:02X}>" for letter in name)


def _rows(found: Found, masks: Masks) -> Iterator[tuple[str, Row, list[float]]]:
    """(what it is, the row, its values) for each row that training would make of it."""
    from trajkit.tokens.masks import conversation, value_rows, with_flags

    kind = found.file.kind
    if kind == "values":
        yield from (("", row, values) for row, values in value_rows(masks, found.row))
    elif kind == "pairs":
        for side in ("chosen", "rejected"):
            yield from ((f"{side.upper()}: ", row, []) for row in masks.tried(conversation(found.row, side)))
    else:
        yield from (("", row, []) for row in masks.tried(found.row))
    try:
        masks.check_refused()
    except BadData as error:
        raise BadData(f"{found.file.path}: {with_flags(str(error))}") from error


def _masks(tokenizer: Any, per_step: bool, template_args: Mapping[str, Any] | None, on_refused: str) -> Masks:
    from trajkit.tokens.masks import Masks

    return Masks(
        tokenizer,
        context=_AS_LONG_AS_IT_IS,
        per_step=per_step,
        template_args=template_args,
        on_refused=on_refused,
    )
