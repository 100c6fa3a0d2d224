"""`make bench`: how far trajkit is from the floor and from what one would do without it, as ratios in one run.

    python benchmarks/bench.py [--only selecting rules] [--scale 0.1] [--rounds 3]

Runs the parts (each a module beside this one, which also runs alone) and writes docs/performance.md. What a part found
is kept below --folder, so that `--only` measures some parts again and leaves the others as they are. Growth is measured
apart (growth.py), for it takes longer.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import json
import os
import platform
import re
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import growth
import measure

# The parts in the page's order, with their titles; what stands over their tables is their docstrings.
PARTS = {
    "importing": "Import",
    "looking": "Validate and look",
    "rules": "Every rule",
    "selecting": "Select and export",
    "otherwise": "What one would do otherwise",
    "parts": "Many small parts",
    "exploring": "Explore",
    "generating": "Generate",
    "training": "Train",
}
VERSIONS = ("duckdb", "polars", "pyarrow", "orjson", "pandas", "datasets", "torch", "transformers")


def main() -> None:
    """Measure, keep, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS), help="the parts to measure again")
    parser.add_argument("--scale", type=float, default=1, help="of each part's own size")
    parser.add_argument("--rounds", type=int, help="of each measurement; else as many as the part has by itself")
    parser.add_argument("--folder", type=Path, default=measure.WORLDS, help="where worlds and results are kept")
    parser.add_argument("--page", type=Path, default=measure.CHECKOUT / "docs/performance.md")
    args = parser.parse_args()
    results = args.folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        rows = importlib.import_module(name).rows
        usual = {key: one.default for key, one in inspect.signature(rows).parameters.items()}
        size, rounds = max(1, round(usual["size"] * args.scale)), args.rounds or usual["rounds"]
        found = rows(args.folder, size, rounds)
        told = {"size": size, "rounds": rounds, "rows": [asdict(row) for row in found]}
        (results / f"{name}.json").write_text(json.dumps(told))
        print(f"\n{PARTS[name]}\n\n{measure.table(found)}", flush=True)
    kept = {name: json.loads((results / f"{name}.json").read_text()) for name in PARTS if _is_kept(results, name)}
    args.page.write_text(page(kept))
    print(f"\nwrote {args.page}")


def _is_kept(results: Path, name: str) -> bool:
    return (results / f"{name}.json").exists()


def page(kept: dict[str, measure.Found]) -> str:
    """docs/performance.md of what the parts found."""
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS if importlib.util.find_spec(name))
    sections = [
        f"""# Performance

Made by `make bench` on {os.cpu_count()} cores and {growth.memory()} GB of memory, {platform.machine()}, Python \
{platform.python_version()}, {versions}.

Each thing is run in turn with what it is compared with, each in a process of its own: the median of the rounds. The
ratio is its seconds over the other's, round by round: median and range. Below 1 trajkit is the faster. The seconds are
of that machine and its load; the ratio says how far one is from the floor (the least that any tool must do), or from
what one would do otherwise. The worlds are generated (`benchmarks/world.py`), with messages as long as WebShop's."""
    ]
    for name, told in kept.items():
        doc = inspect.getdoc(importlib.import_module(name)) or ""
        said = re.sub(r"\n\n    python [^\n]*\n\n", "\n\n", doc)  # the command stands below the table
        found = [measure.Row(**row) for row in told["rows"]]
        command = f"python benchmarks/{name}.py --size {told['size']} --rounds {told['rounds']}"
        sections.append(f"## {PARTS[name]}\n\n{said}\n\n{measure.table(found)}\n\n`{command}`")
    if growth.TABLE.exists():
        sections.append(growth.section())
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    main()
