"""Takes docs/report.png, the README's picture: a task of `trajkit report` on the runs of `make demo`.

    python docs/screenshot.py demo/runs

Needs Chromium (CHROMIUM names another than the one on the PATH) and playwright.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from trajkit.display.report import report
from trajkit.display.terminal import find
from trajkit.engines.duckdb import DuckDBEngine

PICTURE = Path(__file__).with_name("report.png")


def main(folder: str) -> None:
    """Open the expert trajectory that `trajkit show` draws, at the first action of its recovery's policy."""
    with DuckDBEngine(folder) as runs:
        [expert_id] = find(runs, None, None)
        [shown] = runs.rows(
            "SELECT o.task_id, e.trajectory_id || '@' || o.branch_step AS node FROM eef AS e "
            "JOIN outcomes AS o USING (trajectory_id) WHERE e.expert_id = ?",
            [expert_id],
        )
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        file = Path(name) / "report.html"
        report(folder, file)
        chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
        with playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]) as browser:
            page = browser.new_page(viewport={"width": 1200, "height": 720})
            page.goto(f"{file.as_uri()}#task={shown['task_id']}&node={shown['node']}")
            page.wait_for_selector("html[data-ready]", state="attached")
            page.screenshot(path=PICTURE)


if __name__ == "__main__":
    main(*sys.argv[1:])
