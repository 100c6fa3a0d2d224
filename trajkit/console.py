"""Text from trajectories, made safe to show in a terminal; the terminal to show it in; progress bars on stderr."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

# A regular expression: the characters that steer a terminal (ESC and other controls, but tabs and line ends) and those
# that turn the order of a text round (Unicode's bidirectional controls).
STEERING = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"


def clean(text: str) -> str:
    """`text` on one line, every character that a terminal might act on written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shorten(text: str, width: int) -> str:
    """`clean` text of at most `width` characters."""
    text = clean(text[: 4 * width])
    return text if len(text) <= width else text[: width - 3] + "..."


@contextmanager
def prints_to_stderr() -> Iterator[None]:
    """What is printed inside, by Python, by C or by a process started there, goes to stderr: stdout is for data."""
    kept = None
    streams = {id(stream): stream for stream in (sys.stdout, sys.__stdout__) if stream is not None}.values()
    for stream in streams:
        stream.flush()
    with suppress(OSError):  # one of the two is closed: then only Python's prints can be turned
        kept = os.dup(1)
        os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        for stream in streams:  # what was written to them inside, past the redirection, and waits in a buffer
            with suppress(OSError, ValueError):
                stream.flush()
        if kept is not None:
            import ctypes

            with suppress(OSError, AttributeError, TypeError):
                ctypes.CDLL(None).fflush(None)  # what C has printed and not yet written
            os.dup2(kept, 1)
            os.close(kept)


def cell(text: str, style: str = "") -> Text:
    """`clean` text in which nothing is markup."""
    from rich.text import Text

    return Text(clean(text), style=style)


class Rows:
    """A table whose column `text` wraps; where the screen is too narrow for it, the rows one below the other."""

    NARROW = 12  # columns: less than that is too narrow for `text`

    def __init__(self, columns: Sequence[str], text: str) -> None:
        self.columns, self.text = list(columns), list(columns).index(text)
        self.rows: list[Sequence[Text]] = []

    def add(self, *cells: Text) -> None:
        """Add a row with a cell for each column, or for the first ones."""
        self.rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich import box
        from rich.cells import cell_len
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        cells = [[Text(column) for column in self.columns], *self.rows]
        widths = [
            max((cell_len(line) for row in cells if at < len(row) for line in row[at].plain.split("\n")), default=0)
            for at in range(len(self.columns))
        ]
        if sum(widths) - widths[self.text] + 3 * len(widths) + self.NARROW <= options.max_width:
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            for at, column in enumerate(self.columns):
                table.add_column(column, no_wrap=at != self.text, overflow="fold")
            for row in self.rows:
                table.add_row(*row)
            yield table
            return
        for row in self.rows:
            before, text, after = row[: self.text], row[self.text : self.text + 1], row[self.text + 1 :]
            if any(before):
                beside = Table.grid(padding=(0, 2, 0, 0))
                beside.add_row(*(part for part in before if part))
                yield beside
            yield from (Padding(part, (0, 0, 0, 2)) for part in text)
            for name, part in zip(self.columns[self.text + 1 :], after, strict=False):
                yield Padding(Text.assemble(f"{name}: ", part), (0, 0, 0, 2))


def screen() -> Console:
    """stdout as rich prints to it: in colour on a terminal (NO_COLOR: without), 100 columns wide in a pipe."""
    import io

    from rich.console import Console

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # `| head` has read enough: trajkit.cli ends with 0, rich would with 1

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where the locale has no name for a character
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Screen(file=sys.stdout, width=100 if piped else None, markup=False, highlight=False, emoji=False)


# --- progress ---

DELAY = 2.0


def bar(hidden: bool = False, **options: Any) -> Any:
    """A tqdm bar that shows itself after two seconds, unless it is to stay hidden."""
    from tqdm import tqdm

    return tqdm(delay=DELAY, dynamic_ncols=True, leave=False, disable=True if hidden else None, **options)


def tell(line: str) -> None:
    """A line on stderr, above a bar that may be there, without credentials and what a terminal would act on."""
    from tqdm import tqdm

    from trajkit.quoting import hide

    tqdm.write(clean(hide(line)), file=sys.stderr)


@contextmanager
def query_bar(con: duckdb.DuckDBPyConnection, what: str) -> Iterator[None]:
    """Show how far the queries that run inside are."""
    con.execute("SET enable_progress_bar = true")
    con.execute("SET enable_progress_bar_print = false")
    finished = threading.Event()

    def watch() -> None:
        if finished.wait(DELAY):
            return
        with bar(desc=what, total=100, unit="%", bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}") as shown:
            while not finished.wait(0.2):
                shown.n = max(0.0, con.query_progress())
                shown.refresh()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()
