"""Charts of how well it goes, and of where along the experts' trajectories."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trajkit.display.report import drawing
from trajkit.display.report.chart import (
    NO_ROLLOUTS,
    NO_TRAJECTORIES,
    Chart,
    Row,
    actor_name,
    asked,
    by_split,
    counted,
    decimal,
    latest,
    split_order,
    tenth_label,
    who,
)
from trajkit.display.report.drawing import BLUE, MAX_ROWS, VERMILLION, Part
from trajkit.engines.duckdb import DuckDBEngine

BEFORE_STATE = "per cent of the expert's actions before the state, up to"


def win_rates(runs: DuckDBEngine) -> Iterator[Chart]:
    """Win rate and reward from s_0."""
    sql = "FROM win_rate ORDER BY split, iteration, role, actor"
    rows = asked(runs, sql, "win rates")
    name, title = "win-rate", "Win rate"
    panels, more = by_split(rows, lambda row: _dot(row, "win_rate", percent=True))
    text = (
        "Share of tasks solved from their initial state, by split, iteration and actor. Experts are diamonds, policies "
        f"dots, lines are 95% intervals (Wilson's). EEF, Table 3.{more}"
    )
    svg = drawing.dot_rows(name, title, panels, "tasks solved") if panels else None
    yield Chart(name, title, text, svg, "" if svg else NO_ROLLOUTS, rows, sql)

    name, title = "reward", "Reward"
    panels, more = by_split(rows, lambda row: _dot(row, "reward", percent=False))
    text = (
        "Mean final reward of the same rollouts, on the environment's own scale, each task counting once. Lines are "
        f"95% intervals of the mean. EEF, Table 3.{more}"
    )
    svg = drawing.dot_rows(name, title, panels, "mean reward", percent=False) if panels else None
    no_rewards = "The trajectories from s_0 have no reward: their environment only says whether a task is solved."
    yield Chart(name, title, text, svg, "" if svg else no_rewards if rows else NO_ROLLOUTS, rows, sql)


def _dot(row: Row, column: str, percent: bool) -> Row | None:
    value, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
    if value is None or not math.isfinite(value):
        return None
    said = f"{value:.1%}" if percent else decimal(value)
    if low is not None:
        said += f" [{low * 100:.1f}, {high * 100:.1f}]" if percent else f" [{decimal(low)}, {decimal(high)}]"
    label = f"{who(row)}: {said} of {counted(row['tasks'], 'task')}"
    expert = row["role"] == "expert"
    return {"label": label, "expert": expert, "value": value, "low": low, "high": high, "other": None}


def coverage(runs: DuckDBEngine) -> Chart:
    """How many train tasks are solved so far, and how many of them only because a branch solved them."""
    sql = "FROM coverage ORDER BY iteration"
    rows = asked(runs, sql, "solved tasks")
    parts = (
        Part("from_s0", "solved from s_0", BLUE, True),
        Part("by_branches", "only because a branch solved it", VERMILLION, False),
    )
    drawn, more = latest(rows)
    bars = [
        {
            "label": f"iteration {row['iteration']}: {row['solved']:,} of {counted(row['tasks'], 'task')}, "
            f"{row['solved_by_branches_only']:,} only by a branch",
            "from_s0": row["solved_from_s0"] / row["tasks"],
            "by_branches": row["solved_by_branches_only"] / row["tasks"],
        }
        for row in drawn
    ]
    name, title = "coverage", "Train tasks solved so far"
    text = (
        "Share of the train tasks that some expert or policy trajectory of this or an earlier iteration solves (0: "
        "experts and imports). Hollow: tasks that only a branch from an expert's state solved, which is what exploring "
        f"experts' failures wins. EEF, section 3.2.{more}"
    )
    svg = drawing.bar_rows(name, title, {"": bars}, parts, "train tasks", percent=True) if bars else None
    return Chart(name, title, text, svg, "" if svg else NO_TRAJECTORIES, rows, sql)


def efficiency(runs: DuckDBEngine) -> Chart:
    """Win rate against the simulations made before, on the test split where there is one."""
    sql = "FROM efficiency ORDER BY split, iteration, actor"
    rows = asked(runs, sql, "simulations")
    split = min((row["split"] for row in rows), key=split_order, default="test")
    shown = [row for row in rows if row["split"] == split]
    # One policy that gets better under other names is one line; policies side by side are a line each.
    alone = len({row["iteration"] for row in shown}) == len(shown)
    lines: dict[str, list[Row]] = {}
    for row in shown:
        point = {
            "x": row["n_policy_rollouts"],
            "label": f"{actor_name(row['actor'] or 'policy')}, {row['win_rate']:.0%}",
        }
        point |= {"value": row["win_rate"], "low": row["win_rate_low"], "high": row["win_rate_high"]}
        lines.setdefault("" if alone else f"{row['actor']}", []).append(point)
    name, title = "efficiency", "Win rate against simulations"
    text = (
        f"Win rate on the split {split} against how many policy rollouts of train tasks were made in the iterations "
        "before, with 95% intervals. Higher and further left is more for less. EEF, Fig. 3."
    )
    too_few = (
        "It takes policies from before and after exploring. Train on what `trajkit select` writes, then run "
        "`trajkit explore --iteration 2 --plan initial` with the new policy."
    )
    several = len({row["n_policy_rollouts"] for row in shown}) > 1
    svg = drawing.points(name, title, lines, "policy rollouts before", "win rate") if several else None
    return Chart(name, title, text, svg, "" if svg else too_few, rows, sql)


def branch_outcomes(runs: DuckDBEngine) -> Chart:
    """From where along the experts' trajectories the policy solves the task."""
    sql = "FROM branch_outcomes ORDER BY expert_solved, iteration, tenth"
    rows = asked(runs, sql, "branch outcomes")
    panels: dict[str, list[Row]] = {}
    more = ""
    headings = {False: "The expert failed", True: "The expert solved it", None: "The expert has no outcome"}
    for verdict, heading in headings.items():
        own = [row for row in rows if row["expert_solved"] is verdict]
        iterations = sorted({row["iteration"] for row in own})
        if len(iterations) > MAX_ROWS:
            more = f" Drawn are the latest {MAX_ROWS} iterations; the table has all."
        cells = [
            {"row": row["iteration"], "column": tenth_label(row["tenth"])}
            | {"share": row["solved_share"], "n": row["n_rollouts"]}
            for row in own
            if row["iteration"] in iterations[-MAX_ROWS:]
        ]
        if cells:
            panels[heading] = cells
    name, title = "branch-outcomes", "Branch outcomes by state"
    text = (
        "Per cent of the policy's rollouts that solve the task, by iteration and by how far along an expert's "
        "trajectory they start (brighter is more), and below it how many there are. s_0 counts once per expert. Where "
        f"a row turns dark, the expert has just done something harmful. EEF, section 3.2.{more}"
    )
    columns = [tenth_label(tenth) for tenth in range(11)]
    svg = drawing.heat_map(name, title, panels, columns, BEFORE_STATE, "iteration") if panels else None
    none = _explore_states("No policy was simulated on a task that an expert has a trajectory of")
    return Chart(name, title, text, svg, "" if svg else none, rows, sql)


def recovery_positions(runs: DuckDBEngine) -> Chart:
    """Where the first recovery states lie."""
    sql = "FROM recovery_positions ORDER BY tenth"
    rows = asked(runs, sql, "recovery states")
    parts = (Part("n_with_solution", "has a solution", BLUE, True), Part("open", "none yet", VERMILLION, False))
    bars = [row | {"bin": tenth_label(row["tenth"]), "open": row["n_states"] - row["n_with_solution"]} for row in rows]
    name, title = "recovery-positions", "Where recovery is needed"
    text = (
        "First recovery states of the current iteration, by how far along the expert's trajectory they lie: the first "
        "simulated state from which the policy no longer solves the task. Those with a solution become training "
        "examples. EEF, section 3.2."
    )
    bins = [tenth_label(tenth) for tenth in range(1, 11)]
    svg = drawing.columns(name, title, {"": bars}, parts, bins, BEFORE_STATE) if bars else None
    none = _explore_states("Nowhere on an expert's trajectory does the policy start to fail, as far as is simulated")
    return Chart(name, title, text, svg, "" if svg else none, rows, sql)


def _explore_states(why: str) -> str:
    return (
        f"{why}. `trajkit explore --plan initial --plan skip_length` simulates it from s_0 and from states along the "
        "experts' trajectories."
    )
