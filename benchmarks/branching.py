"""Where the policy begins to fail: how many rollouts each plan takes to find it, and how many such states it finds.

python benchmarks/branching.py [MODEL]

The policy is deterministic, so that every state has one truth, which the plan every_step finds: the scripted Novice
without slips in the generated WebShop, or a model's folder at temperature 0 in the TinyShop. Each plan explores the
same experts from nothing.

rollouts     all of them, those from s_0 included
found        experts for which there is a first recovery state
turns        of these, the state before it is really solved and it is not (else the turn lies somewhere before it)
first        of these, it is the expert's first such state, as every_step finds it
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from envs.webshop import Expert, Novice, TinyExpert, TinyShop, WebShop
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.exploration.explore import Settings, explore
from trajkit.exploration.policies import Sampling

TASKS = 400
PLANS = [("every_step", 1), ("skip_length", 1), ("skip_length", 2), ("skip_length", 5), ("bisection", 5)]


def main() -> None:
    """Explore with every plan and print what it took."""
    model = sys.argv[1] if len(sys.argv) > 1 else None
    make_env: Any = (
        partial(TinyShop, train_tasks=TASKS) if model else partial(WebShop, train_tasks=TASKS, products=2500)
    )
    env = make_env()
    with tempfile.TemporaryDirectory() as folder:
        experts = Path(folder) / "experts"
        teacher: Any = TinyExpert() if model else Expert()
        explore(experts, env, teacher, plans=["initial"], settings=Settings("expert", 0))
        with DuckDBEngine(experts) as runs:
            print(
                runs.rows("SELECT count(*) AS experts, avg(n_actions) AS actions, max(n_actions) AS most FROM experts")
            )
        truth: dict[str, dict[int, bool]] = {}
        first: dict[str, int] = {}
        for plan, m in PLANS:
            place = Path(folder) / f"{plan}-{m}"
            shutil.copytree(experts, place)
            settings = Settings("policy", 1, max_steps=10 if model else 30, concurrency=64)
            policy = _policy(model)
            began = time.perf_counter()
            counts = explore(place, env, policy, plans=["initial", plan], settings=settings, m=m, make_env=make_env)
            seconds = time.perf_counter() - began
            with DuckDBEngine(place) as runs:
                found = {row["expert_id"]: row["step"] for row in runs.rows("FROM first_recovery_state")}
                if plan == "every_step":
                    for row in runs.rows("FROM branch_points"):
                        truth.setdefault(row["expert_id"], {})[row["step"]] = row["solved"]
                    first = found
            turns = sum(truth[id][step - 1] and not truth[id][step] for id, step in found.items())
            right = sum(first.get(id) == step for id, step in found.items())
            name = plan if plan != "skip_length" else f"skip_length, M = {m}"
            print(
                f"{name:20} {counts['rollouts']:6} rollouts {len(found):5} found {turns:5} turns {right:5} first "
                f"{seconds:7.1f} s"
            )


def _policy(model: str | None) -> Any:
    if model is None:
        return Novice(slip=0)
    from trajkit.exploration.policies.local import Local

    return Local(model, Sampling((0.0,), 1.0, 8), batch=64)


if __name__ == "__main__":
    main()
