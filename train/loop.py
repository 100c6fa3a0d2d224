"""Algorithm 1 (Exploring Expert Failures, https://arxiv.org/abs/2504.13145; ETO's and IPR's are alike) with any method.

    python -m train.loop --out RUN [--config tinyshop] [--set loop.method=rft]

    experts   their trajectories, simulated or linked              RUN/runs/
    base      the model to begin with, or one made from scratch    RUN/base/
    theta-0   behaviour cloning: select `clone`, train             RUN/theta-0/{sft.parquet, model/, metrics.jsonl}
              play: the test split; and, for what follows, the plans on the train split (as iteration 1)
              score: where the method asks for step rewards, theta-0 plays on after the actions (role scorer)
    theta-k   select `method` of iteration k, train, play          RUN/theta-k/, pairs.parquet where it gives pairs
              `then`: what it chooses is trained on afterwards     (the model before it: RUN/theta-k/first/)
    manifest  what was run, with what, and what came out           RUN/manifest.json, written last

Trajectories of iteration i are theta-(i-1)'s, on both splits. Each stage is done once: started again after a kill
(or on purpose) the loop does only what is missing, and a stage that was cut off goes on from where it was.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from train.settings import Settings, Train, load
from trajkit.cli import Command
from trajkit.cli import run as run_command
from trajkit.console import prints_to_stderr
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import TrajkitError, UsageError
from trajkit.exploration.env import key_values, load_env, load_policy
from trajkit.exploration.explore import Settings as Rollouts
from trajkit.exploration.explore import explore
from trajkit.exploration.policies import AsyncPolicy, Sampling, Suffixed
from trajkit.runs.atomic import make_folder, rename, sync_below, write_whole
from trajkit.selection.dataset import kind
from trajkit.selection.select import select
from trajkit.tokens.tokenizer import model_folder

MANIFEST = "manifest.json"


def loop(run: Path, settings: Settings, begin: Path | None = None) -> Path:
    """Run Algorithm 1 in the folder `run`; returns its manifest.

    `begin` is another run's folder: experts, base model and theta-0 are taken over from it, where they are the same.
    Raises UsageError where `run` holds a run of other settings, and whatever a stage raises.
    """
    if not settings.explore.experts:
        raise UsageError(
            "there is no expert: name one or more as explore.experts, a scripted policy (module:attr) or a folder of "
            "runs (`trajkit import` makes one of an expert's logs)."
        )
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("the loop is one process: start it without torchrun. (Trainings alone: train.trainer.)")
    _claim(run, settings)
    if (run / MANIFEST).exists():
        return run / MANIFEST
    began = time.time()
    if begin is not None:
        _take_over(run, settings, begin)
    _experts(run, settings, settings.explore.experts)
    base = _base(run, settings)
    for k in range(settings.loop.iterations):
        theta = run / f"theta-{k}"
        start = base if k == 0 or settings.loop.start == "base" else run / f"theta-{k - 1}" / "model"
        for method, folder in _trainings(settings, k, theta):
            data = _select(run, settings, method, k, folder)
            _train(data, start, settings.training(k, kind(data)))
            start = folder / "model"
        if k == 0:
            _experts(run, settings, settings.explore.later_experts)
        _play(run, settings, k, theta)
        if k + 1 < settings.loop.iterations:
            _score(run, settings, k, theta)
    return _manifest(run, settings, began)


# --- the stages ------------------------------------------------------------------------------------


def _experts(run: Path, settings: Settings, experts: tuple[str, ...]) -> None:
    """Have the experts' trajectories in RUN/runs, of the train split as EEF has them."""
    for expert in experts:
        if ":" in expert and not Path(expert).is_dir():  # module:attr key=value ...
            _say(run, f"expert {expert}")
            name, *args = expert.split()
            policy = load_policy(name, key_values(args))
            rollouts = Rollouts("expert", 0, max_steps=settings.explore.max_steps, seed=settings.explore.seed)
            make_env = _make_env(settings)
            env = make_env()
            try:
                explore(run / "runs", env, policy, plans=["initial"], settings=rollouts, make_env=make_env)
            finally:
                env.close()
        else:
            _link(Path(expert), run)


def _base(run: Path, settings: Settings) -> Path:
    """The model to begin with; made from scratch, of the experts' words, where none is given."""
    if settings.loop.model is not None:
        return model_folder(settings.loop.model, "loop.model")
    from train import scratch

    with DuckDBEngine(run / "runs") as runs:
        rows = runs.rows("SELECT DISTINCT content FROM messages WHERE content IS NOT NULL ORDER BY content")
    return scratch.make(run / "base", (row["content"] for row in rows), settings.scratch)


def _trainings(settings: Settings, k: int, theta: Path) -> list[tuple[str, Path]]:
    """The methods that theta-k is trained by, one after the other, each with the folder it is trained in."""
    if k == 0:
        return [(settings.loop.clone, theta)]
    if settings.loop.then is None:
        return [(settings.loop.method, theta)]
    return [(settings.loop.method, theta / "first"), (settings.loop.then, theta)]


def _select(run: Path, settings: Settings, method: str, k: int, folder: Path) -> Path:
    """Choose what is trained on in `folder`: its sft.parquet, or pairs.parquet where the method gives pairs."""
    for data in (folder / "sft.parquet", folder / "pairs.parquet"):
        if data.exists():
            return data
    make_folder(folder)
    params = {"iteration": k, "m": settings.explore.m, **settings.loop.select}
    hidden = folder / ".selected.parquet"
    summary = select(run / "runs", hidden, method, params)
    _say(run, f"theta-{k}: select\n{summary.text()}")
    if summary.writes == "values":
        raise UsageError(f"loop.method={method}: it gives values of actions, and a policy is trained on actions.")
    data = folder / ("pairs.parquet" if summary.writes == "pairs" else "sft.parquet")
    rename(hidden, data)
    return data


def _train(data: Path, start: Path, settings: Train) -> None:
    """Train beside `data`, on a GPU in a process of its own: its memory is then free, and Unsloth wants to be first."""
    import torch

    out = data.parent
    if torch.cuda.is_available():
        given = [
            f"--set=train.{key}={json.dumps(value)}" for key, value in asdict(settings).items() if value is not None
        ]
        command: list[str | Path] = [sys.executable, "-m", "train.trainer", "--data", data, "--model", start]
        if subprocess.run([*command, "--out", out, *given]).returncode:
            raise TrajkitError(f"{out}: the training failed; what it said is above. Running this again goes on.")
        return
    from train.trainer import train

    train(data, start, out, settings, show=not (out / "training.json").exists())
    gc.collect()


def _play(run: Path, settings: Settings, k: int, theta: Path) -> None:
    """Simulate theta-k: each test task once, and the plans of iteration k + 1 unless it is the last."""
    played = theta / "played.json"
    if played.exists():
        return
    last = k + 1 == settings.loop.iterations
    given = settings.explore
    sampling = Sampling(given.temperatures, given.top_p, given.max_tokens, given.stop)
    greedy = replace(sampling, temperatures=(given.test_temperature,))
    make_env = _make_env(settings)
    env = make_env()
    told: dict[str, Any] = {}
    try:
        suffix = _suffix(run, settings, k)
        with _policies(theta, settings, [greedy, sampling], f"theta-{k}", suffix) as (tester, explorer):
            for split, policy, plans, samples in (
                ("test", tester, ("initial",), 1),
                ("train", explorer, settings.plans, given.samples),
            ):
                if split == "train" and (last or not plans):
                    continue
                _say(run, f"theta-{k}: {split}")
                rollouts = Rollouts(
                    "policy", k + 1, split, given.max_steps, given.seed, given.concurrency, given.workers, tries=3
                )
                began = time.time()
                counts = explore(
                    run / "runs", env, policy, plans=plans, settings=rollouts, m=given.m, samples=samples,
                    params=_rules(settings), make_env=make_env,
                )  # fmt: skip
                told[split] = {**counts, "seconds": round(time.time() - began, 1)}
    finally:
        env.close()
    write_whole(played, json.dumps(told, indent=1))


def _score(run: Path, settings: Settings, k: int, theta: Path) -> None:
    """Have theta-0, the scorer, play on after the experts' and theta-k's actions, where step rewards are asked for."""
    scored = theta / "scored.json"
    if scored.exists() or not settings.scorer_plans:
        return
    _say(run, f"theta-{k}: scores")
    given = settings.explore
    sampling = Sampling((given.scorer_temperature,), given.top_p, given.max_tokens, given.stop)
    rollouts = Rollouts(
        "scorer", k + 1, "train", given.max_steps, given.seed, given.concurrency, given.workers, tries=3
    )
    make_env = _make_env(settings)
    env, began = make_env(), time.time()
    try:
        with _policies(run / "theta-0", settings, [sampling], "theta-0", _suffix(run, settings, 0)) as [scorer]:
            counts = explore(
                run / "runs", env, scorer, plans=settings.scorer_plans, settings=rollouts,
                params=_rules(settings), make_env=make_env,
            )  # fmt: skip
    finally:
        env.close()
    write_whole(scored, json.dumps({**counts, "seconds": round(time.time() - began, 1)}, indent=1))


def _rules(settings: Settings) -> dict[str, Any]:
    """The rules' parameters that plans read too (n, budget, solved_rate, ...)."""
    return {name: value for name, value in settings.loop.select.items() if name not in ("iteration", "m", "samples")}


def _suffix(run: Path, settings: Settings, k: int) -> str | None:
    """What theta-k is asked with at the end of its prompt: it was trained so where its method is nat."""
    if (settings.loop.method if k else settings.loop.clone) != "nat":
        return None
    with DuckDBEngine(run / "runs", _rules(settings)) as runs:
        return str(runs.rows("SELECT right_prompt FROM params")[0]["right_prompt"])


@contextmanager
def _policies(
    theta: Path, settings: Settings, samplings: list[Sampling], name: str, suffix: str | None = None
) -> Iterator[list[AsyncPolicy]]:
    """theta-k's model with each way of sampling: served by vLLM on a GPU where it is installed, else right here."""
    folder = theta / "model"
    policies: list[Any] = []
    if has_vllm():
        from train.serve import serve
        from trajkit.exploration.policies.server import Server

        with serve(folder, theta / "vllm.log", context=settings.train.context) as url:
            for sampling in samplings:
                policies.append(Server(url, None, str(folder), sampling, template_args=settings.train.template_args))
                policies[-1].actor = name
            yield [Suffixed(policy, suffix) for policy in policies] if suffix else policies
    else:
        from trajkit.exploration.policies.local import Local

        for sampling in samplings:
            batch, args = settings.explore.concurrency, settings.train.template_args
            policies.append(Local(str(folder), sampling, batch=batch, template_args=args))
            policies[-1].actor = name
        yield [Suffixed(policy, suffix) for policy in policies] if suffix else policies


def has_vllm() -> bool:
    """Whether policies are served: vLLM is installed and has a GPU."""
    import torch

    return torch.cuda.is_available() and find_spec("vllm") is not None


def _manifest(run: Path, settings: Settings, began: float) -> Path:
    """The last file: a run folder that has it is finished."""
    from train.results import results

    packages = ("trajkit", "torch", "transformers", "peft", "unsloth", "vllm", "duckdb")
    told = {
        "settings": asdict(settings),
        "results": results(run),
        "seconds_of_last_start": round(time.time() - began, 1),
        "packages": {name: found for name in packages if (found := _version(name))},
        "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()},
    }
    return write_whole(run / MANIFEST, json.dumps(told, indent=1))


# --- the run's folder ------------------------------------------------------------------------------


def _claim(run: Path, settings: Settings) -> None:
    """Write the settings, or refuse a folder that holds a run of others."""
    path = run / "settings.json"
    text = settings.json()
    if not path.exists():
        if run.exists() and any(not there.name.startswith(f".{path.name}.") for there in run.iterdir()):
            raise UsageError(f"--out {run}: something else is there. Name a folder that is new or empty.")
        make_folder(run)
        write_whole(path, text)
        return
    before, now = json.loads(path.read_text()), json.loads(text)
    names = [f"{s}.{key}" for s in now for key in now[s] if before.get(s, {}).get(key) != now[s][key]]
    if names:
        raise UsageError(f"--out {run}: a run with other {', '.join(names)} is there. Name another folder.")


def _take_over(run: Path, settings: Settings, begin: Path) -> None:
    """Copy experts, base model and theta-0 of another run; a test rollout of theta-0 is iteration 1 there and here."""
    if not (begin / MANIFEST).exists():
        raise UsageError(f"--begin {begin}: no finished run is there (it has no {MANIFEST}).")
    other = differs_before_theta_0(json.loads((begin / "settings.json").read_text()), json.loads(settings.json()))
    if other is not None:
        raise UsageError(f"--begin {begin}: its {other} is another one, so its theta-0 cannot be taken over.")
    if (run / "theta-0").exists():
        return
    for name in ("base", "runs", "theta-0"):
        if (begin / name).is_dir():
            hidden = run / f".{name}.tmp"
            shutil.rmtree(hidden, ignore_errors=True)
            shutil.copytree(begin / name, hidden)
            shutil.rmtree(run / name, ignore_errors=True)
            sync_below(hidden)
            rename(hidden, run / name)
    if settings.loop.iterations > 1:  # what this run's plans ask for may not be there yet; what is there is found done
        (run / "theta-0" / "played.json").unlink()


def differs_before_theta_0(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """The first setting that makes the theta-0 of two runs differ, as section.key. None: they have the same."""
    for section, keys in _SAME.items():
        for key in keys or one[section]:
            if one[section][key] != other[section][key]:
                return f"{section}.{key}"
    return None


# What has to be equal for theta-0 to be the same (no keys: the whole section).
_SAME: dict[str, tuple[str, ...]] = {
    "train": (),
    "clone_train": (),
    "scratch": (),
    "loop": ("clone", "model"),
    "explore": ("env", "env_args", "experts", "max_steps", "max_tokens", "test_temperature", "seed"),
}


def _make_env(settings: Settings) -> Any:
    return partial(load_env, settings.explore.env, dict(settings.explore.env_args))


def _link(source: Path, run: Path) -> None:
    """Take a folder of runs as it is now, by hard links where the file system has them: its parts never change."""
    target, hidden = run / "runs" / source.resolve().name, run / ".experts.tmp"
    if target.exists():
        return
    if not source.is_dir():
        raise UsageError(f"[explore] experts: {source} is no module:attr and no folder of runs.")
    shutil.rmtree(hidden, ignore_errors=True)
    make_folder(target.parent)
    try:
        shutil.copytree(source, hidden, copy_function=os.link)
    except (OSError, shutil.Error):
        shutil.rmtree(hidden, ignore_errors=True)
        shutil.copytree(source, hidden)
    sync_below(hidden)
    rename(hidden, target)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _say(run: Path, text: str) -> None:
    click.echo(f"[{run.name}] {text}", err=True)


@click.command(cls=Command)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run's folder. Resumable.")
@click.option(
    "--config",
    multiple=True,
    metavar="TOML|PRESET",
    default=("tinyshop",),
    show_default=True,
    help="Settings; of several the later ones win. Repeatable.",
)
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Replace one. Repeatable.")
@click.option("--begin", type=click.Path(exists=True, path_type=Path), help="Take theta-0 over from this run.")
def command(out: Path, config: tuple[str, ...], overrides: tuple[str, ...], begin: Path | None) -> None:
    """Clone, explore, select, train, again: Algorithm 1 in one folder."""
    with prints_to_stderr():  # an environment may print
        done = loop(out, load(config, overrides), begin)
    click.echo(done)


if __name__ == "__main__":
    run_command(command, "python -m train.loop")
