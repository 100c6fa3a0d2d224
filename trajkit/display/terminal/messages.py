"""Messages in the terminal, shortened to a line or whole, what is trained on marked at the beginning of each line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from trajkit.console import cell, clean
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.messages import read_calls

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.text import Text

Row = dict[str, Any]

TRAINED, CONTEXT = "x| ", " | "


def said(runs: DuckDBEngine, trajectory_id: str) -> list[Row]:
    """The messages along a trajectory's path in their order, each with its owner, and whether it `is_action`."""
    return runs.rows(
        # what comes before the first action is the first owner's, also where that took no action
        "WITH owners AS (SELECT trajectory_id, owner_id, owner_role, end_step FROM path_segments "
        "WHERE trajectory_id = $1 UNION SELECT trajectory_id, trajectory_id, role, n_actions FROM outcomes "
        "WHERE trajectory_id = $1) "
        "SELECT m.*, s.owner_id, s.owner_role, m.role = 'assistant' AND NOT coalesce(m.context, FALSE) AS is_action "
        "FROM owners AS s JOIN messages AS m ON m.trajectory_id = s.owner_id "
        "WHERE m.step < s.end_step OR s.owner_id = s.trajectory_id ORDER BY m.seq",
        [trajectory_id],
    )


def trained(message: Row, from_step: int | None) -> bool:
    """Whether an example that is trained from this step on (None: there is none) gives the message of `said` a loss."""
    return from_step is not None and message["is_action"] and message["step"] >= from_step and message["weight"] != 0


def action_text(message: Row) -> str:
    """What a message does, without its thought: the tool calls, the last line that says Action:, or the text."""
    if message["tool_calls"]:
        calls = _calls(message["tool_calls"])
        return "; ".join(calls) if calls else str(message["tool_calls"])
    text = (message["content"] or "").strip()
    if message["role"] != "assistant" or "Action:" not in text:
        return text
    return text[text.rfind("Action:") + len("Action:") :].strip()


def whole(message: Row, label: str, trained: bool, more: str = "", colour: str = "green") -> list[RenderableType]:
    """All of a message below a line that says what it is: its thoughts, its text, its tool calls.

    `colour` tells what is trained on, and so does the mark at the beginning of each line.
    """
    heading = cell(
        f"{'[x] LOSS   ' if trained else '[ ] context'}  {label}{more}", f"bold {colour}" if trained else "bold"
    )
    parts = []
    if message.get("reasoning"):
        parts.append(f"(reasoning) {message['reasoning']}")
    if message.get("content"):
        parts.append(message["content"])
    if calls := message.get("tool_calls"):
        parts += [f"(call) {call}" for call in _calls(calls) or [str(calls)]]
    style = colour if trained else "dim"
    return [heading, *(Marked(lines(part, style), TRAINED if trained else CONTEXT, style) for part in parts)]


def lines(text: str, style: str) -> Text:
    """`text` with its line breaks; all else that a terminal might act on is written as an escape."""
    from rich.text import Text

    return Text("\n".join(clean(line.expandtabs(4)) for line in text.split("\n")), style=style)


class Marked:
    """Text with a mark at the beginning of every line, also of those that the screen's edge makes."""

    def __init__(self, text: Text, mark: str, style: str) -> None:
        self.text, self.mark, self.style = text, mark, style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        for line in self.text.wrap(console, max(options.max_width - len(self.mark), 8), overflow="fold"):
            yield Text.assemble((self.mark, self.style), line)


def _calls(tool_calls: Any) -> list[str]:
    """Tool calls (OpenAI's, as a list or as JSON) as `name(arguments)`; empty where they are none."""
    try:
        functions = [call["function"] for call in read_calls(tool_calls)]
        return [f"{call['name']}({_arguments(call.get('arguments', ''))})" for call in functions]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _arguments(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
