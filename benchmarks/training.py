"""What training costs: the loop against a bare one, transformers' Trainer and TRL's SFTTrainer. On one thread.

    python benchmarks/training.py [--rounds 3]

train.trainer as a whole against a bare torch loop over the same packs, transformers.Trainer over the same packs, the
bare loop over padded rows, and SFTTrainer, which pads, on the same rows in the same order. Twice: on the tiny shop
with the model made for it, and on the demo's data with a larger one (hidden 256, 4 layers). What is measured is the
processor time of the steps after the first ones. TRL has an environment of its own, made once (1 GB; tests/trl_loss.py
says where); where it cannot be made its lines are left out.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import measure

sys.path[:0] = [str(measure.CHECKOUT), str(measure.CHECKOUT / "tests")]

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


def rows(folder: Path, size: int = 0, rounds: int = 3) -> list[measure.Row]:
    """The trainer against each of the others, on both worlds; then masks. `size` means nothing here."""
    others = {
        "bare": "a bare torch loop over the same packs",
        "trainer": "transformers.Trainer over the same packs",
        "padded": "a bare torch loop over padded rows",
        "trl": f"SFTTrainer of TRL {TRL}",
    }
    if not _has_trl():
        del others["trl"]
    found = []
    for name in WORLDS:
        world = folder / f"training-{name.replace(' ', '-')}"
        if not (world / "model").exists():
            make(name, world)
        took = measure.in_turn(
            __file__, ["ours", *others], rounds, name, world, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1"
        )
        counts = [measure.alone(__file__, "masks", name, world) for _ in range(rounds)]
        n, longest = counts[0]["tokens"], counts[0]["longest"]
        for other, told in others.items():
            mine = statistics.median(one["seconds"] for one in took["ours"])
            note = f"{n / mine:,.0f} tokens/s" if other == "bare" else ""
            if other == "padded":
                note = f"padding makes {longest / n:.2f} times as many tokens"
            found.append(measure.compared(took, f"train, {name}", "ours", told, other, note))
        masked = statistics.median(one["all"] / one["seconds"] for one in counts)
        found.append(measure.Row(f"masks, {name}", [one["seconds"] for one in counts], note=f"{masked:,.0f} tokens/s"))
    return found


def _has_trl() -> bool:
    import trl_loss

    try:
        trl_loss.environment(TRL)
    except (ConnectionError, RuntimeError):
        return False
    return True


# --- what is measured: each returns every step's processor seconds ---


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


def measured(steps: Callable[[Path, Train], list[float]]) -> Callable[..., float]:
    """All of its seconds but those of the first steps."""

    def run(out: Path, name: str, world: str) -> float:
        import torch

        torch.set_num_threads(1)
        return sum(steps(Path(world), WORLDS[name][0])[SKIPPED:])

    return run


def masks(out: Path, name: str, world: str) -> measure.Found:
    """Templates and tokenizer, for all rows; and how many tokens the measured steps have."""
    settings = WORLDS[name][0]
    _rows(Path(world), settings)
    began = time.process_time()
    made = _rows(Path(world), settings)
    took = time.process_time() - began
    batches = list(_batches(Path(world), settings))[SKIPPED + 1 :]
    return {
        "seconds": took,
        "all": sum(len(row.input_ids) for row in made),
        "tokens": sum(len(row.input_ids) for batch in batches for row in batch),
        "longest": sum(max(len(row.input_ids) for row in batch) * len(batch) for batch in batches),
    }


MEASURED = {
    "ours": measured(ours),
    "bare": measured(bare),
    "padded": measured(padded),
    "trainer": measured(trainer),
    "trl": measured(trl),
    "masks": masks,
}


# --- the parts they share ---


def _rows(world: Path, settings: Train) -> list[Any]:
    from trajkit.selection.dataset import read
    from trajkit.tokens.masks import Masks
    from trajkit.tokens.tokenizer import load_tokenizer

    masks = Masks(load_tokenizer(world / "model"), context=settings.context)
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


# --- the worlds ---


def make(name: str, folder: Path) -> Path:
    """A folder with sft.parquet and model/."""
    folder.mkdir(parents=True, exist_ok=True)
    import pyarrow.parquet as pq

    from envs.webshop import Expert, Novice, TinyExpert, TinyShop, WebShop
    from train import scratch
    from trajkit.exploration.explore import Settings, explore
    from trajkit.selection.dataset import read
    from trajkit.selection.select import select

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


if __name__ == "__main__":
    measure.run(rows, MEASURED)
