"""What training costs: the loop against a bare one, transformers' Trainer and TRL; packing; masks. On one thread.

    python benchmarks/training.py [--rounds 3] [--world demo]

loop     tokens/s of train.trainer as a whole against a bare torch loop over the same packs, transformers.Trainer over
         the same packs, and TRL's SFTTrainer, which pads, on the same rows in the same order
packing  the same bare loop over packed and over padded rows, as many rows a step
masks    tokens/s of trajkit.masks.Masks

Twice: on the tiny shop with the model made for it, and on the demo's data with a larger one (hidden 256, 4 layers). A
measurement is the processor time of the steps after the first ones, in a process of its own, all in turn; what is
printed is the median of the ratios, round by round, and their range.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests")]

from train.settings import Scratch, Train  # noqa: E402

TRL = "1.14.2"
SKIPPED = 1  # steps at the beginning, in which memory is allocated
WORLDS = {
    "tiny shop": (
        Train(lr=2e-3, steps=150, batch=8, context=256, row_tokens=1024, backend="plain", save_steps=10_000),
        Scratch(vocabulary=400, hidden=64, layers=3, heads=4, context=256),
    ),
    "demo": (
        Train(lr=1e-3, steps=6, batch=8, context=4096, row_tokens=4096, backend="plain", save_steps=10_000),
        Scratch(vocabulary=2000, hidden=256, layers=4, heads=4, context=4096),
    ),
}


# --- what is measured: each runs in a process of its own and returns every step's processor seconds ---


def ours(world: Path, settings: Train) -> list[float]:
    """train.trainer, with all that it writes and shows."""
    from train import trainer

    ends: list[float] = []

    class Clock(trainer.Metrics):
        def add(self, step: int, **values: float) -> None:
            super().add(step, **values)
            ends.append(time.process_time())

    trainer.Metrics = Clock  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as out:
        trainer.train(world / "sft.parquet", world / "model", Path(out), settings, show=False)
    return [end - start for start, end in pairwise(ends)]


def bare(world: Path, settings: Train) -> list[float]:
    """A plain loop over the same packs, by hand."""
    import torch

    from train.packing import pack

    batches = [
        (pack([[row] for row in batch], settings.row_tokens or settings.context), _total(batch))
        for batch in _batches(world, settings)
    ]
    model = _model(world, "packed").train()
    return _steps(model, batches, _packed_loss, settings, torch)


def padded(world: Path, settings: Train) -> list[float]:
    """The same plain loop over padded rows, with PyTorch's attention; logits of the trained tokens alone, too."""
    import torch

    batches = [([_pad(batch)], _total(batch)) for batch in _batches(world, settings)]
    model = _model(world, "sdpa").train()
    return _steps(model, batches, _padded_loss, settings, torch)


def trainer(world: Path, settings: Train) -> list[float]:
    """transformers.Trainer over the same packs with the same loss."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from train.packing import pack

    class Packs(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
            packs, total = inputs["packs"]
            return sum(_packed_loss(model, packed) for packed in packs) / total

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **more: Any) -> None:
            ends.append(time.process_time())

    tokens = settings.row_tokens or settings.context
    items = [{"packs": (pack([[row] for row in batch], tokens), _total(batch))} for batch in _batches(world, settings)]
    with tempfile.TemporaryDirectory() as out:
        given = TrainingArguments(
            out, per_device_train_batch_size=1, num_train_epochs=1, learning_rate=settings.lr, use_cpu=True,
            lr_scheduler_type="cosine", max_grad_norm=settings.clip, logging_steps=1, report_to="tensorboard",
            save_strategy="no", remove_unused_columns=False, train_sampling_strategy="sequential",
        )  # fmt: skip
        Packs(_model(world, "packed"), given, lambda items: items[0], items, callbacks=[Clock()]).train()
    return [end - start for start, end in pairwise(ends)]


def trl(world: Path, settings: Train) -> list[float]:
    """TRL's SFTTrainer, as many rows a step, in its own environment. (padding_free is slower on a CPU.)"""
    import trl_loss

    rows = [row for batch in _batches(world, settings) for row in batch]
    steps = trl_loss.run(
        TRL, world / "model", rows, per_device_train_batch_size=settings.batch, learning_rate=settings.lr,
        lr_scheduler_type="cosine", max_grad_norm=settings.clip,
    )  # fmt: skip
    return [step["cpu_s"] for step in steps[1:]]


MEASURED: dict[str, Callable[[Path, Train], list[float]]] = {
    "ours": ours,
    "bare": bare,
    "padded": padded,
    "trainer": trainer,
    "trl": trl,
}


# --- the parts they share ---


def _rows(world: Path, settings: Train) -> list[Any]:
    from transformers import AutoTokenizer

    from trajkit.examples import read
    from trajkit.masks import Masks

    masks = Masks(AutoTokenizer.from_pretrained(world / "model"), context=settings.context)
    return list(masks.rows(read(world / "sft.parquet")))


def _batches(world: Path, settings: Train) -> Iterator[list[Any]]:
    """Every step's rows, in train.trainer's order."""
    from train.packing import order

    rows = _rows(world, settings)
    for step in order(len(rows), settings.batch, settings.steps or 1, settings.seed):
        yield [rows[number] for number in step]


def _total(batch: Iterable[Any]) -> float:
    return sum(sum(row.weights) for row in batch)


def _model(world: Path, attention: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    import train.attention  # noqa: F401  (registers "packed")

    return AutoModelForCausalLM.from_pretrained(world / "model", dtype=torch.float32, attn_implementation=attention)


def _steps(model: Any, batches: Sequence[Any], loss_of: Callable[..., Any], settings: Train, torch: Any) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    ends = []
    for passes, total in batches:
        for one in passes:
            loss = loss_of(model, one) / total
            loss.backward()
            loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ends.append(time.process_time())
    return [end - start for start, end in pairwise(ends)]


def _packed_loss(model: Any, packed: Any) -> Any:
    from torch.nn.functional import cross_entropy

    weights = packed.weights[0]
    at = weights.nonzero()[:, 0]
    logits = model(
        input_ids=packed.input_ids, position_ids=packed.position_ids, lengths=packed.lengths, logits_to_keep=at - 1,
        use_cache=False,
    ).logits[0]  # fmt: skip
    return (cross_entropy(logits, packed.input_ids[0, at], reduction="none") * weights[at]).sum()


def _pad(batch: Sequence[Any]) -> dict[str, Any]:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.tensor(list(row.input_ids)) for row in batch]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
        "weights": pad_sequence([torch.tensor(list(row.weights)) for row in batch], batch_first=True),
    }


def _padded_loss(model: Any, batch: dict[str, Any]) -> Any:
    from torch.nn.functional import cross_entropy

    hidden = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)[0]
    trained = batch["weights"][:, 1:] != 0
    nll = cross_entropy(model.lm_head(hidden[:, :-1][trained]), batch["input_ids"][:, 1:][trained], reduction="none")
    return (nll * batch["weights"][:, 1:][trained]).sum()


# --- how ---


def make(name: str, folder: Path) -> Path:
    """A folder with sft.parquet and model/."""
    import pyarrow.parquet as pq

    from envs.webshop import Expert, Novice, TinyExpert, TinyShop, WebShop
    from train import scratch
    from trajkit.examples import read
    from trajkit.explore import Settings, explore
    from trajkit.select import select

    runs, data = folder / "runs", folder / "sft.parquet"
    expert, novice = Settings("expert", 0), Settings("policy", 1)
    if name == "demo":
        explore(runs, WebShop(), Expert(), plans=["initial"], settings=expert)
        explore(runs, WebShop(), Novice(), plans=["initial", "skip_length"], settings=novice)
        select(runs, data, "eef", {})
    else:
        explore(runs, TinyShop(train_tasks=1000, test_tasks=1), TinyExpert(), plans=["initial"], settings=expert)
        select(runs, data, "sft_pos", {})
    # Whole batches only: TRL's run over the end of an epoch.
    table = pq.read_table(data)
    pq.write_table(table.slice(0, len(table) - len(table) % WORLDS[name][0].batch), data)
    texts = sorted({message["content"] for example in read(data) for message in example["messages"]})
    scratch.make(folder / "model", texts, WORLDS[name][1])
    return folder


def compare(name: str, folder: Path, rounds: int) -> None:
    """Measure all in turn and print the ratios."""
    took: dict[str, list[float]] = {what: [] for what in MEASURED}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for _ in range(rounds):
        for what in MEASURED:
            call = [sys.executable, __file__, "--one", what, name, str(folder)]
            done = subprocess.run(call, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{what}: {done.stderr[-2000:]}")
            took[what].append(json.loads(done.stdout.splitlines()[-1]))
    settings = WORLDS[name][0]
    batches = list(_batches(folder, settings))[SKIPPED + 1 :]
    lengths = [len(row.input_ids) for batch in batches for row in batch]
    longest = sum(max(len(row.input_ids) for row in batch) * len(batch) for batch in batches)
    print(
        f"{name}: {settings.batch} rows a step, {min(lengths)} to {max(lengths)} tokens, "
        f"{sum(lengths) / len(lengths):,.0f} on average; padded {longest / sum(lengths):.2f} times as many"
    )
    for what, seconds in took.items():
        print(f"  {what:17} {sum(lengths) / statistics.median(seconds):8,.0f} tokens/s")
    for a, b, label in (
        ("ours", "bare", "trainer's tokens/s against a bare torch loop"),
        ("ours", "trainer", "against transformers.Trainer"),
        ("ours", "trl", f"against TRL {TRL}"),
        ("bare", "padded", "packing against padding"),
    ):
        ratios = [theirs / mine for mine, theirs in zip(took[a], took[b], strict=True)]
        print(f"  {label}: {statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})")


def masks(name: str, folder: Path) -> None:
    """Print tokens/s of Masks on one core, templates and tokenizer included."""
    settings = WORLDS[name][0]
    _rows(folder, settings)
    began = time.process_time()
    rows = _rows(folder, settings)
    tokens = sum(len(row.input_ids) for row in rows)
    print(f"  masks: {tokens / (time.process_time() - began):,.0f} tokens/s on one core")


def main() -> None:
    """Run them all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--world", choices=WORLDS, help="One of them alone.")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    if args.one:
        what, name, folder = args.one
        seconds = MEASURED[what](Path(folder), WORLDS[name][0])
        print(sum(seconds[SKIPPED:]))
        return
    for name in [args.world] if args.world else WORLDS:
        with tempfile.TemporaryDirectory() as folder:
            made = make(name, Path(folder))
            compare(name, made, args.rounds)
            masks(name, made)


if __name__ == "__main__":
    main()
