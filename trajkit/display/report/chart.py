"""A chart of the report, and the words that several charts share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trajkit.console import clean
from trajkit.display.report.drawing import MAX_ROWS
from trajkit.engines.duckdb import DuckDBEngine

Row = dict[str, Any]

NO_TRAJECTORIES = "There are no trajectories. `trajkit import` or `trajkit explore` adds some."
NO_ROLLOUTS = (
    "No trajectory from s_0 has an outcome yet. `trajkit explore --plan initial` or `trajkit import` adds some."
)


@dataclass(frozen=True)
class Chart:
    """One chart of the report.

    `name` is unique and a slug. `text` says what it shows and how to read it. `svg` None: there is nothing to draw, and
    `empty` says why and which command would change that (else it is ''). `rows` are the numbers, `sql` the query of
    `trajkit sql` that gives them, after a comment with the --set that it needs (or, of what `select` would do, its
    command). Texts and rows may hold what trajectories hold: they are for a page to escape. `svg` is safe as it is.
    """

    name: str
    title: str
    text: str
    svg: str | None
    empty: str
    rows: list[Row]
    sql: str


def asked(runs: DuckDBEngine, sql: str, what: str) -> list[Row]:
    """The answer of `sql`, with a progress bar where it takes long."""
    with runs.shown(f"counting {what}"):
        return runs.rows(sql)


def who(row: Row) -> str:
    """Whose trajectories: "theta-1, iteration 2", "gpt-4 (expert)"."""
    expert = " (expert)" if row["role"] == "expert" and row["actor"] else ""
    iteration = f", iteration {row['iteration']}" if row["iteration"] else ""
    return f"{actor_name(row['actor'] or row['role'])}{expert}{iteration}"


def actor_name(name: str) -> str:
    """The name, without its middle where it is long: names of models differ at their ends."""
    name = clean(name)
    return name if len(name) <= 26 else f"{name[:12]}…{name[-13:]}"


def decimal(number: float) -> str:
    """A reward, on whatever scale it is."""
    return f"{number:.3f}" if abs(number) < 10 else f"{number:.1f}"


def counted(n: int, what: str) -> str:
    """'1 task', '2,000 trajectories'."""
    many = what.removesuffix("y") + "ies" if what.endswith("y") else f"{what}s"
    return f"{n:,} {what if n == 1 else many}"


def tenth_label(tenth: int) -> str:
    """'s_0', and per cent of the expert's actions."""
    return f"{tenth * 10}" if tenth else "s_0"


def split_order(split: str) -> tuple[bool, bool, str]:
    """Test first, then train, then the others."""
    return split != "test", split != "train", split


def by_split(rows: Sequence[Row], make: Callable[[Row], Row | None]) -> tuple[dict[str, list[Row]], str]:
    """What `make` makes of the latest rows of each split, and what to say where some are left out."""
    panels, said = {}, ""
    for split in sorted({row["split"] for row in rows}, key=split_order):
        made, more = latest([dot for row in rows if row["split"] == split if (dot := make(row))])
        said = said or more
        if made:
            panels[f"split {split}"] = made
    return panels, said


def latest(rows: Sequence[Row], most: int = MAX_ROWS) -> tuple[list[Row], str]:
    """The last rows, as many as are drawn, and what to say where there are more."""
    more = f" Drawn are the latest {most} of {len(rows):,}; the table has all."
    return list(rows[-most:]), more if len(rows) > most else ""
