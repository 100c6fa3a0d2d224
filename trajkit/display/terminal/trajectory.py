"""A picture of one trajectory: steps, branch outcomes, recovery state, chosen solutions, masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trajkit.console import Rows, cell, clean, shorten
from trajkit.display.terminal.messages import Row, action_text, said, trained, whole
from trajkit.engines.duckdb import DuckDBEngine

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

READS = ("branch_points", "eef", "fewest_expert_actions", "important_states", "step_rewards", "why_eef")


def picture(
    runs: DuckDBEngine, trajectory_id: str, *, observations: bool = False, full: bool = False, width: int = 100
) -> list[RenderableType]:
    """What to print for one trajectory, top to bottom: itself, then the solutions chosen for it.

    With `observations` each step has what was seen there, shortened to the `width` of the screen, and at the end what
    eef makes of the trajectory. With `full` all messages are printed whole.
    """
    (about,) = runs.rows(
        "SELECT o.*, t.actor, t.error FROM outcomes AS o JOIN trajectories AS t USING (trajectory_id) "
        "WHERE o.trajectory_id = ?",
        [trajectory_id],
    )
    is_expert = bool(runs.rows("SELECT 1 FROM experts WHERE expert_id = ?", [trajectory_id]))
    line = _line(runs, trajectory_id, is_expert)
    named_by = line.recovery["first_expert_id"] if line.recovery else trajectory_id
    # of an expert the solutions of its states; of another trajectory the examples that are made of it
    chosen = runs.rows(
        "SELECT e.kind, e.trajectory_id, e.expert_id, e.from_step, s.n_expert_actions, s.n_actions, "
        "o.role, o.iteration, o.branch_step, o.parent_id FROM eef AS e "
        "JOIN fewest_expert_actions AS s ON s.kind = e.kind AND s.task_id = e.task_id AND s.step = e.from_step "
        "AND s.expert_id IS NOT DISTINCT FROM e.expert_id "
        "JOIN outcomes AS o ON o.trajectory_id = e.trajectory_id "
        f"WHERE e.task_id = ? AND {'(e.expert_id IS NULL OR e.expert_id = ?)' if is_expert else 'e.trajectory_id = ?'} "
        "ORDER BY e.kind, e.expert_id, e.trajectory_id",
        [about["task_id"], named_by if is_expert else trajectory_id],
    )
    shown = _heading(runs, about, long=observations or full)
    if full:
        shown += _whole_steps(runs, about, line, chosen)
    else:
        shown += _steps(runs, about, line, chosen, observations, width)
    if line.recovery is not None:
        step, previous = line.recovery["step"], line.recovery["previous_step"]
        told = (
            f"First recovery state: s_{step}. The policy solves the task from s_{previous}, and no more from s_{step}."
        )
        if others := [clean(id) for id in line.recovery["expert_ids"] if id != trajectory_id]:
            told += f" It is one and the same state as that of expert {', '.join(others)}."
        shown.append(cell(told, "bold yellow"))
    if observations or full or not is_expert:
        shown += _verdicts(runs, trajectory_id)
    if not is_expert:
        return shown
    for example in chosen:
        shown += _example(runs, example, full)
    kinds = {example["kind"] for example in chosen}
    for state in runs.rows(
        "SELECT kind, step FROM important_states WHERE task_id = ? AND (kind = 'initial' OR expert_id = ?) "
        "ORDER BY kind",
        [about["task_id"], named_by],
    ):
        if state["kind"] not in kinds:
            told = f"No solution of s_{state['step']} ({state['kind']} state) yet: nothing to train on."
            shown += [cell(""), cell(told, "bold")]
    return shown


def _heading(runs: DuckDBEngine, about: Row, long: bool) -> list[RenderableType]:
    """Whose trajectory, of which task, how it ended, and where it branched from."""
    first = runs.rows(
        "SELECT m.content FROM path_segments AS s JOIN messages AS m ON m.trajectory_id = s.owner_id "
        "WHERE s.trajectory_id = ? AND s.first_step = 0 AND m.step = 0 AND m.role = 'user' ORDER BY m.seq DESC LIMIT 1",
        [about["trajectory_id"]],
    )
    reward = "" if about["reward"] is None else f", reward {about['reward']:g}"
    told = f"task {about['task_id']}: {_outcome(about['solved'])}{reward}, {about['n_actions']} actions"
    if long or about["ended"] in ("error", "drift", "max_steps", "max_tokens"):
        told += f", ended: {about['ended'] or 'not told'}"
    lines = [cell(f"{about['role']} {about['actor'] or ''} {about['trajectory_id']}", "bold"), cell(told)]
    if long or about["role"] != "expert":
        split = "" if about["split"] == "train" else f", split {about['split']}"
        lines.append(cell(f"iteration {about['iteration']}, sample {about['sample']}{split}"))
    if about["branch_step"]:
        lines.append(cell(f"branched at s_{about['branch_step']} from {about['parent_id']}: {_owners(runs, about)}"))
    if about["error"]:
        lines.append(cell(f"error: {shorten(about['error'], 300)}"))
    if first:
        lines.append(cell(f"s_0: {shorten(first[0]['content'] or '', 300)}", "dim"))
    return list(lines)


def _owners(runs: DuckDBEngine, about: Row) -> str:
    """Whose the actions of a branch are."""
    told = []
    for part in runs.rows(
        "SELECT * FROM path_segments WHERE trajectory_id = ? ORDER BY first_step", [about["trajectory_id"]]
    ):
        first, last = part["first_step"], part["end_step"] - 1
        own = part["owner_id"] == about["trajectory_id"]
        whose = "its own" if own else f"{part['owner_role']} {shorten(part['owner_id'], 32)}"
        told.append(f"{_actions_of(first, last)} {whose}")
    return ", ".join(told)


def _actions_of(first: int, last: int) -> str:
    return f"a_{first}" if first == last else f"a_{first} ... a_{last}"


@dataclass(frozen=True)
class _Line:
    """What is told of a trajectory's states and actions beside what was said.

    branches: rows of branch_points of the current iteration by step; none where the trajectory is no expert's.
    recovery: its row of expert_recovery_states, with all expert_ids that share the state; None: it has none.
    worth: what actions are worth, by (owner, step), where a scorer made rollouts.
    """

    is_expert: bool
    branches: dict[int, Row]
    recovery: Row | None
    worth: dict[tuple[str, int], str]

    def policy(self, step: int) -> Text:
        """What came of the policy's rollouts from the state."""
        here = self.recovery is not None and self.recovery["step"] == step
        mark = " <<< RECOVERY" if here else ""
        return cell(_simulated(self.branches.get(step)) + mark, "bold yellow" if here else "")


def _line(runs: DuckDBEngine, trajectory_id: str, is_expert: bool) -> _Line:
    branches = runs.rows(
        "SELECT b.* FROM branch_points AS b JOIN current_iteration AS c ON b.iteration = c.iteration "
        "WHERE b.expert_id = ?",
        [trajectory_id],
    )
    recovery = runs.rows(
        "SELECT r.step, r.previous_step, r.first_expert_id, list(s.expert_id ORDER BY s.expert_id) AS expert_ids "
        "FROM expert_recovery_states AS r JOIN expert_recovery_states AS s USING (first_expert_id) "
        "WHERE r.expert_id = ? GROUP BY ALL",
        [trajectory_id],
    )
    worth = runs.rows(
        "SELECT s.owner_id, r.step, r.step_reward, r.n_rollouts FROM path_segments AS s "
        "JOIN step_rewards AS r ON r.trajectory_id = s.owner_id "
        "WHERE s.trajectory_id = ? AND r.step >= s.first_step AND r.step < s.end_step",
        [trajectory_id],
    )
    told = {
        (row["owner_id"], row["step"]): f"{row['step_reward']:.3g}"
        + f" ({row['n_rollouts']})" * bool(row["n_rollouts"])
        for row in worth
        if any(other["n_rollouts"] for other in worth)
    }
    return _Line(is_expert, {row["step"]: row for row in branches}, recovery[0] if recovery else None, told)


def _steps(
    runs: DuckDBEngine, about: Row, line: _Line, chosen: list[Row], observations: bool, width: int
) -> list[RenderableType]:
    """A line or two for each step: what the policy made of the state, and what is trained on of the action."""
    masks = [
        (example, {(m["owner_id"], m["step"]) for m in said(runs, example["trajectory_id"]) if m["is_action"]})
        for example in chosen
    ]
    columns = ["state", "policy from here" if line.is_expert else "by", *["step reward"] * bool(line.worth)]
    text = "observation and action" if observations else "action"
    grid = Rows([*columns, text, *(f"{example['kind']} mask" for example, _ in masks)], text=text)
    blank = [cell("")] * bool(line.worth)
    taken = 12 + (26 if line.is_expert else 9) + 14 * len(blank) + sum(len(example["kind"]) + 8 for example in chosen)
    room = 2 * max(16, width - taken)  # two lines for an observation
    for message in said(runs, about["trajectory_id"]):
        step, action = message["step"], message["is_action"]
        if not action:
            if observations:
                seen = f"o_{step}  {_both_ends(action_text(message), room)}"
                grid.add(cell(""), cell(""), *blank, cell(seen, "dim"))
            continue
        done = shorten(action_text(message), 120)
        worth = line.worth.get((message["owner_id"], step), "")
        grid.add(
            cell(f"s_{step}"),
            line.policy(step) if line.is_expert else cell(message["owner_role"]),
            *[cell(worth)] * len(blank),
            cell(f"a_{step}  {done}", "bold") if observations else cell(done),
            *(
                _mask(message, example["from_step"]) if (message["owner_id"], step) in held else cell("-", "dim")
                for example, held in masks
            ),
        )
    last = about["n_actions"]
    end = line.policy(last) if last in line.branches else cell("")
    grid.add(cell(f"s_{last}"), end, *blank, cell(_outcome(about["solved"]).upper()))
    return [grid]


def _whole_steps(runs: DuckDBEngine, about: Row, line: _Line, chosen: list[Row]) -> list[RenderableType]:
    """Every message whole, those marked that an example made of this very trajectory trains on."""
    from rich.text import Text

    own = [example["from_step"] for example in chosen if example["trajectory_id"] == about["trajectory_id"]]
    shown: list[RenderableType] = []
    for message in said(runs, about["trajectory_id"]):
        step, action = message["step"], message["is_action"]
        if action and line.is_expert:
            shown += [cell(""), Text.assemble(f"s_{step}, the policy from here: ", line.policy(step))]
        worth = line.worth.get((message["owner_id"], step)) if action else None
        gets_loss = trained(message, min(own, default=None))
        shown += whole(message, _label(message), gets_loss, f", step reward {worth}" if worth else "")
    return [*shown, cell(""), cell(f"s_{about['n_actions']}: {_outcome(about['solved']).upper()}", "bold")]


def _label(message: Row) -> str:
    if message["is_action"]:
        weight = "" if message["weight"] is None else f", weight {message['weight']:g}"
        return f"a_{message['step']}  assistant ({message['owner_role']}){weight}"
    context = ", no action" if message["role"] == "assistant" else ""
    return f"o_{message['step']}  {message['role']}{context}"


def _verdicts(runs: DuckDBEngine, trajectory_id: str) -> list[RenderableType]:
    """What eef makes of the trajectory, state by state."""
    found = runs.rows(
        "SELECT kind, expert_id, step, chosen, reason FROM why_eef WHERE trajectory_id = ? ORDER BY ALL",
        [trajectory_id],
    )
    lines = [cell(""), cell("What eef makes of it:", "bold")]
    for row in found:
        of = f"s_{row['step']}" + (f" of expert {shorten(row['expert_id'], 32)}" if row["expert_id"] else "")
        mark = "[x] chosen" if row["chosen"] else "[ ] not chosen"
        told = f"{mark} for {of} ({row['kind']} state): {row['reason']}"
        lines.append(cell(told, "bold green" if row["chosen"] else ""))
    return list(lines)


def _example(runs: DuckDBEngine, example: Row, full: bool) -> list[RenderableType]:
    """One chosen solution with its mask."""
    of = f"s_{example['from_step']}"
    start = f"branch from s_{example['branch_step']}" if example["branch_step"] else "from s_0"
    n_policy = example["n_actions"] - example["n_expert_actions"]
    title = f"Solution of {of} ({example['kind']} state): {example['trajectory_id']}"
    source = (
        f"{example['role']} {start}, iteration {example['iteration']}; trained from {of} on: "
        f"{example['n_expert_actions']} expert and {n_policy} policy actions"
    )
    heading: list[RenderableType] = [cell(""), cell(title, "bold"), cell(source)]
    messages = said(runs, example["trajectory_id"])
    if full:
        for message in messages:
            heading += whole(message, _label(message), trained(message, example["from_step"]))
        return heading
    grid = Rows(["mask", "step", "by", "action"], text="action")
    for message in messages:
        if message["is_action"]:
            style = "" if trained(message, example["from_step"]) else "dim"
            grid.add(
                _mask(message, example["from_step"]),
                cell(f"a_{message['step']}", style),
                cell(message["owner_role"], style),
                cell(shorten(action_text(message), 120), style),
            )
    return [*heading, grid]


def _both_ends(text: str, width: int) -> str:
    """The beginning and the end of a text: pages of one environment often begin alike."""
    half = (width - 5) // 2
    return clean(text) if len(text) <= width else f"{clean(text[:half])[:half]} ... {clean(text[-half:])[-half:]}"


def _simulated(branch: Row | None) -> str:
    if branch is None:
        return ". not run"
    if branch["solved"] is None:
        return f"? no outcome ({branch['n_no_outcome']})"
    share = "" if branch["n_rollouts"] == 1 else f" {branch['n_solved']}/{branch['n_rollouts']}"
    return ("+ solved" if branch["solved"] else "x failed") + share


def _outcome(solved: bool | None) -> str:
    return "no outcome" if solved is None else "solved" if solved else "failed"


def _mask(message: Row, from_step: int) -> Text:
    if not trained(message, from_step):
        return cell("[ ] context", "dim")
    weight = message["weight"]
    return cell("[x] LOSS" if weight in (None, 1) else f"[x] LOSS {weight:g}", "bold green")
