"""Several runs of Algorithm 1 beside each other: arms, each with some seeds, on some processes.

    python -m train.study train/studies/demo.toml --out FOLDER [--jobs 2]

A study is a TOML: `config` (a preset or a TOML), `seeds`, what `set` changes for all arms, and the arms, each a list of
`section.key=value`. Arms of one seed that can share behaviour cloning take it over from the arm named by `first`.
FOLDER/seed-S/ARM/ is one run (train/loop.py). A study that was stopped goes on with what is missing.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from train.loop import MANIFEST, differs_before_theta_0
from train.settings import load
from trajkit.cli import Command
from trajkit.cli import run as run_command
from trajkit.console import bar
from trajkit.errors import TrajkitError, UsageError


@dataclass(frozen=True)
class Study:
    """What is compared. `arms`: name -> overrides, in the order in which they are shown. `first`: the arm whose
    behaviour cloning the others of its seed take over; None: each clones for itself."""

    config: str
    seeds: tuple[int, ...]
    arms: dict[str, list[str]]
    first: str | None = None


def read(path: Path) -> Study:
    """A study's TOML. Raises UsageError for one that is wrong."""
    try:
        table = tomllib.loads(path.read_text())
        common = [str(one) for one in table.pop("set", [])]
        arms = {name: [*common, *map(str, changes)] for name, changes in table.pop("arms").items()}
        first = table.pop("first", None)
        study = Study(str(table.pop("config")), tuple(int(seed) for seed in table.pop("seeds")), arms, first)
    except OSError as error:
        raise UsageError(f"{path}: it cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        wanted = "config, seeds and [arms], each arm a list of settings"
        raise UsageError(f"{path}: a study has {wanted} ({type(error).__name__}: {error}).") from error
    if table or not study.arms or not study.seeds or (first is not None and first not in arms):
        raise UsageError(f"{path}: unknown keys ({', '.join(table) or 'none'}), no arm, no seed, or no such first arm.")
    for name in study.arms:
        load([study.config], _changes(study, name, 0))  # a mistake in an arm shows before the first has run
    return study


def run(study: Study, out: Path, jobs: int) -> dict[str, list[Path]]:
    """Run what is missing, `jobs` processes of one thread each at a time; returns each arm's runs, one per seed.

    Raises TrajkitError when a run failed; the others are finished first.
    """
    runs = {name: [out / f"seed-{seed}" / slug(name) for seed in study.seeds] for name in study.arms}
    begins = {name: study.first for name in study.arms if study.first != name and _same_theta_0(study, name)}
    waiting = [(seed, name) for seed in range(len(study.seeds)) for name in study.arms]
    failed: list[Path] = []
    going: dict[Future[int], tuple[int, str]] = {}
    finished: set[tuple[int, str]] = set()
    with ThreadPoolExecutor(jobs) as pool, bar(total=len(waiting), unit="run") as shown:
        while waiting or going:
            for job in list(waiting):
                seed, name = job
                begin = begins.get(name)
                if begin is not None and (seed, begin) not in finished:
                    continue
                if len(going) < jobs:
                    waiting.remove(job)
                    theirs = None if begin is None else runs[begin][seed]
                    going[pool.submit(_run, study, name, study.seeds[seed], runs[name][seed], theirs)] = job
            done, _ = wait(going, return_when=FIRST_COMPLETED)
            for future in done:
                seed, name = going.pop(future)
                shown.update()
                if future.result():
                    failed.append(runs[name][seed])
                    if name == study.first:
                        waiting = [job for job in waiting if job[0] != seed]
                else:
                    finished.add((seed, name))
    if failed:
        raise TrajkitError(
            f"{len(failed)} runs failed: {', '.join(map(str, failed))}. What each said is in its log.txt; running this "
            "again goes on with them."
        )
    return runs


def slug(name: str) -> str:
    """An arm's name as a folder's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _changes(study: Study, name: str, seed: int) -> list[str]:
    """The settings of an arm, each once: what is said later counts."""
    changes = [*(f"{section}.seed={seed}" for section in ("train", "explore", "scratch")), *study.arms[name]]
    return [f"{key}={value}" for key, value in dict(change.split("=", 1) for change in changes).items()]


def _same_theta_0(study: Study, name: str) -> bool:
    if study.first is None:
        return False
    arms = [load([study.config], _changes(study, arm, study.seeds[0])).json() for arm in (study.first, name)]
    return differs_before_theta_0(*map(json.loads, arms)) is None


def _run(study: Study, name: str, seed: int, folder: Path, begin: Path | None) -> int:
    if (folder / MANIFEST).exists():
        return 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    command: list[Any] = [sys.executable, "-m", "train.loop", "--out", folder, "--config", study.config]
    command += [f"--set={change}" for change in _changes(study, name, seed)]
    command += [] if begin is None else ["--begin", begin]
    # One thread each: for models this small two processes beat one process with two threads.
    given = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    with folder.with_name(folder.name + ".log.txt").open("a") as log:
        return subprocess.run(command, stdout=log, stderr=log, env=given).returncode


@click.command(cls=Command)
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the runs. Resumable.")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1), help="Processes at once.")
@click.option("--png", type=click.Path(path_type=Path), help="Write the plot here.  [default: OUT/results.png]")
@click.option("--csv", type=click.Path(path_type=Path), help="Write the results here.  [default: OUT/results.csv]")
def command(study: Path, out: Path, jobs: int, png: Path | None, csv: Path | None) -> None:
    """Run a study and show what came out."""
    from train.results import show

    began = time.time()
    runs = run(read(study), out, jobs)
    show(runs, png or out / "results.png", csv or out / "results.csv")
    click.echo(f"{time.time() - began:.0f} s", err=True)


if __name__ == "__main__":
    run_command(command, "python -m train.study")
