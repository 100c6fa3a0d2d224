"""What finished runs of Algorithm 1 show: a table, a plot, one task before and after, differences over seeds.

    python -m train.results RUN [RUN...] [--png FILE] [--csv FILE]

A run folder holds the tables in `runs/`. The rollouts of theta_k on the test split are of iteration k + 1, and theta_k
was trained on what was there after iteration k. All numbers come from the rules in sql/report.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from trajkit.cli import Command
from trajkit.cli import run as run_command
from trajkit.console import clean, shorten
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import BadData, UsageError
from trajkit.rules import compose, params_sql
from trajkit.runs.atomic import write_whole

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

Row = dict[str, Any]
Arms = Mapping[str, Path | Sequence[Path]]  # an arm's name and its run, or its runs with one seed each

# WebShop's two ways on from a page of results (EEF, Fig. 2), as RE2 patterns: for a run that names no skills itself.
SKILLS = {"next": r"(?i)click\[next", "back": r"(?i)click\[back"}

# 97.5% quantiles of Student's t with 1 to 30 degrees of freedom (NIST/SEMATECH e-Handbook of Statistical Methods,
# section 1.3.6.7.2, https://www.itl.nist.gov/div898/handbook/eda/section3/eda3672.htm).
T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)

# What theta_0 failed and the last theta solved; first the tasks that took a Next or Back, then the shortest.
_TURNED = """
WITH test AS (
    SELECT * FROM outcomes WHERE split = 'test' AND role = 'policy' AND branch_step = 0 AND solved IS NOT NULL
)
SELECT
    earlier.task_id,
    earlier.trajectory_id AS before,
    later.trajectory_id AS after,
    later.iteration - 1 AS k
FROM test AS earlier
JOIN test AS later ON earlier.task_id = later.task_id
WHERE earlier.iteration = 1 AND later.iteration = (SELECT max(iteration) FROM test) AND later.iteration > 1
    AND CASE WHEN $1 IS NULL THEN later.solved AND NOT earlier.solved ELSE later.task_id = $1 END
ORDER BY
    EXISTS (
        SELECT 1 FROM messages AS m WHERE m.trajectory_id = later.trajectory_id AND m.role = 'assistant'
        AND NOT coalesce(m.context, FALSE) AND regexp_matches(concat_ws(chr(10), m.content, m.tool_calls), $2)
    ) DESC,
    later.solved AND NOT earlier.solved DESC,
    later.n_actions,
    later.task_id,
    later.trajectory_id,
    earlier.trajectory_id
LIMIT 1
"""


def results(run: Path) -> list[Row]:
    """One row per theta_k of the run, in order of k.

    k; of its rollouts from s_0 on the test split: tasks, win_rate, win_rate_low, win_rate_high (95%), reward (None:
    the environment gives none); for every skill of the run's settings (loop.skills: next, back) next_attempted and
    next_solved (shares of the tasks, as sql/report/skill.sql has them); of all that was there to train it on (as in
    sql/report/coverage.sql): train_tasks, train_solved, train_solved_by_branches_only, policy_rollouts, policy_steps.
    Raises UsageError for a folder that is no run, BadData where there are no test rollouts, or a theta's are of two
    actors.
    """
    folder = run / "runs"
    if not folder.is_dir():
        raise UsageError(f"{run}: there is no folder runs/ in it. A RUN is a folder that train.loop wrote.")
    judged = judged_by(run)
    with DuckDBEngine(folder, judged) as runs:
        rates = _by_k(run, runs.rows("SELECT * FROM win_rate WHERE split = 'test' AND role = 'policy' ORDER BY ALL"))
        skills = {}
        for name, pattern in skills_of(run).items():
            query = compose("SELECT * FROM skill", {"params": params_sql(judged | {"action_pattern": pattern})})
            rows = [row for row in runs.rows(query) if row["split"] == "test" and row["role"] == "policy"]
            skills[name] = _by_k(run, rows)
        coverage = runs.rows("SELECT * FROM coverage ORDER BY iteration")
    found = []
    for k, rate in sorted(rates.items()):
        row: Row = {"k": k}
        row |= {name: rate[name] for name in ("tasks", "win_rate", "win_rate_low", "win_rate_high", "reward")}
        for name, by_k in skills.items():
            row |= {f"{name}_attempted": by_k[k]["attempted"], f"{name}_solved": by_k[k]["solved_with"]}
        known = [made for made in coverage if made["iteration"] <= k]
        if not known:
            raise BadData(f"{folder}: theta_{k} has test rollouts, but there is nothing that it was trained on.")
        row["train_tasks"] = known[-1]["tasks"]
        row["train_solved"] = known[-1]["solved"]
        row["train_solved_by_branches_only"] = known[-1]["solved_by_branches_only"]
        row["policy_rollouts"] = known[-1]["n_policy_rollouts"]
        row["policy_steps"] = known[-1]["n_policy_steps"]
        found.append(row)
    return found


def known_results(run: Path) -> list[Row]:
    """`results` as the manifest of a finished run has them, else counted now."""
    path = run / "manifest.json"
    known: list[Row] = json.loads(path.read_text())["results"] if path.exists() else results(run)
    return known


def over_seeds(runs: Path | Sequence[Path]) -> list[Row]:
    """The results of one run, or the means over runs of the same settings with other seeds.

    win_rate_low and win_rate_high are then Student's 95% interval over the runs. Raises UsageError for none, and for
    runs that end with different k.
    """
    found = [known_results(run) for run in _paths(runs)]
    if len(found) == 1:
        return found[0]
    if not found or len({tuple(row["k"] for row in rows) for rows in found}) > 1:
        raise UsageError(f"{runs}: an arm needs runs, and they must have come to the same k. Finish them.")
    means = []
    for rows in zip(*found, strict=True):
        mean = {
            name: None if any(row[name] is None for row in rows) else statistics.fmean(row[name] for row in rows)
            for name in rows[0]
        }
        between = mean_difference([row["win_rate"] for row in rows])
        limits = {"win_rate_low": max(0.0, between.low), "win_rate_high": min(1.0, between.high)}
        means.append(mean | limits | {"k": rows[0]["k"]})
    return means


def skills_of(run: Path) -> dict[str, str]:
    """The action patterns that a run's settings name (loop.skills): name -> RE2 pattern."""
    path = run / "settings.json"
    skills = json.loads(path.read_text())["loop"]["skills"] if path.exists() else SKILLS
    return {clean(name): pattern for name, pattern in skills.items()}


def judged_by(run: Path) -> dict[str, Any]:
    """The parameter that decides what is solved, where a run's settings give it (loop.select)."""
    path = run / "settings.json"
    given = json.loads(path.read_text())["loop"].get("select", {}) if path.exists() else {}
    return {name: value for name, value in given.items() if name == "success_reward"}


def table(runs: Arms) -> Table:
    """The results by arm, one row per arm and k. Shares are shares of the test tasks; several seeds are means."""
    from rich import box
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    drawn.add_column("arm", overflow="fold", min_width=8)
    runs_of = [_paths(given)[0] for given in runs.values()]
    skills = {f"{name}_solved": f"with\n{name}" for run in runs_of for name in skills_of(run)}
    for title in ("k", "test win rate (95%)", "reward", *skills.values(), "train\nsolved", "simulated"):
        drawn.add_column(title, justify="right", no_wrap=True)
    for name, run in runs.items():
        for row in over_seeds(run):
            drawn.add_row(
                _text(name),
                str(row["k"]),
                _text(f"{row['win_rate']:.3f} [{row['win_rate_low']:.3f}, {row['win_rate_high']:.3f}]"),
                "" if row["reward"] is None else f"{row['reward']:.3f}",
                *(f"{row[name]:.3f}" if name in row else "" for name in skills),
                f"{row['train_solved']:.0f}/{row['train_tasks']:.0f}",
                f"{row['policy_rollouts']:.0f}",
            )
        drawn.add_section()
    return drawn


def plot(runs: Arms, png: Path) -> None:
    """Write a picture: test win rates with their 95% intervals by k; by simulations so far (EEF, Fig. 3); and the train
    tasks solved by k."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise UsageError(f"{png}: a picture needs the package matplotlib: pip install 'trajkit[train]'") from error

    figure = Figure(figsize=(13, 4), dpi=120, layout="constrained")
    rates, spent, solved = figure.subplots(1, 3)
    most = 1
    for number, (name, run) in enumerate(runs.items()):
        rows = over_seeds(run)
        label = clean(name).replace("$", r"\$")  # $ would start a formula
        beside = 0.04 * (number - (len(runs) - 1) / 2)  # so that intervals do not hide one another
        below = [row["win_rate"] - row["win_rate_low"] for row in rows]
        above = [row["win_rate_high"] - row["win_rate"] for row in rows]
        rates.errorbar(
            [row["k"] + beside for row in rows], [row["win_rate"] for row in rows], [below, above],
            label=label, marker="o", markersize=4, capsize=3,
        )  # fmt: skip
        per_task = [row["policy_rollouts"] / max(1, row["train_tasks"]) for row in rows]
        spent.plot(per_task, [row["win_rate"] for row in rows], marker="o", markersize=4)
        solved.plot([row["k"] for row in rows], [row["train_solved"] for row in rows], marker="o", markersize=4)
        most = max(most, *(row["train_tasks"] for row in rows))
    rates.set(xlabel="k", ylabel="test win rate (95%)", ylim=(0, 1))
    solved.set(xlabel="k", ylabel="train tasks with a solution for theta_k", ylim=(0, most))
    spent.set(xlabel="simulations so far, per train task", ylabel="test win rate", ylim=(0, 1))
    for axes in (rates, spent, solved):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    rates.legend(fontsize="small")
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_whole(png, picture.getvalue())


def plot_terminal(runs: Arms) -> str:
    """The same as text: lines without intervals, no colours, 100 columns or as many as the terminal has."""
    try:
        import plotext
    except ImportError as error:
        raise UsageError("a plot in the terminal needs the package plotext: pip install 'trajkit[train]'") from error

    figure = plotext.figure  # plotext has one, and keeps what was drawn before
    figure.clear()
    figure.subplots(1, 2)
    figure.plot_size(100, 16)
    rates, solved = figure.subplot(1, 1), figure.subplot(1, 2)
    rates.title("test win rate by k")
    solved.title("train tasks with a solution by k")
    last, most = 0, 1
    for (name, run), marker in zip(runs.items(), _markers(len(runs)), strict=True):
        rows = over_seeds(run)
        ks = [row["k"] for row in rows]
        for panel, column in ((rates, "win_rate"), (solved, "train_solved")):
            signal = panel.signal(ks, [row[column] for row in rows], marker=marker)
            signal.label(clean(name))
            signal.lines()
            panel.draw(signal)
        last, most = max(last, *ks), max(most, *(row["train_tasks"] for row in rows))
    rates.ruler("y").lim(0, 1)
    solved.ruler("y").lim(0, most)
    for panel in (rates, solved):
        panel.ruler("x").ticks(list(range(last + 1)))
    text: str = figure.build().string(colorless=True)
    return text


def before_after(run: Path, task_id: str | None = None) -> RenderableType | None:
    """A test task as theta_0 did it and as the last theta did it, side by side.

    Without `task_id`, one that theta_0 failed and the last theta solved, with a skill of the run's if there is one,
    and the shortest of those. None: there is no such task, or only one theta.
    """
    from rich.console import Group

    both = "|".join(f"({pattern})" for pattern in skills_of(run).values()) or "$^"
    with DuckDBEngine(run / "runs", judged_by(run)) as runs:
        found = runs.rows(_TURNED, [task_id, both])
        if not found:
            return None
        (turned,) = found
        ends = {
            row["trajectory_id"]: row
            for row in runs.rows(
                "SELECT * FROM outcomes WHERE trajectory_id IN ($1, $2)", [turned["before"], turned["after"]]
            )
        }
        sides = [_steps(runs, turned["before"], both), _steps(runs, turned["after"], both)]
        first = runs.rows(
            "SELECT content FROM messages WHERE trajectory_id = ? AND step = 0 AND role = 'user' AND "
            "NOT coalesce(context, FALSE) ORDER BY seq DESC LIMIT 1",
            [turned["after"]],
        )
    drawn = _side_by_side(
        [_heading("theta_0", ends[turned["before"]]), _heading(f"theta_{turned['k']}", ends[turned["after"]])], sides
    )
    about = _text(f"Test task {turned['task_id']}, before and after", "bold")
    return Group(about, _text(_flat(first[0]["content"] if first else "", 300), "dim"), drawn)


class Difference(NamedTuple):
    """A mean over n seeds and its 95% interval."""

    n: int
    mean: float
    low: float
    high: float


def paired(a: Sequence[Path], b: Sequence[Path]) -> Difference:
    """How much higher the last test win rate of the runs `a` is than that of `b`, the pairs being of the same seed.

    Raises UsageError unless both are as many, and at least two.
    """
    if len(a) != len(b):
        raise UsageError(f"{len(a)} runs cannot be paired with {len(b)}: each needs a partner of the same seed.")
    differences = [_last(one)["win_rate"] - _last(other)["win_rate"] for one, other in zip(a, b, strict=True)]
    return mean_difference(differences)


def mean_difference(differences: Sequence[float]) -> Difference:
    """The mean of differences over seeds, and Student's 95% interval for it. Raises UsageError for less than two.

    Beyond 31 seeds the quantile is that of 31, which makes the interval up to 4% too wide.
    """
    n = len(differences)
    if n < 2:
        raise UsageError("an interval over seeds needs at least two of them.")
    mean = statistics.fmean(differences)
    half = T_975[min(n - 1, len(T_975)) - 1] * statistics.stdev(differences) / n**0.5
    return Difference(n, mean, mean - half, mean + half)


# --- the rest ---


def _by_k(run: Path, rows: list[Row]) -> dict[int, Row]:
    by_k: dict[int, Row] = {}
    for row in rows:
        k = row["iteration"] - 1
        if k < 0:
            raise BadData(f"{run}: policy rollouts of iteration 0 on the test split. Those of theta_k are of k + 1.")
        if k in by_k:
            actors = " and ".join(sorted({str(by_k[k]["actor"]), str(row["actor"])}))
            raise BadData(f"{run}: theta_{k} has test rollouts of two actors, {actors}. Move those of one away.")
        by_k[k] = row
    if not by_k:
        raise BadData(f"{run}: no policy rollout on the test split has an outcome. Finish the run: `train.loop`.")
    return by_k


def _last(run: Path) -> Row:
    return known_results(run)[-1]


def _steps(runs: DuckDBEngine, trajectory_id: str, pattern: str) -> list[Text]:
    """Each action of a trajectory from s_0 and what came of it. Those that match `pattern` are bold."""
    messages = runs.rows(
        "SELECT role, step, content, tool_calls, regexp_matches(concat_ws(chr(10), content, tool_calls), ?) AS marked "
        "FROM messages WHERE trajectory_id = ? AND NOT coalesce(context, FALSE) ORDER BY seq",
        [pattern, trajectory_id],
    )
    seen = _without_shared_starts([message["content"] or "" for message in messages if message["role"] != "assistant"])
    observations = iter(seen)
    steps: list[Text] = []
    for message in messages:
        if message["role"] == "assistant":
            said = (message["content"] or "").rpartition("Action:")[2].strip() or message["tool_calls"] or ""
            steps.append(_text(_flat(said, 120), "bold yellow" if message["marked"] else "bold"))
            continue
        observation = next(observations)
        if steps:  # what stands before the first action is the task
            steps[-1].append("\n").append_text(_text(_flat(observation, 160), "dim"))
    return steps


def _without_shared_starts(texts: list[str]) -> list[str]:
    """Each text without the words with which another one begins too: pages that repeat the task, page after page."""
    split = [text.split() for text in texts]
    shortened = []
    for text, words in zip(texts, split, strict=True):
        shared = max((_n_shared(words, other) for other in split if other != words), default=0)
        shortened.append(" ".join(["...", *words[shared:]]) if 4 <= shared < len(words) else text)
    return shortened


def _n_shared(words: list[str], others: list[str]) -> int:
    """How many words two lists begin with in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(words, others, strict=False)))


def _heading(name: str, outcome: Row) -> str:
    reward = "" if outcome["reward"] is None else f", reward {outcome['reward']:g}"
    ended = "" if outcome["ended"] in (None, "done") else f", ended in {outcome['ended']}"
    return f"{name}: {'solved' if outcome['solved'] else 'failed'}{reward}, {outcome['n_actions']} actions{ended}"


def _side_by_side(headings: list[str], sides: list[list[Text]]) -> Table:
    from rich import box
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=False)
    drawn.add_column("", no_wrap=True)
    for heading in headings:
        drawn.add_column(_text(heading), ratio=1, overflow="fold")
    for step in range(max(map(len, sides))):
        cells = [side[step] if step < len(side) else _text("") for side in sides]
        drawn.add_row(f"a_{step}", *cells)
    return drawn


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(clean(text), style=style)


def _flat(text: str, width: int) -> str:
    return shorten(" ".join(text.split()), width)


def _markers(n: int) -> list[str]:
    """A sign for each line, o and x first."""
    signs = "ox+*#@%&=~"
    return [signs[number % len(signs)] for number in range(n)]


def show(runs: Arms, png: Path | None = None, csv_file: Path | None = None) -> None:
    """Print the table, differences over seeds, the plot, and one task before and after (of the first run).

    Differences are the first arm's last test win rate less that of each other arm, where arms have several seeds.
    The plot and the numbers are written where files are named.
    """
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, emoji=False, width=max(100, console.width))
    console.print(table(runs))
    if png:
        plot(runs, png)
    if csv_file:
        write_csv(runs, csv_file)
    seeds = {name: _paths(given) for name, given in runs.items()}
    (first, ours), *others = seeds.items()
    for name, theirs in others:
        if len(ours) == len(theirs) > 1:
            found = paired(ours, theirs)
            told = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}] over {found.n} seeds"
            console.print(_text(f"{first} less {name}: {told}"))
    console.print(plot_terminal(runs), markup=False, no_wrap=True, overflow="ignore", crop=False)
    comparison = before_after(ours[0])
    console.print(comparison or "No test task that theta_0 failed is solved by the last theta.")


def _paths(runs: Path | Sequence[Path]) -> list[Path]:
    return [runs] if isinstance(runs, Path) else list(runs)


def write_csv(runs: Arms, path: Path) -> None:
    """Write the results of every run as CSV: columns `arm`, `run` (from 0 within the arm), and those of `results`."""
    rows = [
        {"arm": name, "run": number} | row
        for name, given in runs.items()
        for number, run in enumerate(_paths(given))
        for row in known_results(run)
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


def named(texts: Sequence[str]) -> dict[str, Path]:
    """Runs by name: "name=folder", or a folder, which is its own name. Raises UsageError for a name given twice."""
    runs: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or Path(text).is_dir():
            name, folder = text, text
        if name in runs:
            raise UsageError(f"{text}: the name {name} is given twice. A RUN may be written name=folder.")
        runs[name] = Path(folder)
    return runs


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, cls=Command)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--png", type=click.Path(path_type=Path), help="Write the plot here.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Write the numbers here.")
def command(runs: tuple[str, ...], png: Path | None, csv_file: Path | None) -> None:
    """What finished runs of train.loop show: win rates on the test split, skills, train tasks solved.

    RUN is a run folder, or name=folder. The comparison of one task before and after is of the first RUN.
    """
    show(named(runs), png, csv_file)


if __name__ == "__main__":
    run_command(command, "python -m train.results")
