"""What tests/test_loop.py shares with other tests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch: make setup-train")
pytest.importorskip("transformers", reason="needs transformers: make setup-train")
from train.settings import Settings, load
from trajkit.engines.duckdb import DuckDBEngine

SMALL = [
    "explore.env_args.train_tasks=30", "explore.env_args.test_tasks=10", "explore.m=2", "explore.max_steps=6",
    "train.steps=30", "train.save_steps=10", "train.lr=3e-3", "loop.iterations=2",
    "scratch.hidden=16", "scratch.heads=2", "scratch.layers=1", "scratch.vocabulary=300",
]  # fmt: skip


def changed(*more: str) -> list[str]:
    """The small settings, but for those that `more` gives."""
    given = dict(setting.split("=", 1) for setting in (*SMALL, *more))
    return [f"{name}={value}" for name, value in given.items()]


def small(*more: str) -> Settings:
    return load(["tinyshop"], changed(*more))


def counted(run: Path) -> Counter[tuple[Any, ...]]:
    with DuckDBEngine(run / "runs") as runs:
        rows = runs.rows("SELECT role, actor, split, iteration, branch_step > 0 AS branch FROM trajectories")
    return Counter((r["role"], r["actor"], r["split"], r["iteration"], r["branch"]) for r in rows)
