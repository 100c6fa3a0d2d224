"""`trajkit report` in a real Chromium: it shows what the tables hold, asks for nothing, and lets no text act.

CHROMIUM names another browser than the one on the PATH.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from envs.webshop import Expert, Novice, WebShop
from trajkit.display.report import report
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.exploration.explore import Settings, explore
from trajkit.runs.records import Record, record
from trajkit.runs.writer import RunWriter

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
pytest.importorskip("altair", reason="the charts of a report need Altair (pip install 'trajkit[report]')")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
if not CHROMIUM:
    pytest.skip("needs Chromium (Debian: apt install chromium)", allow_module_level=True)

EVIL = (
    '<img src=x onerror="window.pwned=1;alert(1)"><script>window.pwned=1;alert(2)</script>'
    "</script></style></title>\"'><svg onload=window.pwned=1><a href=javascript:window.pwned=1>{{data}}{{script}}"
    "<iframe src=https://example.com></iframe><link rel=stylesheet href=https://example.com/x.css>"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


class Watched:
    """A page that writes down what it must not do."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.url = file.as_uri()
        self.context = browser.new_context(viewport={"width": 1200, "height": 750}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.wrong: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.wrong.append("a dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: request.url.startswith(self.url) or self.wrong.append(request.url))

    def open(self, fragment: str = "") -> Any:
        """The page, opened anew."""
        self.page.goto("about:blank")
        self.page.goto(self.url + fragment)
        self.page.wait_for_selector("html[data-ready]", state="attached")
        return self.page


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDBEngine]:
    folder, env = tmp_path_factory.mktemp("seen") / "runs", WebShop(train_tasks=52)
    explore(folder, env, Expert(), plans=["initial"], settings=Settings("expert", 0))
    explore(folder, env, Novice(), plans=["initial", "skip_length"], settings=Settings("policy", 1))
    explore(folder, env, Novice(), plans=["initial", "bisection"], settings=Settings("policy", 2))
    with DuckDBEngine(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def file(runs: DuckDBEngine) -> Path:
    out = runs.path.parent / "report.html"
    with pytest.MonkeyPatch.context() as patch:  # the charts, which take most of the time, are in `hostile_file`
        patch.setattr("trajkit.display.report.charts.charts", lambda *_: iter(()))
        report(runs.path, out)
    return out


@pytest.fixture(scope="module")
def watched(browser: Any, file: Path) -> Watched:
    return Watched(browser, file)


@pytest.fixture(autouse=True)
def nothing_went_wrong(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "watched" in request.fixturenames:
        seen = request.getfixturevalue("watched")
        assert seen.wrong == []


def hostile() -> Iterator[Record]:
    """Trajectories with hostile text in every field."""
    call = {"id": EVIL, "type": "function", "function": {"name": EVIL, "arguments": EVIL}}
    messages = [
        {"role": "system", "content": EVIL},
        {"role": "user", "content": EVIL, "name": EVIL},
        {"role": "assistant", "content": EVIL, "reasoning": EVIL, "tool_calls": [call]},
        {"role": "tool", "content": EVIL, "tool_call_id": EVIL, "name": EVIL},
    ]
    shared: dict[str, Any] = {"task_id": EVIL, "env": EVIL, "split": "train", "actor": EVIL, "tools": [call]}
    yield record(role="expert", reward=1.0, messages=messages, meta={EVIL: EVIL}, **shared)
    yield record(role="policy", iteration=1, ended="error", error=EVIL, messages=messages[:3], **shared)
    yield record(
        role="policy", iteration=1, reward=0.0, messages=messages, **(shared | {"split": EVIL, "task_id": "2" + EVIL})
    )


@pytest.fixture(scope="module")
def hostile_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("hostile")
    folder = tmp_path / "<img src=x onerror=alert(3)>"
    with RunWriter(folder / "own") as writer:
        for row in hostile():
            writer.add(row)
    method = tmp_path / '"><img src=x onerror=window.pwned=1>.sql'
    method.write_text("SELECT trajectory_id, '" + EVIL.replace("'", "''") + "' AS kind FROM outcomes WHERE solved")
    out = tmp_path / "report.html"
    report(folder, out, (str(method),), {"<script>window.pwned=1</script>": "<img|x"})
    return out


def texts(page: Any, selector: str) -> list[str]:
    found: list[str] = page.locator(selector).all_text_contents()
    return found


def test_search_and_filters(watched: Watched, runs: DuckDBEngine) -> None:
    page = watched.open()
    assert page.locator("#count").text_content() == "52 tasks of 52"
    assert len(texts(page, "#rows tr")) == 50
    page.click("#after")
    assert len(texts(page, "#rows tr")) == 2
    ids = [row["task_id"] for row in runs.rows("SELECT DISTINCT task_id FROM outcomes ORDER BY ALL")]
    page.fill("#search", ids[7].upper())
    sync_api.expect(page.locator("#count")).to_have_text("1 task of 52")
    assert texts(page, "#rows a") == [ids[7]]
    page.fill("#search", "")
    sync_api.expect(page.locator("#count")).to_have_text("52 tasks of 52")
    for iteration in ("", "1"):
        page.select_option("#iteration", iteration)
        where = f"iteration = {iteration}" if iteration else "iteration IS NULL"
        for solver in ("policy", "expert", "branch", "unsolved"):
            page.locator(f'#solvers input[value="{solver}"]').check(force=True)
            rows = runs.rows(f"FROM task_outcomes WHERE {where} AND solver = '{solver}' ORDER BY task_id")
            assert texts(page, "#rows a") == [row["task_id"] for row in rows]
    page.locator('#solvers input[value=""]').check(force=True)
    page.select_option("#iteration", "")
    page.check("#recovery")
    assert page.locator("#count").text_content() != "52 tasks of 52"
    page.select_option("#sort", "solved")
    shares = [int(text.split(" / ")[0]) for text in texts(page, "#rows td:nth-child(4)")]
    assert shares == sorted(shares, reverse=True)
    address = page.url
    page.locator("#rows a").first.click()
    page.wait_for_selector("#tree svg")
    page.go_back()
    assert page.url == address
    assert page.locator("#recovery").is_checked()


def test_what_is_typed_while_the_address_changes_is_kept(watched: Watched) -> None:
    page = watched.open()
    # hashchange is told after the script has ended: the reader has typed by then, which is no filter yet
    page.evaluate("""() => {
        location.hash = '#tasks';
        document.getElementById('search').value = '0007';
        document.getElementById('search').dispatchEvent(new Event('input'));
    }""")
    sync_api.expect(page.locator("#count")).to_have_text("1 task of 52")
    assert page.input_value("#search") == "0007"
    # and a task that is opened sooner than the filter is asked for keeps its address
    page.evaluate("""() => {
        document.getElementById('search').value = '00';
        document.getElementById('search').dispatchEvent(new Event('input'));
        document.querySelector('#rows a').click();
    }""")
    page.wait_for_selector("#tree svg")
    page.wait_for_timeout(200)
    assert "#task=" in page.url


def test_the_tree_shows_the_messages_of_the_tables(watched: Watched, runs: DuckDBEngine) -> None:
    recovered = runs.rows("SELECT task_id, expert_id, step FROM first_recovery_state ORDER BY ALL LIMIT 2")
    for task in recovered:
        page = watched.open(f"#task={task['task_id']}")
        page.wait_for_selector("#tree svg")
        page.select_option("#rollouts", "")
        seen = page.evaluate(
            """() => {
                const seen = {};
                for (let i = 0; i < view.items.size; i++) {
                    [...view.items.values()][i].dispatchEvent(new MouseEvent('click', {bubbles: true}));
                    const node = decodeURIComponent(location.hash.split('node=')[1]);
                    seen[node] = [...document.querySelectorAll('#panel .message')].map(
                        m => [m.querySelector('b').textContent.split(' ')[0], m.querySelector('.text').textContent]);
                }
                return seen;
            }"""
        )
        wanted: dict[str, Any] = {}
        for row in runs.rows("SELECT * FROM outcomes WHERE task_id = ?", [task["task_id"]]):
            steps = range(row["branch_step"], row["n_actions"] + 1)
            wanted |= {f"{row['trajectory_id']}@{step}": [] for step in steps}
        for row in runs.rows(
            "SELECT m.* FROM messages AS m JOIN outcomes AS o USING (trajectory_id) WHERE o.task_id = ? ORDER BY m.seq",
            [task["task_id"]],
        ):
            wanted[f"{row['trajectory_id']}@{row['step']}"].append([row["role"], row["content"]])
        assert seen == wanted


def test_the_recovery_state_and_what_is_trained_are_marked(watched: Watched, runs: DuckDBEngine) -> None:
    for row in runs.rows("SELECT * FROM eef ORDER BY kind DESC, trajectory_id LIMIT 3"):
        page = watched.open(f"#task={row['task_id']}&node={row['trajectory_id']}%400")
        number = page.evaluate(
            "([kind, id]) => view.answers.findIndex(a => a.kind === kind && a.whose.id === id)",
            [row["kind"], row["trajectory_id"]],
        )
        page.select_option("#answer", str(number))
        [about] = runs.rows("SELECT n_actions FROM outcomes WHERE trajectory_id = ?", [row["trajectory_id"]])
        assert page.locator("#tree .edge.chosen").count() == about["n_actions"] - row["from_step"]
        for step in range(about["n_actions"]):
            badge = page.locator(".message.action-message header").text_content()
            assert (f"trained (eef, {row['kind']})" in badge) == (step >= row["from_step"])
            assert (f"context (eef, {row['kind']})" in badge) == (step < row["from_step"])
            page.click("#step-on")
        if row["kind"] == "recovery":
            label = page.locator('[aria-label*="first recovery state"]').get_attribute("aria-label")
            assert label.startswith(f"expert, s_{row['from_step']},")


def test_by_keyboard_alone(watched: Watched, runs: DuckDBEngine) -> None:
    page = watched.open()

    def focused() -> str:
        return str(page.evaluate("(e => e.id || e.className.baseVal || e.textContent)(document.activeElement)"))

    press = page.keyboard.press
    press("Tab")
    assert focused() == "Skip to the tasks"
    press("Enter")
    press("Tab")
    assert focused() == "search"
    task = runs.rows("SELECT task_id FROM first_recovery_state ORDER BY ALL LIMIT 1")[0]["task_id"]
    page.keyboard.type(task)
    sync_api.expect(page.locator("#count")).to_have_text("1 task of 52")
    for _ in range(12):
        press("Tab")
        if focused() == task:
            break
    press("Enter")
    page.wait_for_selector("#tree svg")
    assert focused() == "task-title"
    for _ in range(12):
        press("Tab")
        if focused().startswith("item"):
            break
    outline = page.evaluate("getComputedStyle(document.activeElement.querySelector('.cursor')).strokeWidth")
    assert outline == "3px"  # the focus is seen
    press("Enter")
    assert focused() == "panel-title"
    assert page.locator("#panel-title").text_content().startswith("s_0 · expert")
    page.keyboard.press("Shift+Tab")
    press("ArrowRight")
    press("ArrowRight")
    assert page.locator("#panel-title").text_content().startswith("s_2 · expert")
    assert page.url.endswith("%402")
    press("ArrowDown")
    assert "· policy" in page.locator("#panel-title").text_content()
    press("Home")
    assert page.locator("#panel-title").text_content().startswith("s_0 · policy")
    press("End")
    assert ", the end · policy" in page.locator("#panel-title").text_content()
    for _ in range(8):
        page.go_back()
        if "task=" not in page.url:
            break
    assert page.locator("#search").input_value() == task


# The texts whose contrast to what is behind them is below WCAG's AA.
CONTRAST = """() => {
    const parse = colour => colour.match(/[\\d.]+/g).map(Number);
    const linear = value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    const behind = element => {
        const colour = parse(getComputedStyle(element).backgroundColor);
        return colour[3] === 0 ? behind(element.parentElement) : colour;
    };
    const bad = [];
    for (const e of document.querySelectorAll('body *')) {
        const own = [...e.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
        if (!own || !e.getClientRects().length || e.closest('.picture') || e.matches(':disabled, option')) continue;
        const drawn = e instanceof SVGElement, style = getComputedStyle(e);
        const pair = [parse(drawn ? style.fill : style.color), behind(drawn ? e.closest('svg').parentElement : e)];
        const [low, high] = pair.map(light).sort((a, b) => a - b);
        if ((high + 0.05) / (low + 0.05) < 4.5) bad.push([e.tagName, e.textContent.slice(0, 30), ...pair]);
    }
    return bad;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_in_light_and_dark_and_on_a_phone(
    browser: Any, file: Path, hostile_file: Path, runs: DuckDBEngine, scheme: str
) -> None:
    [row] = runs.rows("SELECT task_id, expert_id, step FROM first_recovery_state ORDER BY ALL LIMIT 1")
    places = {file: ["", f"#task={row['task_id']}&node={row['expert_id']}%40{row['step']}"], hostile_file: ["", "#2"]}
    for opened, fragments in places.items():
        watched = Watched(browser, opened, color_scheme=scheme)
        for fragment in fragments:
            page = watched.open(fragment)
            if fragment == "#2":
                page.locator("#rows a").first.click()
                page.wait_for_selector("#tree svg")
                page.evaluate("go(view.all[0], 0)")
            back = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert back == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 27)")
            page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
            assert page.evaluate(CONTRAST) == []
            page.set_viewport_size({"width": 360, "height": 750})
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            page.set_viewport_size({"width": 1200, "height": 750})
        assert watched.wrong == []
        watched.context.close()


def said(*contents: str, step: int = 0) -> list[dict[str, str]]:
    return [
        {"role": "user" if (n + step) % 2 == 0 else "assistant", "content": text} for n, text in enumerate(contents)
    ]


def test_branches_of_branches_and_several_experts(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trajkit.display.report.charts.charts", lambda *_: iter(()))
    first = record(task_id="t", role="expert", reward=0.0, messages=said("o0", "a0", "o1", "a1", "o2", "a2"))
    other = record(task_id="t", role="expert", reward=1.0, messages=said("o0", "other"))
    branch = record(
        task_id="t", role="policy", iteration=1, reward=0.0, messages=said("o1", "b1", "p2", "b2", "p3", "b3"),
        parent_id=first.trajectory["trajectory_id"], branch_step=1, first_seq=2,
    )  # fmt: skip
    twig = record(
        task_id="t", role="scorer", iteration=1, reward=1.0, messages=said("p3", "c3"),
        parent_id=branch.trajectory["trajectory_id"], branch_step=3, first_seq=6,
    )  # fmt: skip
    # its parent's own actions begin later: it leaves the expert's line
    early = record(
        task_id="t", role="policy", iteration=1, reward=0.0, messages=said("o1", "d1"),
        parent_id=branch.trajectory["trajectory_id"], branch_step=1, first_seq=2,
    )  # fmt: skip
    lost = record(
        task_id="t", role="policy", iteration=1, reward=0.0, messages=said("x", "e2"),
        parent_id="gone", branch_step=2, first_seq=4,
    )  # fmt: skip
    dead = record(task_id="t", role="policy", iteration=1, ended="error", error="no server", messages=said("o0"))
    made = (first, other, branch, twig, early, lost, dead)
    told = ("first", "other", "branch", "twig", "early", "lost", "dead")
    names = {row.trajectory["trajectory_id"]: name for row, name in zip(made, told, strict=True)}
    with RunWriter(tmp_path / "runs" / "own") as writer:
        for row in made:
            writer.add(row)
    report(tmp_path / "runs", tmp_path / "report.html", ("sft_all",))
    watched = Watched(browser, tmp_path / "report.html")
    page = watched.open(f"#task=t&node={twig.trajectory['trajectory_id']}%404")
    lanes = page.evaluate("view.lanes.map(({t, depth}) => [t.id, depth])")
    assert sorted((names[id], depth) for id, depth in lanes) == [
        ("branch", 1), ("dead", 1), ("early", 1), ("first", 0), ("lost", 1), ("twig", 2)
    ]  # fmt: skip
    order = [names[id] for id, _ in lanes]
    assert order[0] == "first"
    assert order.index("twig") == order.index("branch") + 1
    assert "the end · scorer" in page.locator("#panel-title").text_content()
    along = []
    for _ in range(4):
        page.click("#step-back")
        along.append(texts(page, "#panel .text"))
    assert along == [["p3", "c3"], ["p2", "b2"], ["o1", "b1"], ["o0", "a0"]]
    page.goto(f"{watched.url}#task=t&node={lost.trajectory['trajectory_id']}%402")
    sync_api.expect(page.locator("#panel .facts").first).to_contain_text("that is not in these runs")
    page.goto(f"{watched.url}#task=t&node={dead.trajectory['trajectory_id']}%400")
    sync_api.expect(page.locator("#panel .facts").first).to_contain_text("no outcome (error). Trajectory")
    assert "no server" in page.locator("#panel .facts").first.text_content()
    page.select_option("#expert", label=f"expert {other.trajectory['trajectory_id'][:8]}, solved, reward 1")
    lanes = page.evaluate("view.lanes.map(({t}) => t.id)")
    assert [names[id] for id in lanes if names[id] in ("other", "dead")] == ["other", "dead"]
    assert watched.wrong == []
    watched.context.close()


def test_without_javascript_or_unpacking_the_charts_are_there(browser: Any, hostile_file: Path) -> None:
    without = Watched(browser, hostile_file, java_script_enabled=False)
    without.page.goto(without.url)
    assert without.page.locator("noscript p").is_visible()
    assert without.page.locator(".picture svg").first.is_visible()
    old = Watched(browser, hostile_file)
    old.context.add_init_script("delete window.DecompressionStream")
    old.page.goto(old.url)
    assert "DecompressionStream" in old.page.locator("#notice").text_content()
    assert old.page.locator(".picture svg").first.is_visible()
    assert without.wrong == old.wrong == []
    without.context.close()
    old.context.close()


def test_hostile_text_stays_text(browser: Any, hostile_file: Path) -> None:
    watched = Watched(browser, hostile_file)
    page = watched.open()
    assert EVIL in texts(page, "#rows a")
    assert any("<img" in text for text in texts(page, ".picture svg text"))
    page.locator("#rows a").first.click()
    page.wait_for_selector("#tree svg")
    for number in range(page.evaluate("view.items.size")):
        page.evaluate("n => [...view.items.values()][n].dispatchEvent(new MouseEvent('click'))", number)
    page.evaluate("go(view.all[0], 0)")
    assert EVIL in texts(page, "#panel .text")
    assert page.locator("#task-title").text_content() == EVIL
    assert EVIL in page.locator("#panel-title").text_content()
    page.reload()  # the address holds the task and the node
    page.wait_for_selector("#panel-title")
    assert page.evaluate("window.pwned") is None
    assert page.locator("img, iframe, object, embed, link, base, [onload], [onerror], [href^=javascript]").count() == 0
    assert page.locator("script:not([type])").count() == 1
    assert watched.wrong == []
    watched.context.close()


@pytest.mark.slow
def test_ten_thousand_tasks_open_quickly(browser: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
    from world import generate

    generate(tmp_path / "runs", 190_000)
    started = time.perf_counter()
    written = report(tmp_path / "runs", tmp_path / "report.html")
    built = time.perf_counter() - started
    assert written.tasks == 10_000
    watched = Watched(browser, tmp_path / "report.html")
    started = time.perf_counter()
    page = watched.open()
    ready = time.perf_counter() - started
    searched, opened = page.evaluate(
        """async () => {
            const now = performance.now();
            ask({q: 'task-77'});
            const found = performance.now();
            location.hash = '#task=task-7777';
            while (!document.querySelector('#tree svg')) await new Promise(done => setTimeout(done, 1));
            return [found - now, performance.now() - found];
        }"""
    )
    memory = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
    with capsys.disabled():
        print(
            f"\n10,000 tasks, 190,000 trajectories: {written.bytes / 2**20:.0f} MB in {built:.0f} s; in the browser "
            f"ready in {ready:.1f} s, search {searched:.0f} ms, a task {opened:.0f} ms, script's memory {memory:.0f} MB"
        )
    assert watched.wrong == []
