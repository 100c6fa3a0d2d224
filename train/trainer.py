"""Training on what `trajkit select` wrote, from the file to the model. Read it from top to bottom.

    python -m train.trainer --data sft.parquet --model FOLDER --out FOLDER [--config eef] [--set train.lr=1e-4]
    torchrun --nproc-per-node=8 -m train.trainer ...     the same on eight GPUs: train/parallel.py

What the file holds (examples, pairs, values) says what is minimised: train/objectives.py.
`out` gets model/ (safetensors, tokenizer; transformers and vLLM load it), metrics.jsonl, tensorboard/, for pairs
reference.safetensors and, while it trains, checkpoint-N/. A run that was killed goes on from its last checkpoint, along
the same loss curve.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import torch

from train import parallel
from train.backends import Lora, default_backend, load, model_digest, save
from train.objectives import Pairs, objective
from train.packing import order, pack, share, steps_of
from train.passes import autocast, one_row_a_pass
from train.settings import Train
from train.settings import load as load_settings
from trajkit.cli import Command, run
from trajkit.console import bar, clean
from trajkit.errors import TrajkitError, UsageError
from trajkit.exploration.env import key_values
from trajkit.runs.atomic import make_folder, rename, sync_below, write_whole
from trajkit.selection.dataset import fingerprint, kind
from trajkit.tokens.masks import Row
from trajkit.tokens.tokenizer import model_folder as find_model

METRICS = "metrics.jsonl"


def train(data: Path, model_folder: Path, out: Path, settings: Train, *, show: bool = True) -> Path:
    """Train the model of `model_folder` (or of that name on the hub) on the examples, pairs or values of `data`.

    Returns out/model.

    What is there already is not done again: a finished model is returned as it is, an unfinished training goes on from
    its last checkpoint. A model made from values has a head for one number (AutoModelForSequenceClassification), which
    predicts an action's step reward at its last token. `show`: print one sample with its mask before the first step.
    In several processes (train/parallel.py) all of them call this, and the first one alone writes and talks.
    Raises UsageError for a wrong call, BadData for data that cannot be trained on, TrajkitError when the loss is no
    number any more or nothing can be written; the last good checkpoint then stays.
    """
    processes = parallel.join()
    made = out / "model"
    model_folder = find_model(model_folder)
    what, digest = kind(data), fingerprint(data)
    told = {"data": digest, "model": model_digest(model_folder), "settings": asdict(settings)}
    _check_same(out, told)
    processes.agree(told | {"--out": _state(out)})
    if made.is_dir():
        return made
    if processes.main:
        make_folder(out)
        write_whole(out / "training.json", json.dumps(told, indent=1))

    torch.manual_seed(settings.seed)
    backend = settings.backend
    if backend == "auto":
        backend = "plain" if what == "values" or processes.world > 1 else default_backend()
    if backend == "unsloth" and processes.world > 1:
        raise UsageError(
            "the backend unsloth trains in one process: take plain (--set train.backend=plain), or one GPU."
        )
    lora = Lora(settings.lora_rank, settings.lora_alpha, settings.lora_dropout) if settings.lora_rank else None
    model, tokenizer = load(
        model_folder, backend=backend, context=settings.context, lora=lora, seed=settings.seed, head=what == "values"
    )
    if processes.main and (why := one_row_a_pass(model)):
        click.echo(f"{model_folder}: {why}", err=True)
    aim, stop_id = objective(data, tokenizer, settings, backend)
    if processes.world > (groups := min(settings.batch, len(aim.groups))):
        raise UsageError(
            f"{processes.world} processes share steps of {groups} {what}: start at most {groups}, or raise train.batch."
        )
    if processes.main:
        counted = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in aim.counts.items() if n)
        click.echo(f"{data}: {counted}", err=True)
        for reason, n in aim.refused.most_common():
            click.echo(f"{data}: {n:,} left out: {clean(reason)}", err=True)
        for title, row in aim.sample().items() if show else ():
            print_sample(row, tokenizer, title)

    steps = settings.steps or steps_of(len(aim.groups), settings.batch, settings.epochs)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    warmup = math.ceil(settings.warmup * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, warmup, steps))
    row_tokens = settings.row_tokens or settings.context
    if isinstance(aim, Pairs):
        aim.refer_to(model, out, row_tokens, processes)  # while it is the model that training starts from
    first = _resume(out, model, optimizer, schedule)
    if first and processes.main:
        click.echo(f"{out}: going on from step {first}", err=True)
    device = next(model.parameters()).device

    model.train()
    with (
        Metrics(out, first) if processes.main else nullcontext() as metrics,
        bar(not processes.main, total=steps, initial=first, unit="step", desc="training") as shown,
    ):
        for step, numbers in enumerate(order(len(aim.groups), settings.batch, steps, settings.seed)):
            if step < first:
                continue
            began = time.perf_counter()
            if processes.world > 1:  # dropout of each its own, and after a kill the same again
                torch.manual_seed(random.Random(f"{settings.seed} {step} {processes.rank}").getrandbits(63))
            batch = [aim.groups[number] for number in numbers]
            sums = dict.fromkeys(("loss", *aim.beside), 0.0)
            for packed in pack(batch, row_tokens, share(batch, processes.rank, processes.world)):
                with autocast(device):
                    part, beside = aim.part(model, packed.to(device), numbers)
                part.backward()  # type: ignore[no-untyped-call]
                for name, value in {"loss": part.item(), **beside}.items():
                    sums[name] += value
            processes.add_gradients(trained)
            sums = processes.sums(sums)
            loss = sums["loss"]
            norm = float(torch.nn.utils.clip_grad_norm_(trained, settings.clip))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                names = ", ".join(clean(group[0].example_id) for group in batch[:8]) + " ..." * (len(batch) > 8)
                raise TrajkitError(
                    f"{out}: at step {step} the loss is {loss} and the gradient's norm {norm}. The batch: {names}. "
                    f"{_last(out)} A smaller train.lr or more train.warmup usually mends it."
                )
            lr = float(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            tokens = sum(len(row.input_ids) for group in batch for row in group)
            seconds = time.perf_counter() - began
            if metrics:
                metrics.add(step, **sums, lr=lr, grad_norm=norm, tokens=tokens, tokens_per_s=tokens / seconds)
            shown.set_postfix_str(f"loss {loss:.4f}, {tokens / seconds:,.0f} tokens/s", refresh=False)
            shown.update()
            if metrics and (step + 1) % settings.save_steps == 0 and step + 1 < steps:
                _checkpoint(out, step + 1, model, optimizer, schedule, metrics)
    if processes.main:
        save(model, tokenizer, made, stop_ids=[stop_id])
        for folder in _checkpoints(out):
            shutil.rmtree(folder, ignore_errors=True)
    processes.wait()
    return made


def learning_rate(step: int, warmup: int, steps: int) -> float:
    """The share of the learning rate at a step: a straight line up, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


# --- what is shown -------------------------------------------------------------------------------


def print_sample(row: Row, tokenizer: Any, title: str = "a sample") -> None:
    """One row as the model gets it, to stderr: what is trained on is green, and in angle brackets without colour."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    text = Text(f"{title}, {clean(row.example_id)}; trained tokens are ")
    text.append("green" if console.color_system else "in ⟦ ⟧", style="bold green")
    text.append("\n")
    for trained, ids in _spans(row):
        piece = clean(tokenizer.decode(ids))
        text.append(piece if console.color_system or not trained else f"⟦{piece}⟧", "bold green" if trained else "dim")
    console.print(text, soft_wrap=True)


def _spans(row: Row) -> Iterator[tuple[bool, list[int]]]:
    start = 0
    for end in range(1, len(row.input_ids) + 1):
        if end == len(row.input_ids) or (row.weights[end] > 0) != (row.weights[start] > 0):
            yield row.weights[start] > 0, list(row.input_ids[start:end])
            start = end


class Metrics:
    """metrics.jsonl, a line per step, and the same for TensorBoard. Lines from step `first` on are written anew."""

    def __init__(self, out: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = out / METRICS
        kept = path.read_text().splitlines(keepends=True)[:first] if path.exists() else []
        write_whole(path, "".join(kept))
        self._file = path.open("a")
        self._board = SummaryWriter(out / "tensorboard", purge_step=first)

    def add(self, step: int, **values: float) -> None:
        """The values of one step."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"train/{name}", value, step)

    def flush(self) -> None:
        """Have it on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        self._board.close()


# --- what survives a kill ------------------------------------------------------------------------


def _checkpoint(out: Path, step: int, model: Any, optimizer: Any, schedule: Any, metrics: Metrics) -> None:
    """Write checkpoint-<step> whole or not at all, then drop the ones before it."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    metrics.flush()
    hidden = out / f".checkpoint-{step}.tmp"
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        hidden.mkdir()
        # Only what is trained: with LoRA that is the adapter.
        weights = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
        save_file(weights, hidden / "weights.safetensors")
        chance = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
        state = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "chance": chance}
        torch.save(state, hidden / "optimizer.pt")
        sync_below(hidden)
        older = _checkpoints(out)
        rename(hidden, out / f"checkpoint-{step}")
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(hidden, ignore_errors=True)
        raise TrajkitError(f"{out}: no checkpoint can be written ({error}). {_last(out)} Make room.") from error
    for folder in older:
        shutil.rmtree(folder, ignore_errors=True)


def _resume(out: Path, model: Any, optimizer: Any, schedule: Any) -> int:
    """Load the last checkpoint; returns the step to go on with, 0 without one."""
    from safetensors.torch import load_file

    for hidden in out.glob(".checkpoint-*.tmp"):
        shutil.rmtree(hidden, ignore_errors=True)
    found = _checkpoints(out)
    if not found:
        return 0
    weights = load_file(found[-1] / "weights.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights[name])
    state = torch.load(found[-1] / "optimizer.pt", weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    torch.set_rng_state(state["chance"][0])
    for device, chance in zip(range(torch.cuda.device_count()), state["chance"][1:], strict=False):
        torch.cuda.set_rng_state(chance, device)
    return int(found[-1].name.rpartition("-")[2])


def _checkpoints(out: Path) -> list[Path]:
    return sorted(out.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))


def _state(out: Path) -> list[str]:
    """What a training goes on from, by name."""
    return sorted(path.name for name in ("model", "reference.*", "checkpoint-*") for path in out.glob(name))


def _last(out: Path) -> str:
    found = _checkpoints(out)
    return f"The last good checkpoint is {found[-1]}." if found else "There is no checkpoint yet."


def _check_same(out: Path, told: dict[str, Any]) -> None:
    """Refuse to go on with a training of other settings or data."""
    path = out / "training.json"
    if not path.exists():
        return
    before = json.loads(path.read_text())
    names = [name for name in told if name != "settings" and before.get(name) != told[name]]
    old, new = asdict(Train()) | before.get("settings", {}), told["settings"]  # it may be older than a setting
    names += [f"train.{name}" for name in new if old.get(name) != new[name]]
    if names:
        raise UsageError(
            f"--out {out}: a training with other {', '.join(names)} is there. Name another folder, or delete this one."
        )


@click.command(cls=Command)
@click.option("--data", required=True, type=click.Path(path_type=Path), help="What `trajkit select` wrote.")
@click.option("--model", required=True, type=click.Path(path_type=Path), help="The model's folder, or OWNER/NAME.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the new model. Resumable.")
@click.option(
    "--config", multiple=True, metavar="TOML|PRESET", help="Settings: [train], for pairs [pair_train] over it."
)
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Replace one. Repeatable.")
@click.option("--template-arg", multiple=True, metavar="KEY=VALUE", help="Into train.template_args. Repeatable.")
def command(
    data: Path,
    model: Path,
    out: Path,
    config: tuple[str, ...],
    overrides: tuple[str, ...],
    template_arg: tuple[str, ...],
) -> None:
    """Train a model on selected examples, on pairs of them, or on step rewards."""
    processes = parallel.join()
    try:
        settings = load_settings(config, overrides).training(1, kind(data))
        settings = replace(settings, template_args={**settings.template_args, **key_values(template_arg)})
        made = train(data, model, out, settings)
    except TrajkitError as error:
        if processes.main:
            raise
        raise type(error)(f"process {processes.rank}: {error}") from error
    if processes.main:
        click.echo(made)
    parallel.leave()


if __name__ == "__main__":
    run(command, "python -m train.trainer")
