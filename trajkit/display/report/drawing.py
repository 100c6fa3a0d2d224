"""What the charts are drawn with: rows of dots, rows of bars, columns, a heat map and points, as inline SVG by Altair.

All are about 350 pixels wide, for a phone. Text, axes and grid have the page's own colour, so that they are read on
white and on black, and no meaning hangs on a colour alone: what is solid and what is hollow says the same.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trajkit.console import clean
from trajkit.display.report.svg import inline
from trajkit.errors import UsageError

# Of Okabe and Ito's colours those that have a contrast of 3 to white and to near-black, and a grey.
BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#808080"
WIDTH = 340  # pixels of a plot
ROW = 34  # pixels from one row to the next: a line of text, and what is drawn below it
MAX_ROWS = 30  # drawn per panel; the table below a chart has all

# An axis of counts: 0, 500, 2k.
COUNTS = {"format": "~s", "labelExpr": "datum.value == 0 ? '0' : datum.label", "tickMinStep": 1}

Panels = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows by the panel's heading ('': none)."""


@dataclass(frozen=True)
class Part:
    """A part of a bar: the key of its number, its name in the legend, its colour, and whether it is solid."""

    key: str
    name: str
    colour: str
    solid: bool


def altair() -> Any:
    """The module. Raises UsageError where it is not installed."""
    try:
        import altair
        import vl_convert  # noqa: F401  (Altair asks for it when a chart is saved)
    except ImportError as error:
        raise UsageError(
            f"the charts of a report need {error.name or 'Altair'}, which is not installed: "
            "pip install 'trajkit[report]'."
        ) from None
    return altair


def dot_rows(name: str, title: str, panels: Panels, axis: str, percent: bool = True) -> str:
    """A row per dot: `label` over a dot at `value`, the interval `low` to `high` and a hollow dot at `other`.

    `low`, `high` and `other` may be None. `expert` true makes the dot a diamond in another colour.
    """
    alt = altair()
    numbers = [row[key] for rows in panels.values() for row in rows for key in ("value", "low", "high", "other")]
    known = [number for number in numbers if number is not None]
    domain = [0, 1] if percent else [min(known), max(known)]
    if domain[0] == domain[1]:
        domain = [domain[0] - 0.5, domain[1] + 0.5]
    scale = alt.Scale(domain=domain, nice=not percent)
    drawn = []
    for heading, rows in panels.items():
        placed = [
            {"label": clean(row["label"]), "is": "expert" if row["expert"] else "policy", "y": ROW * i + 24}
            | {key: row[key] for key in ("value", "low", "high", "other")}
            for i, row in enumerate(rows)
        ]
        base = _base(alt, placed).encode(
            y=alt.Y("y:Q", scale=None, axis=None),
            color=alt.Color("is:N", legend=None, scale=alt.Scale(domain=["expert", "policy"], range=[GREEN, BLUE])),
        )
        x = alt.X("value:Q", scale=scale, axis=alt.Axis(title=axis, format="%" if percent else "~g", tickCount=5))
        shape = alt.Shape(
            "is:N", legend=None, scale=alt.Scale(domain=["expert", "policy"], range=["diamond", "circle"])
        )
        layers = [
            base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=scale), x2="high:Q"),
            base.mark_rule(strokeWidth=1, strokeDash=[3, 2]).encode(x=alt.X("value:Q", scale=scale), x2="other:Q"),
            base.mark_point(filled=False, size=45).encode(x=alt.X("other:Q", scale=scale), shape=shape),
            base.mark_point(filled=True, opacity=1, size=60).encode(x=x, shape=shape),
            _labels(alt, placed, -14),
        ]
        drawn.append(_panel(alt, layers, heading, ROW * len(rows)))
    return _svg(alt, drawn, name, title)


def bar_rows(name: str, title: str, panels: Panels, parts: Sequence[Part], axis: str, percent: bool = False) -> str:
    """A row per bar: `label` over the parts side by side. `percent`: the axis is 0 to 100%.

    A panel has the parts whose keys its rows have.
    """
    alt = altair()
    drawn = []
    for heading, rows in panels.items():
        bars = []
        for i, row in enumerate(rows):
            end = 0.0
            for part in parts:
                if row.get(part.key):
                    start, end = end, end + row[part.key]
                    bars.append({"x": start, "x2": end, "y": ROW * i + 18, "y2": ROW * i + 30, "part": part.name})
        labels = [{"label": clean(row["label"]), "y": ROW * i + 24} for i, row in enumerate(rows)]
        top = 1.0 if percent else max(bar["x2"] for bar in bars) if bars else 1.0
        scale = alt.Scale(domain=[0, top], nice=False)
        shown = alt.Axis(title=axis or None, tickCount=4, **({"format": "%"} if percent else COUNTS))
        layers = [
            _base(alt, bars)
            .mark_rect(strokeWidth=1.2)
            .encode(
                x=alt.X("x:Q", scale=scale, axis=shown),
                x2="x2:Q",
                y=alt.Y("y:Q", scale=None, axis=None),
                y2="y2:Q",
                **_look(alt, parts, rows),
            ),
            _labels(alt, labels, -14),
        ]
        drawn.append(_panel(alt, layers, heading, ROW * len(rows)))
    return _svg(alt, drawn, name, title)


def columns(name: str, title: str, panels: Panels, parts: Sequence[Part], bins: Sequence[str], axis: str) -> str:
    """A histogram per panel: a column per bin, all bins in their order. Rows have `bin` and a number per part."""
    alt = altair()
    drawn = []
    for heading, rows in panels.items():
        bars = []
        for row in rows:
            end = 0
            for part in parts:
                if row.get(part.key):
                    start, end = end, end + row[part.key]
                    bars.append({"bin": row["bin"], "n": start, "n2": end, "part": part.name})
        # A label is some 6 pixels a letter, slanted where they would meet.
        slanted = max(map(len, bins)) * 6.5 > WIDTH / len(bins)
        labels = alt.Axis(title=axis, labelAngle=-45 if slanted else 0, labelOverlap="greedy", labelPadding=4)
        layers = [
            _base(alt, bars)
            .mark_bar(strokeWidth=1.2)
            .encode(
                x=alt.X("bin:O", sort=None, scale=alt.Scale(domain=list(bins), paddingInner=0.15), axis=labels),
                y=alt.Y("n:Q", axis=alt.Axis(title=None, **COUNTS, tickCount=4)),
                y2="n2:Q",
                **_look(alt, parts, rows),
            )
        ]
        drawn.append(_panel(alt, layers, heading, 90))
    return _svg(alt, drawn, name, title)


def heat_map(name: str, title: str, panels: Panels, columns: Sequence[str], axis: str, side: str) -> str:
    """A cell per row of the data: `row` and `column` say where, `share` (0 to 1, or None) the colour, `n` the count."""
    alt = altair()
    many = any(len({row["row"] for row in rows}) > 12 for rows in panels.values())
    drawn = []
    for heading, rows in panels.items():
        cells = [
            {
                "row": str(row["row"]),
                "column": row["column"],
                "share": row["share"],
                "percent": "-" if row["share"] is None else f"{row['share'] * 100:.0f}",
                "n": compact(row["n"]),
            }
            for row in rows
        ]
        heights = list(dict.fromkeys(cell["row"] for cell in cells))
        y = alt.Y("row:O", sort=None, scale=alt.Scale(domain=heights), axis=alt.Axis(title=side, ticks=False))
        x = alt.X(
            "column:O",
            sort=None,
            scale=alt.Scale(domain=list(columns)),
            axis=alt.Axis(title=axis, labelAngle=0, ticks=False, labelOverlap=False),
        )
        base = _base(alt, cells).encode(x=x, y=y)
        # Numbers are black on the light half of the scale.
        ink = {
            "condition": [
                {"test": "isValid(datum.share) && datum.share >= 0.5", "value": "black"},
                {"test": "isValid(datum.share)", "value": "white"},
            ],
            "value": "currentColor",
        }
        layers = [
            base.mark_rect().encode(
                color=alt.Color("share:Q", legend=None, scale=alt.Scale(scheme="cividis", domain=[0, 1]))
            ),
            base.mark_text(fontSize=11, dy=0 if many else -5).encode(text="percent:N", color=ink),
        ]
        if not many:
            layers.append(base.mark_text(fontSize=9, dy=8).encode(text="n:N", color=ink))
        drawn.append(_panel(alt, layers, heading, (15 if many else 30) * len(heights)))
    return _svg(alt, drawn, name, title, grid=False)


def points(name: str, title: str, lines: Panels, axis: str, side: str) -> str:
    """Dots with intervals at (`x`, `value`), those of a line joined, each with its `label` where there is room."""
    alt = altair()
    rows = [{"line": i, **row, "label": clean(row["label"])} for i, line in enumerate(lines.values()) for row in line]
    right = max(row["x"] for row in rows) * 1.05 or 1
    low, high = min(row["low"] for row in rows), max(row["high"] for row in rows)
    height = 200
    taken: list[tuple[float, float]] = []
    for row in rows:
        at = (row["x"] / right * WIDTH, (row["value"] - low) / (high - low) * height)
        row["labelled"] = all(abs(at[0] - x) > 120 or abs(at[1] - y) > 13 for x, y in taken)
        if row["labelled"]:
            taken.append(at)
    base = _base(alt, rows).encode(
        x=alt.X("x:Q", scale=alt.Scale(domain=[0, right]), axis=alt.Axis(title=axis, **COUNTS, tickCount=5)),
        y=alt.Y("value:Q", scale=alt.Scale(domain=[low, high]), axis=alt.Axis(title=side, format="%", tickCount=5)),
    )
    layers = [
        base.mark_line(color=BLUE, strokeWidth=1.5, strokeDash=[4, 3]).encode(detail="line:N"),
        base.mark_rule(color=BLUE, strokeWidth=2).encode(y="low:Q", y2="high:Q"),
        base.mark_point(color=BLUE, filled=True, opacity=1, size=60),
    ]
    # Below the line that comes and above the one that goes: they mostly rise.
    for half, look in (("<", {"align": "left", "dx": 7, "dy": 12}), (">=", {"align": "right", "dx": -7, "dy": -9})):
        words = base.mark_text(limit=160, color="currentColor", **look).encode(text="label:N")
        layers.append(words.transform_filter(f"datum.labelled && datum.x {half} {right / 2}"))
    return _svg(alt, [_panel(alt, layers, "", height)], name, title)


def compact(number: float) -> str:
    """A number in few letters: 950, 9.5k, 12k, 1.2M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f}".removesuffix(".0")[:4].rstrip(".") + unit
    return f"{number:g}"


def _base(alt: Any, rows: list[dict[str, Any]]) -> Any:
    return alt.Chart(alt.InlineData(values=rows))


def _labels(alt: Any, rows: list[dict[str, Any]], dy: int) -> Any:
    text = _base(alt, rows).mark_text(align="left", dy=dy, limit=WIDTH, color="currentColor")
    return text.encode(x=alt.value(0), y=alt.Y("y:Q", scale=None, axis=None), text="label:N")


def _look(alt: Any, parts: Sequence[Part], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Colour and fill of the parts, with a legend where the rows can have several."""
    several = sum(any(part.key in row for row in rows) for part in parts) > 1
    parts = [part for part in parts if any(row.get(part.key) for row in rows)]
    names = [part.name for part in parts]
    in_a_row = sum(map(len, names)) < 40
    legend = alt.Legend(
        title=None, orient="top", symbolType="square", columns=len(names) if in_a_row else 1, labelLimit=300
    )
    looks = {
        "fill": (alt.Fill, [part.colour if part.solid else _faint(part.colour) for part in parts]),
        "stroke": (alt.Stroke, [part.colour for part in parts]),
    }
    return {
        key: channel(
            "part:N",
            legend=legend if several and parts else None,
            scale=alt.Scale(domain=names, range=look),
        )
        for key, (channel, look) in looks.items()
    }


def _faint(colour: str) -> str:
    return f"rgba({int(colour[1:3], 16)},{int(colour[3:5], 16)},{int(colour[5:7], 16)},0.12)"


def _panel(alt: Any, layers: Sequence[Any], heading: str, height: int) -> Any:
    title = {"title": alt.TitleParams(clean(heading), anchor="start", limit=WIDTH)} if heading else {}
    return alt.layer(*layers).properties(width=WIDTH, height=height, **title)


def _svg(alt: Any, drawn: Sequence[Any], name: str, title: str, grid: bool = True) -> str:
    chart = alt.vconcat(*drawn, spacing=14) if len(drawn) > 1 else drawn[0]
    if len(drawn) > 1:
        chart = chart.resolve_scale(fill="independent", stroke="independent")
    ink = "currentColor"
    chart = (
        chart.configure(background="transparent", aria=False, padding=4, font="sans-serif")
        .configure_view(stroke=None)
        .configure_title(color=ink, fontSize=12, fontWeight="bold", offset=8)
        .configure_text(fontSize=11)
        .configure_legend(
            labelColor=ink, labelFontSize=11, symbolSize=90, symbolStrokeWidth=1.2, rowPadding=2, offset=6
        )
        .configure_axis(
            grid=grid,
            gridColor=ink,
            gridOpacity=0.15,
            domainColor=ink,
            domainOpacity=0.5,
            tickColor=ink,
            tickOpacity=0.5,
            labelColor=ink,
            titleColor=ink,
            labelFontSize=11,
            titleFontSize=11,
            titleFontWeight="normal",
        )
    )
    text = io.StringIO()
    chart.save(text, format="svg")
    return inline(text.getvalue(), name, title)
