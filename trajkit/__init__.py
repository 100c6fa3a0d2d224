"""trajkit: decide what to train LLM agents on. Trajectories are Parquet tables, rules are SQL.

import trajkit

runs = trajkit.open("runs/")
runs.rule("first_recovery_state")   # a Polars frame
runs.select("eef")                  # the examples with their weights, as one
runs.sql("from trajectories where reward > 0.5")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trajkit.api import (
        AsyncPolicy,
        Env,
        Message,
        Policy,
        Problem,
        Runs,
        Summary,
        Task,
        explore,
        export,
        import_logs,
        open,
        report,
        select,
        validate,
    )

__version__ = "0.1.0"
__all__ = [
    "AsyncPolicy", "Env", "Message", "Policy", "Problem", "Runs", "Summary", "Task", "explore", "export", "import_logs",
    "open", "report", "select", "validate",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load the public face when it is first asked for: the command line needs none of it, and starts faster."""
    if name not in __all__:
        raise AttributeError(f"module 'trajkit' has no attribute {name!r}")
    return getattr(importlib.import_module("trajkit.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
