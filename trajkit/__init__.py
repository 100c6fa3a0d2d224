"""trajkit: decide what to train LLM agents on. Trajectories are Parquet tables, rules are SQL.

import trajkit

runs = trajkit.open("runs/")
runs.rule("first_recovery_state")   # a Polars frame
runs.select("eef")                  # the examples with their weights, as one
runs.sql("from trajectories where reward > 0.5")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from trajkit.engine import AnyRuns

__version__ = "0.1.0"


def open(path: str | os.PathLike[str], *, engine: str = "duckdb", master: str | None = None, **params: Any) -> AnyRuns:
    """Open a runs/ folder: `.rule(name)`, `.select(method)` and `.sql(query)` give Polars frames.

    `engine` may be "spark", on the cluster `master` (None: as Spark is configured); `path` is then a URL
    of Spark's, too. `params` set the rules' parameters (sql/tables/params.sql), e.g. `success_reward=0.8`. Raises
    UsageError for a missing folder or an unknown parameter, BadData for a torn file or a mistyped column.
    """
    from trajkit.engine import opened
    from trajkit.errors import UsageError
    from trajkit.rules import param_names

    if unknown := params.keys() - set(param_names()):
        raise UsageError(f"{', '.join(sorted(unknown))}: no such parameter. Parameters: {', '.join(param_names())}.")
    return opened(path, params, engine=engine, master=master)
