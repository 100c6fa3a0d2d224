"""What tests/test_explore.py shares with other tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from envs.webshop import Expert, Novice, WebShop
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.exploration.env import Env, Message, Policy, Task
from trajkit.exploration.explore import Settings, explore

CHECKOUT = Path(__file__).resolve().parents[1]
SMALL: dict[str, Any] = {"products": 200, "train_tasks": 16, "test_tasks": 4}
BOTH_PLANS = ("initial", "skip_length")


def record_expert(runs: Path, env: Env, **more: Any) -> Counter[str]:
    return explore(runs, env, Expert(), plans=["initial"], settings=Settings("expert", 0, **more))


def run_policy(runs: Path, env: Env, policy: Policy | None = None, iteration: int = 1, **more: Any) -> Counter[str]:
    settings = Settings("policy", iteration, **more)
    return explore(runs, env, policy or Novice(), plans=BOTH_PLANS, settings=settings)


def rows(runs: Path, query: str, **params: Any) -> list[dict[str, Any]]:
    with DuckDBEngine(runs, params) as opened:
        return opened.rows(query)


def ids(runs: Path) -> set[str]:
    return {row["trajectory_id"] for row in rows(runs, "SELECT trajectory_id FROM trajectories")}


class Plain:
    """WebShop without snapshots: every state is reached by replaying. `steps` counts the actions it took."""

    def __init__(self, **settings: Any) -> None:
        self.shop = WebShop(**(settings or SMALL))
        self.steps = 0

    def tasks(self, split: str) -> Iterable[Task]:
        return self.shop.tasks(split)

    def reset(self, task_id: str, *, seed: int | None = None) -> tuple[list[Message], dict[str, Any]]:
        return self.shop.reset(task_id, seed=seed)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.shop.step(action)

    def close(self) -> None:
        self.shop.close()
