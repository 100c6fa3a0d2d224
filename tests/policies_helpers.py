"""What tests/test_policies.py shares with other tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from explore_helpers import CHECKOUT, SMALL, rows

from trajkit.exploration.policies import Sampling

pytest.importorskip("tokenizers", reason="needs tokenizers: pip install trajkit[server]")
pytest.importorskip("transformers", reason="needs transformers: pip install trajkit[server]")

from trajkit.exploration.policies.server import Server

httpx = pytest.importorskip("httpx", reason="needs httpx: pip install trajkit[server]")
PLANS = ("initial", "skip_length")


class Served:
    """A server process of the tests."""

    def __init__(self, tokenizer: Path, folder: Path, *more: str, port: int = 0) -> None:
        self.log, port_file = folder / "log.jsonl", folder / "port"
        port_file.unlink(missing_ok=True)
        given = [str(tokenizer), "--port", str(port), "--port-file", str(port_file), "--log", str(self.log), *more]
        self.process = subprocess.Popen([sys.executable, str(CHECKOUT / "tests/model_server.py"), *given])
        while not port_file.exists():
            assert self.process.poll() is None
            time.sleep(0.01)
        self.port = int(port_file.read_text())
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def faults(self, **faults: Any) -> None:
        httpx.post(f"http://127.0.0.1:{self.port}/faults", json=faults, verify=False)

    def stats(self) -> dict[str, int]:
        return httpx.get(f"http://127.0.0.1:{self.port}/stats", verify=False).json()  # type: ignore[no-any-return]

    def said(self) -> list[dict[str, Any]]:
        """Every prompt and what was sampled for it, the check for ids at the beginning left out."""
        return [entry for line in self.log.open() if (entry := json.loads(line))["request"]["max_tokens"] != 1]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def policy(served: Served, tokenizer: Path | None, **more: Any) -> Server:
    given: dict[str, Any] = {"first_wait": 0.01, "timeout": 20.0, **more}
    sampling = Sampling(**{"max_tokens": 200, **given.pop("sampling", {})})
    return Server(served.url, None, str(tokenizer) if tokenizer else None, sampling, **given)


def copy(runs: Path, to: Path) -> Path:
    shutil.copytree(runs, to)
    return to


def policy_ids(runs: Path) -> set[str]:
    return {row["trajectory_id"] for row in rows(runs, "SELECT trajectory_id FROM trajectories WHERE role = 'policy'")}


def exactly_once(runs: Path) -> bool:
    made = rows(
        runs,
        "SELECT count(*) AS n FROM trajectories WHERE role = 'policy' AND ended <> 'error' "
        "GROUP BY task_id, parent_id, branch_step, sample",
    )
    return {row["n"] for row in made} == {1}


def command(runs: Path, *more: str) -> list[str]:
    shop = [f"--env-arg={key}={value}" for key, value in SMALL.items()]
    plans = [f"--plan={plan}" for plan in PLANS]
    return [
        sys.executable, "-c", "from trajkit.cli import main; main()", "explore", f"--runs={runs}",
        "--env=envs.webshop:WebShop", *shop, *plans,
        "--iteration=1", "--m=2", "--max-steps=5", *more,
    ]  # fmt: skip


def run(*args: Any, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args), cwd=CHECKOUT, capture_output=True, text=True, timeout=600, **more)
