"""Charts of what would be trained on: what `select` keeps, which skills are in it, how long it is, what it cost."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from trajkit.console import clean
from trajkit.display.report import drawing
from trajkit.display.report.chart import NO_ROLLOUTS, NO_TRAJECTORIES, Chart, Row, asked, by_split, counted, latest, who
from trajkit.display.report.drawing import BLUE, GREY, VERMILLION, Part, compact
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import BadData, UsageError
from trajkit.rules import Rule, compose, params_sql, rules
from trajkit.runs.parquet_sql import quoted
from trajkit.selection.select import choose

OUTCOMES = (
    Part("solved", "solved", BLUE, True),
    Part("failed", "failed", VERMILLION, False),
    Part("no outcome", "no outcome", GREY, False),
)
MOST_COSTS = 12  # rows that are drawn in each of the panels


def selection(runs: DuckDBEngine, method: str, rule: Rule, name: str) -> Chart:
    """What `select` keeps, by kind, and what it leaves out, by reason."""
    title = f"What {clean(method)} keeps and drops"
    command = f"trajkit select --input {shlex.quote(str(runs.path))} --method {shlex.quote(method)} --dry-run --json"
    try:
        summary = choose(runs, rule)
    except BadData as error:
        return Chart(name, title, "", None, f"`trajkit select` refuses these runs. {error}", [], command)
    finally:
        for made in set(runs.made):  # the charts after this one ask the views
            runs.drop(made)
    kept = [{"kept": True, "what": kind["kind"], "n": kind["n"]} for kind in summary.kinds]
    left = [{"kept": False, "what": reason["reason"], "n": reason["n_trajectories"]} for reason in summary.left_out]
    what = {"examples": "examples", "pairs": "pairs", "values": "trajectories with values"}[summary.writes]
    panels = {
        f"kept: {summary.n_rows:,} {what}": [
            {"label": f"{row['what']}: {row['n']:,}", "kept": row["n"]} for row in kept
        ],
        f"left out of {counted(summary.n_trajectories, 'trajectory')}": [
            {"label": f"{row['what']}: {row['n']:,}", "left": row["n"]} for row in left
        ],
    }
    panels = {heading: bars for heading, bars in panels.items() if bars}
    text = (
        f"What trajkit select takes by the method {clean(method)}, and why it leaves the other trajectories out. Of "
        f"{counted(summary.n_tasks, 'train task')} {summary.n_solved_tasks:,} are solved and "
        f"{summary.n_selected_tasks:,} are trained on."
    )
    if summary.n_recovery_states:
        found = sum(kind["n"] for kind in summary.kinds if kind["kind"] == "recovery")
        text += f" {summary.n_recovery_states:,} states need recovery, {found:,} of them have a solution."
    parts = (Part("kept", "kept", BLUE, True), Part("left", "left out", GREY, False))
    svg = drawing.bar_rows(name, title, panels, parts, "") if panels else None
    return Chart(name, title, text, svg, "" if svg else NO_TRAJECTORIES, kept + left, command)


def with_pattern(runs: DuckDBEngine, called: str, pattern: str) -> str:
    """The runs' parameters with this `action_pattern`, as SQL. Raises UsageError where it is no pattern."""
    try:
        params_sql({"action_pattern": pattern})
    except UsageError:
        raise UsageError(
            f"--skill {called}={pattern}: it must be a regular expression that RE2 can read, for instance "
            r"--skill 'next=(?i)click\[next'."
        ) from None
    column = f"CAST({quoted(pattern)} AS VARCHAR) AS action_pattern"
    return f"SELECT * REPLACE ({column}) FROM (\n{runs.params_sql}\n) AS given"


def skill(runs: DuckDBEngine, called: str, pattern: str, params: str, name: str) -> Chart:
    """How often actions that match the pattern are tried, and how often a task is solved with one."""
    order = "ORDER BY split, iteration, role, actor"
    query = f"{compose(rules()['skill'].sql, {'params': params})} {order}"
    rows = asked(runs, query, f"actions that match {clean(pattern)}")
    panels, more = by_split(rows, _skill_dot)
    title = f"Navigation skill: {clean(called)}"
    text = (
        f"Share of tasks in which an action that matches {clean(pattern)} was tried (hollow), and in which a "
        "trajectory with one solved the task (solid). A long gap: the actor tries the skill and does not master it. "
        f"EEF, Table 4 and Fig. 2.{more}"
    )
    svg = drawing.dot_rows(name, title, panels, "tasks") if panels else None
    setting = shlex.quote("action_pattern=" + pattern.replace("\n", r"\n"))  # on one line; RE2 reads both alike
    sql = f"-- --set {setting}\nFROM skill {order}"
    return Chart(name, title, text, svg, "" if svg else NO_ROLLOUTS, rows, sql)


def _skill_dot(row: Row) -> Row:
    label = f"{who(row)}: tried {row['attempted']:.1%}, solved with it {row['solved_with']:.1%}"
    shares = {"value": row["solved_with"], "low": None, "high": None, "other": row["attempted"]}
    return {"label": label, "expert": row["role"] == "expert", **shares}


def no_skill() -> Chart:
    """What stands where no skill was named."""
    text = "How often actions of a kind are tried, and how often tasks are solved with them. EEF, Table 4 and Fig. 2."
    empty = r"No skill was named. `trajkit report --skill 'next=(?i)click\[next'` counts the actions that match."
    sql = "FROM skill ORDER BY split, iteration, role, actor"
    return Chart("skill", "Navigation skills", text, None, empty, [], sql)


def trajectory_lengths(runs: DuckDBEngine) -> Chart:
    """How many actions the trajectories have."""
    sql = "FROM trajectory_lengths ORDER BY role, outcome, from_actions"
    rows = asked(runs, sql, "actions")
    name, title = "trajectory-lengths", "Actions per trajectory"
    text = "How many actions the trajectories have on their whole path (a branch: with those before it)."
    svg = None
    if rows:
        width = max(row["to_actions"] - row["from_actions"] for row in rows if row["to_actions"] is not None) + 1
        starts = [row["from_actions"] for row in rows]
        bins = {start: f"{start}" for start in range(min(starts), max(starts) + 1, width)}
        bins |= {row["from_actions"]: f"{row['from_actions']}+" for row in rows if row["to_actions"] is None}
        axis = "actions" if width == 1 else f"actions, from ... on ({width} in a column)"
        made = [row | {"bin": bins[row["from_actions"]]} for row in rows]
        svg = drawing.columns(name, title, _histograms(made), OUTCOMES, list(bins.values()), axis)
    return Chart(name, title, text, svg, "" if svg else NO_TRAJECTORIES, rows, sql)


def text_lengths(runs: DuckDBEngine) -> Iterator[Chart]:
    """How long the trajectories are in sampled tokens, and in characters."""
    order = "ORDER BY role, outcome, from_length"
    rows = asked(runs, f"FROM text_lengths {order}, unit", "tokens and characters")
    text = (
        "How many tokens were sampled for a trajectory's own actions, of the trajectories whose token_ids were kept. "
        "Columns stand for wider ranges the longer it is."
    )
    none = (
        "No trajectory has `token_ids`: its length is known in characters only. `trajkit explore` with a server or a "
        "model folder keeps them."
    )
    yield _text_length("sampled tokens", "token-lengths", "Sampled tokens per trajectory", text, none, rows, order)
    text = (
        "How long the text on a trajectory's whole path is (a branch: with what comes before it), in characters. How "
        "many tokens that is depends on the model. Columns stand for wider ranges the longer it is."
    )
    title = "Characters per trajectory"
    yield _text_length("characters", "character-lengths", title, text, NO_TRAJECTORIES, rows, order)


def _text_length(unit: str, name: str, title: str, text: str, none: str, rows: Sequence[Row], order: str) -> Chart:
    own = [row for row in rows if row["unit"] == unit]
    svg = None
    if own:
        starts = [row["from_length"] for row in own]
        edges = sorted({0, 1, *(half * 2**k for half in (2, 3) for k in range(50))})
        bins = [compact(edge) for edge in edges if min(starts) <= edge <= max(starts)]
        made = [row | {"bin": compact(row["from_length"])} for row in own]
        svg = drawing.columns(name, title, _histograms(made), OUTCOMES, bins, f"{unit}, from ... on")
    return Chart(name, title, text, svg, "" if svg else none, own, f"FROM text_lengths WHERE unit = '{unit}' {order}")


def _histograms(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Columns by role, with the number of each outcome."""
    panels: dict[str, dict[str, Row]] = {}
    for row in rows:
        empty = {"bin": row["bin"]} | {part.key: 0 for part in OUTCOMES}
        column = panels.setdefault(row["role"], {}).setdefault(row["bin"], empty)
        column[row["outcome"]] = row["n_trajectories"]
    return {role: list(bins.values()) for role, bins in panels.items()}


def exploration_cost(runs: DuckDBEngine) -> Chart:
    """What the trajectories took to make."""
    sql = "FROM exploration_cost ORDER BY iteration, role"
    rows = asked(runs, sql, "costs")
    parts = (
        Part("trajectories", "with an end of their own", BLUE, True),
        Part("lost", "lost to error or drift", VERMILLION, False),
        Part("steps", "steps taken", BLUE, True),
        Part("replayed", "replayed to reach states", GREY, False),
        Part("tokens", "tokens", BLUE, True),
    )
    panels: dict[str, list[Row]] = {"Trajectories": [], "Environment steps": [], "Sampled tokens": []}
    drawn, more = latest(rows, MOST_COSTS)
    for row in drawn:
        made = f"{row['role']}, iteration {row['iteration']}"
        n, lost = row["n_trajectories"], row["n_error"] + row["n_drift"]
        label = f"{made}: {compact(n)}" + (f", {compact(lost)} of them lost to error or drift" if lost else "")
        panels["Trajectories"].append({"label": label, "trajectories": n - lost, "lost": lost})
        steps, replayed = row["n_steps"], row["n_replayed_steps"]
        label = f"{made}: {compact(steps)}" + (f" and {compact(replayed)} replayed" if replayed else "")
        panels["Environment steps"].append({"label": label, "steps": steps, "replayed": replayed})
        if row["n_sampled_tokens"] is not None:
            tokens = row["n_sampled_tokens"]
            panels["Sampled tokens"].append({"label": f"{made}: {compact(tokens)}", "tokens": tokens})
    panels = {heading: bars for heading, bars in panels.items() if bars}
    name, title = "exploration-cost", "Cost of exploring"
    text = (
        "What the trajectories took to make, all splits together. Replayed steps only lead to the states that branches "
        "start from; an environment with snapshots takes fewer of them (n_replayed_steps_once). Tokens are counted "
        f"where token_ids were kept.{more}"
    )
    svg = drawing.bar_rows(name, title, panels, parts, "") if panels else None
    return Chart(name, title, text, svg, "" if svg else NO_TRAJECTORIES, rows, sql)
