"""The charts of `trajkit report`: the numbers are the rules', and the drawings are safe to stand inside a page."""

from __future__ import annotations

import math
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from rules_helpers import FIGURE_1
from small_runs import trajkit
from worlds import World, expert, params, policy, worlds, write

pytest.importorskip("altair", reason="the charts need the extra report")

from trajkit.display.report import drawing
from trajkit.display.report.charts import Chart, charts
from trajkit.display.report.drawing import compact
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import UsageError

HOSTILE = (
    *("</svg><script>alert(1)</script>", '" onload="alert(1)', "]]>", "<!--", "&amp;&#0;", "'+alert(1)+'", "{{datum}}"),
    *("a\x01\x08\ufffe\u202e", "two\nlines", "m" * 100, "\U0001d54f日本"),
)
NAMES = [
    *("win-rate", "reward", "coverage", "efficiency", "branch-outcomes", "recovery-positions"),
    *("select-eef", "select-eto", "skill-go", "skill-go-2"),
    *("trajectory-lengths", "token-lengths", "character-lengths", "exploration-cost"),
]
SKILLS = {"go": "go b", "Go!": "^go a$\n|it's"}


def drawn(world: World, folder: Path, methods: Sequence[str] = (), skills: Mapping[str, str] = {}) -> dict[str, Chart]:
    with DuckDBEngine(write(world, folder)) as runs:
        return {chart.name: chart for chart in charts(runs, methods, skills)}


def busy() -> World:
    """Two iterations with branches, a test split, lost rollouts, and names that mean harm."""
    trajs = [replace(t, iteration=2) if t.role == "policy" else t for t in FIGURE_1.trajs]
    trajs.append(expert("f", "aa", task="u", reward=1.0))
    for number, name in enumerate(HOSTILE):
        trajs += [
            policy(f"r{number}", "ab", task=name, actor=name, iteration=1 + number % 2, reward=float(number % 3 == 0)),
            policy(f"q{number}", "b" * number, task="held out", actor=name, split="test", iteration=1 + number % 2),
        ]
    lost = policy("lost", "b", parent="e", at=2, iteration=2, ended="drift", reward=None)
    return World((*trajs, lost, policy("other split", "b", split=HOSTILE[0], task="x")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = busy()
    for message in world.messages:
        message["token_ids"] = [1, 2] if message["role"] == "assistant" and message["trajectory_id"] == "r0" else None
    return write(world, tmp_path_factory.mktemp("busy"))


@pytest.fixture(scope="module")
def made(folder: Path) -> list[Chart]:
    with DuckDBEngine(folder) as runs:
        return list(charts(runs, ["eef", "eto", "eef"], SKILLS))


def elements(svg: str) -> Iterator[ElementTree.Element]:
    return ElementTree.fromstring(svg).iter()


def test_charts_come_in_order_with_all_there_is_to_say(made: list[Chart]) -> None:
    assert [chart.name for chart in made] == NAMES
    for chart in made:
        assert chart.svg is not None, chart.name
        assert (chart.empty, bool(chart.title and chart.text and chart.rows)) == ("", True)


def test_drawings_only_draw(made: list[Chart]) -> None:
    """No script, style, link or event; no fixed size; a name for screen readers; whatever the data is called."""
    for chart in made:
        assert chart.svg is not None
        assert not re.search(r"<script|<style|<foreignObject|href|url\((?!#)", chart.svg, re.IGNORECASE)
        root, *inner = elements(chart.svg)
        assert root.attrib.keys() == {"viewBox", "role", "aria-label"}
        assert (root.get("role"), root.get("aria-label")) == ("img", chart.title)
        width = float(root.attrib["viewBox"].split()[2])
        assert 340 <= width <= 400, (chart.name, width)
        assert {re.sub(r"{.*}", "", element.tag) for element in inner} <= {"g", "path", "line", "rect", "text", "defs"}
        assert not [key for element in inner for key in element.attrib if key.startswith(("on", "style", "class"))]


def test_hostile_names_are_drawn_as_text(made: list[Chart]) -> None:
    said = {element.text for element in elements(next(c.svg for c in made if c.name == "win-rate") or "")}
    text = "\n".join(filter(None, said))
    assert "</svg><scrip…t(1)</script>, iteration 1: " in text
    assert '" onload="alert(1), iteration 2: ' in text
    assert r"a\x01\x08\ufffe\u202e, iteration 2: " in text
    assert r"two\nlines, iteration 1: " in text


def test_ids_are_each_charts_own(made: list[Chart]) -> None:
    ids = [(chart.name, i) for chart in made for e in elements(chart.svg or "") if (i := e.get("id"))]
    assert all(id.startswith(f"{name}-") for name, id in ids)
    assert len({id for _, id in ids}) == len(ids)


def test_ids_and_what_refers_to_them_are_renamed_together() -> None:
    from trajkit.display.report.svg import inline
    from trajkit.errors import TrajkitError

    head = '<svg xmlns="http://www.w3.org/2000/svg" width="9" viewBox="0 0 9 9">'
    clip = '<defs><clipPath id="clip0"><rect/></clipPath></defs><g clip-path="url(#clip0)" onclick="x()"/><script/>'
    svg = inline(f"{head}{clip}</svg>", "mine", 'a "title"')
    assert 'id="mine-clip0"' in svg
    assert 'clip-path="url(#mine-clip0)"' in svg
    assert 'aria-label="a &quot;title&quot;"' in svg
    assert not re.search("script|onclick|width", svg)
    with pytest.raises(TrajkitError, match="lies outside"):
        inline(f'{head}<g fill="url(http://x/y#z)"/></svg>', "mine", "t")


def test_text_and_axes_take_the_pages_colour(made: list[Chart]) -> None:
    series = {drawing.BLUE, drawing.VERMILLION, drawing.GREEN, drawing.GREY}
    for chart in made:
        if chart.name != "branch-outcomes":  # whose cells have a colour scale, and numbers that are read on it
            colours = {e.get(key) for e in elements(chart.svg or "") for key in ("fill", "stroke")}
            plain = {c for c in colours if c and not c.startswith("rgba(")}
            assert plain - series <= {"currentColor", "none", "transparent"}, chart.name
        texts = {e.get("fill") for e in elements(chart.svg or "") if e.tag.endswith("text")}
        assert texts <= {"currentColor"} | ({"black", "white"} if chart.name == "branch-outcomes" else set())


@pytest.mark.parametrize("colour", [drawing.BLUE, drawing.VERMILLION, drawing.GREEN, drawing.GREY])
@pytest.mark.parametrize("paper", ["#ffffff", "#111111"])
def test_series_stand_out_on_white_and_on_black(colour: str, paper: str) -> None:
    """WCAG's contrast of things that are no text: 3 at least."""

    def luminance(colour: str) -> float:
        levels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in levels]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(colour), luminance(paper)))
    assert (light + 0.05) / (dark + 0.05) >= 3


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("select-")])
def test_the_numbers_are_what_the_query_gives(made: list[Chart], folder: Path, name: str) -> None:
    chart = next(chart for chart in made if chart.name == name)
    comment = re.match(r"-- --set (.*)\n", chart.sql)
    with DuckDBEngine(folder, dict([shlex.split(comment[1])[0].split("=", 1)]) if comment else None) as runs:
        assert runs.rows(chart.sql) == chart.rows


def test_the_query_can_be_typed(made: list[Chart], folder: Path) -> None:
    chart = next(chart for chart in made if chart.name == "skill-go")
    comment, query = chart.sql.split("\n")
    answer = trajkit("sql", "--runs", folder, *shlex.split(comment)[1:], "--format", "csv", query)
    assert answer.code == 0
    assert len(answer.out.splitlines()) >= len(chart.rows) + 1  # a name with a line break takes two


def test_what_is_kept_and_left_out_is_selects(made: list[Chart], folder: Path) -> None:
    from trajkit.selection.select import select

    for method in ("eef", "eto"):
        summary = select(folder, None, method)
        chart = next(chart for chart in made if chart.name == f"select-{method}")
        kept = {row["what"]: row["n"] for row in chart.rows if row["kept"]}
        left = {row["what"]: row["n"] for row in chart.rows if not row["kept"]}
        assert kept == {kind["kind"]: kind["n"] for kind in summary.kinds}
        assert left == {row["reason"]: row["n_trajectories"] for row in summary.left_out}
        assert chart.sql == f"trajkit select --input {folder} --method {method} --dry-run --json"


# --- odd runs ---


@pytest.mark.parametrize(
    ("world", "empty"),
    [
        (World(), {*NAMES} - {"skill-go", "skill-go-2"} | {"skill"}),
        (World((expert("e", ""),)), {"efficiency", "branch-outcomes", "recovery-positions", "token-lengths", "skill"}),
        (
            World((policy("p", "a", reward=None, success=True, split="test"),)),
            {"reward", "coverage", "efficiency", "branch-outcomes", "recovery-positions", "token-lengths", "skill"},
        ),
        (
            World((expert("e", "aa", ended="error"), policy("p", "a", parent="e", at=1, ended="drift", reward=None))),
            {*NAMES[:7]} - {"coverage", "select-eef"} | {"token-lengths", "skill"},
        ),
    ],
    ids=["nothing", "one without actions", "only verdicts of one test task", "no outcome"],
)
def test_runs_with_little_in_them(world: World, empty: set[str], tmp_path: Path) -> None:
    methods = ["eef", "eto"] if not world.trajs else ["eef"]
    found = drawn(world, tmp_path, methods)
    assert {name for name, chart in found.items() if chart.svg is None} == empty
    for chart in found.values():
        assert (chart.svg is None) == bool(chart.empty), chart.name
        assert chart.svg is not None or "trajkit" in chart.empty or chart.name == "reward"


def test_many_actors_and_iterations(tmp_path: Path) -> None:
    rollouts = [policy(f"p{a}-{i}", "ab", actor=f"org/model-{a}", iteration=i) for a in range(30) for i in range(1, 51)]
    branches = [policy(f"b{i}", "b", parent="e", at=2, iteration=i) for i in range(1, 51)]
    found = drawn(World((expert("e", "aaaa"), *rollouts, *branches)), tmp_path)
    assert (len(found["win-rate"].rows), len(found["coverage"].rows)) == (1501, 51)
    assert "Drawn are the latest 30 of 1,501; the table has all." in found["win-rate"].text
    assert "Drawn are the latest 30 iterations; the table has all." in found["branch-outcomes"].text
    for chart in found.values():
        if chart.svg:
            assert float(next(elements(chart.svg)).attrib["viewBox"].split()[3]) < 1500, chart.name


def test_runs_that_select_refuses_are_still_shown(tmp_path: Path) -> None:
    lost = policy("b", "a", parent="e", at=3)
    world = World((expert("e", "aaa"), policy("p", "b", reward=float("nan")), lost))
    found = drawn(world, tmp_path, ["eef", "sft_pos"])
    assert found["select-eef"].svg is None
    assert "bad_rewards" in found["select-eef"].empty
    assert found["win-rate"].svg and found["exploration-cost"].svg


# --- wrong calls ---


def test_a_skill_that_is_no_pattern(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--skill next=\(: it must be a regular expression that RE2 can read"):
        drawn(FIGURE_1, tmp_path, skills={"next": "("})


def test_a_method_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean eef\?"):
        drawn(FIGURE_1, tmp_path, methods=["eeff"])


@pytest.mark.parametrize("module", ["altair", "vl_convert"])
def test_without_the_extra(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"{module}, which is not installed: pip install 'trajkit\[report\]'"):
        drawn(FIGURE_1, tmp_path)


def test_altair_is_imported_when_something_is_drawn() -> None:
    code = "import sys, trajkit.display.report.charts; assert not {'altair', 'vl_convert'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (950, "950"),
        (1000, "1k"),
        (1024, "1k"),
        (1536, "1.5k"),
        (131072, "131k"),
        (1.2e6, "1.2M"),
        (3e9, "3G"),
    ],
)
def test_compact(number: Any, text: str) -> None:
    assert compact(number) == text


@pytest.mark.slow
@settings(max_examples=60)
@given(worlds(), params)
def test_whatever_the_runs_there_are_charts(world: World, given_params: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder, DuckDBEngine(write(world, Path(folder)), given_params) as runs:
        found = list(charts(runs, ["eef", "ipr"], {"go": "go b"}))
    assert len(found) == len({chart.name for chart in found})
    for chart in found:
        assert (chart.svg is None) == bool(chart.empty), chart.name
        if chart.svg:
            assert all(math.isfinite(float(n)) for n in next(elements(chart.svg)).attrib["viewBox"].split()), chart.name
            assert not re.search(r'="[^"]*(NaN|Infinity|undefined)', chart.svg), chart.name
