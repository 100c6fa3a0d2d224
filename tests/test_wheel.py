"""The wheel holds the rules and works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from small_runs import pair, write_run

CHECKOUT = Path(__file__).resolve().parents[1]


def test_the_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    wheels, installed, runs = tmp_path / "wheels", tmp_path / "installed", tmp_path / "runs"
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(CHECKOUT)]
    subprocess.run(pip, check=True, capture_output=True)
    [wheel] = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
        [about] = [archive.read(name).decode() for name in archive.namelist() if name.endswith("METADATA")]
    needed = [line for line in about.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert len(needed) < 8 and "torch" not in "".join(needed)
    assert not {"envs", "train", "tests"} & {path.name for path in installed.iterdir()}
    assert {"page.html", "page.css", "page.js", "tree.js"} <= {
        path.name for path in (installed / "trajkit/display/report").iterdir()
    }
    write_run(runs, pair("e"))
    code = (
        "from trajkit.rules import sql_folder; from trajkit.selection.select import select\n"
        f"print(sql_folder()); print(select({str(runs)!r}, 'sft.parquet', 'sft_pos').n_rows)"
    )
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == [str(installed / "trajkit/sql"), "1"], done.stderr
