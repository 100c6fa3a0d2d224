"""Progress bars on stderr, for what takes longer than two seconds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb

DELAY = 2.0


def bar(hidden: bool = False, **options: Any) -> Any:
    """A tqdm bar that shows itself after two seconds, unless it is to stay hidden."""
    from tqdm import tqdm

    return tqdm(delay=DELAY, dynamic_ncols=True, leave=False, disable=True if hidden else None, **options)


def tell(line: str) -> None:
    """A line on stderr, above a bar that may be there, without credentials and what a terminal would act on."""
    from tqdm import tqdm

    from trajkit.quoting import hide
    from trajkit.terminal import clean

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
