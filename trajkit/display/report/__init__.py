"""`trajkit report`: runs/ as one HTML file that needs no network: charts, and every task with its branch tree.

The page is page.html, page.css, page.js and tree.js of this package. Charts and counts are written into it as plain
HTML; the tasks lie in it packed, and the script unpacks them when they are asked for. Trajectory text never becomes
HTML: here it is escaped, in the script it is only ever text, and the page's policy lets no other script run and nothing
be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trajkit
from trajkit.console import STEERING, clean
from trajkit.display.report.tasks import choose_cut, index, keep_answer, lay_out, pack
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import UsageError
from trajkit.rules import method as find_method
from trajkit.runs.atomic import check_out, whole
from trajkit.runs.object_store import Location, absolute, locate
from trajkit.selection.select import Summary, choose

if TYPE_CHECKING:
    from trajkit.display.report.charts import Chart

SHOWN_ROWS = 200  # of a chart's numbers
COUNTS = (
    "FROM trajectory_counts ORDER BY list_position(['expert', 'policy', 'scorer'], role), iteration, split DESC, actor"
)


@dataclass(frozen=True)
class Report:
    """What was written. `cut_texts`: texts of which only the first `text_limit` characters lie in the report."""

    out: str
    bytes: int
    tasks: int
    trajectories: int
    messages: int
    charts: list[str]
    text_limit: int
    cut_texts: int
    trajectories_without_messages: int
    tasks_without_messages: int

    def text(self) -> str:
        """The report as stderr says it."""
        wrote = (
            f"wrote {clean(self.out)}: {self.bytes / 2**20:.1f} MB, {self.tasks:,} tasks, "
            f"{self.trajectories:,} trajectories, {len(self.charts)} charts"
        )
        return "\n".join([wrote, *(f"  {line}" for line in self.left_out())])

    def left_out(self) -> list[str]:
        """What of the runs does not lie in the report, a sentence each."""
        said = []
        if self.cut_texts:
            said.append(
                f"{self.cut_texts:,} texts are cut to their first {self.text_limit:,} characters: "
                "trajkit show ID --full prints all"
            )
        if self.trajectories_without_messages:
            said.append(
                f"the messages of {self.trajectories_without_messages:,} trajectories that are neither an expert's nor "
                "chosen are left out"
            )
        if self.tasks_without_messages:
            said.append(f"the messages of the last {self.tasks_without_messages:,} tasks are left out")
        return said


def report(
    runs: str | os.PathLike[str],
    out: str | os.PathLike[str],
    methods: Sequence[str] = ("eef",),
    skills: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    memory_limit: str | None = None,
    allow_read: Collection[str | os.PathLike[str]] = (),
) -> Report:
    """Write the report on `runs` to the HTML file `out`, which appears whole or not at all.

    `methods` are names or .sql files as `trajkit select` takes them: what they choose is marked in the trees. `skills`
    are regular expressions by name, for the chart of navigation skills. `params` are as in `selection.select.select`.
    A .sql file may read the runs and the files `allow_read`, and nothing else.
    Raises UsageError for a wrong call, BadData where the input would make a method's answer wrong.
    """
    from trajkit.display.report.charts import charts

    path = locate(out)
    rules = [find_method(name, reads_files=bool(allow_read)) for name in methods]
    check_out(path, (".html", ".htm"), locate(runs))
    with DuckDBEngine(runs, params, memory_limit=memory_limit, allow_read=allow_read) as opened:
        if not opened.files["trajectories"]:
            raise UsageError(
                f"{runs}: it holds no trajectories (**/trajectories*.parquet). "
                "`trajkit import` or `trajkit explore` put some there; --runs names another folder."
            )
        drawn = list(charts(opened, methods, skills or {}))
        counts = opened.rows(COUNTS)
        summaries, answers = [], []
        for number, rule in enumerate(rules):
            summaries.append(choose(opened, rule))
            answers.append(keep_answer(opened, summaries[-1], number))
        iterations = lay_out(opened, answers)
        packed = choose_cut(opened)
        parts = {
            "title": _escape("/".join(str(absolute(opened.path)).split(os.sep)[-2:])),
            "about": _about(counts, packed.of_tasks, summaries),
            "counts": _table(counts, "Trajectories by role, actor, iteration and split"),
            "methods": "\n".join(f"<pre>{_escape(summary.text())}</pre>" for summary in summaries),
            "charts": "\n".join(_figure(chart, opened.path, params or {}) for chart in drawn),
        }
        told = {
            "methods": [{"name": summary.method, "writes": summary.writes} for summary in summaries],
            "iteration": summaries[0].iteration,
            "runs": shlex.quote(str(opened.path)),
        }

        def written(size: int) -> Report:
            return Report(
                out=str(out),
                bytes=size,
                tasks=packed.tasks,
                trajectories=packed.trajectories,
                messages=packed.messages,
                charts=[chart.name for chart in drawn],
                text_limit=packed.cut.text,
                cut_texts=packed.cut_texts,
                trajectories_without_messages=packed.other_trajectories,
                tasks_without_messages=packed.without_messages,
            )

        def data() -> Iterator[bytes]:
            for number, block in enumerate(pack(opened, packed)):
                yield _block(f"chunk-{number}", block)
            yield _block("index", index(opened, packed, iterations, told | {"left_out": written(0).left_out()}))

        return written(_write(path, _page(parts, data())))


def _write(out: Location, parts: Iterator[bytes]) -> int:
    """Write `parts` to `out`, whole or not at all. Returns the size."""
    with whole(out) as file:
        for part in parts:
            file.write(part)
        return file.tell()


def _page(parts: Mapping[str, str], data: Iterator[bytes]) -> Iterator[bytes]:
    """page.html with what its {{names}} stand for. Nothing that is put in is read for names again."""
    style, script = _file("page.css"), _file("page.js") + _file("tree.js")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {**parts, "style": style, "script": script, "policy": _escape(policy)}
    for number, part in enumerate(re.split(r"\{\{(\w+)\}\}", _file("page.html"))):
        if number % 2 == 0:
            yield part.encode()
        elif part == "data":
            yield from data
        else:
            yield parts[part].encode(errors="replace")


def _block(name: str, packed: bytes) -> bytes:
    return b'<script type="application/gzip;base64" id="%b">%b</script>\n' % (name.encode(), packed)


def _about(counts: Sequence[Mapping[str, Any]], n_tasks: int, summaries: Sequence[Summary]) -> str:
    n_trajectories = sum(row["n_from_s0"] + row["n_branches"] for row in counts)
    return _escape(
        f"{n_tasks:,} tasks · {n_trajectories:,} trajectories · chosen by {', '.join(s.method for s in summaries)} · "
        f"fingerprint {summaries[0].input_fingerprint[:12]} · "
        f"written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by trajkit {trajkit.__version__}"
    )


def _figure(chart: Chart, runs: Location, params: Mapping[str, Any]) -> str:
    """A chart with its text, its numbers and the command that gives them."""
    comment = re.match(r"(?:--[^\n]*\n)*", chart.sql)
    settings = [line.removeprefix("--").strip() for line in (comment[0] if comment else "").splitlines()]
    settings += [f"--set {shlex.quote(f'{name}={value}')}" for name, value in params.items()]
    if chart.sql.startswith("trajkit "):
        command = " ".join([chart.sql, *settings])
    else:
        query = shlex.quote(chart.sql[comment.end() if comment else 0 :].strip())
        command = " ".join(["trajkit sql", query, "--runs", shlex.quote(str(runs)), *settings])
    picture = chart.svg or f'<p class="empty">{_escape(chart.empty)}</p>'
    more = f"<p>The first {SHOWN_ROWS} of {len(chart.rows):,} rows.</p>" if len(chart.rows) > SHOWN_ROWS else ""
    return (
        f'<figure class="chart" id="chart-{_escape(chart.name)}"><h3>{_escape(chart.title)}</h3>'
        f'<div class="picture">{picture}</div><figcaption>{_escape(chart.text)}</figcaption>'
        f"<details><summary>Numbers and SQL</summary>{_table(chart.rows[:SHOWN_ROWS], chart.title)}{more}"
        f'<div class="command"><code>{_escape(command)}</code><button type="button" hidden>Copy</button></div>'
        "</details></figure>"
    )


def _table(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """Rows as a table: numbers to the right."""
    if not rows:
        return "<p>There are no rows.</p>"
    names = list(rows[0])
    align = {
        name: ' class="number"' if all(isinstance(row[name], int | float | None) for row in rows) else ""
        for name in names
    }
    head = "".join(f'<th scope="col"{align[name]}>{_escape(_heading(name))}</th>' for name in names)
    body = "\n".join(
        "<tr>" + "".join(f"<td{align[name]}>{_escape(_shown(name, row[name]))}</td>" for name in names) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_escape(title)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def _heading(name: str) -> str:
    """A column's name in words: n_from_s0 is "from s_0"."""
    return re.sub(r"\bs0\b", "s_0", name.removeprefix("n_").replace("_", " "))


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value) if name in ("iteration", "step") else f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _escape(text: str) -> str:
    """Text as HTML: control characters, and those that turn its order round, become dots."""
    return html.escape(re.sub(STEERING, "·", text))


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
