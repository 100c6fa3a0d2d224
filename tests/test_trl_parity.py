"""The losses are the ones of TRL's SFTTrainer and DPOTrainer, step by step, on the same rows.

Both SFT losses take the mean over all trained tokens of a step's rows, however these are spread over passes: TRL counts
the labels of the whole accumulated batch (num_items_in_batch), not of each micro-batch, so 1 row a pass x 6, 3 x 2 and
our packs of any length are the same number. Set alike: AdamW (betas 0.9 and 0.999, eps 1e-8), clipping at norm 1, no
weight decay, half a cosine down to 0. Not alike, so turned off here: the warm-up (transformers begins at a learning
rate of 0, and its first step changes nothing; ours begins one step up) and the shuffling. TRL knows no loss weights
other than 0 and 1. Its DPOTrainer knows no masks: the test puts ours in. Its "sft" loss is the mean over the chosen
tokens of the batch, like ours.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import trl_loss

torch = pytest.importorskip("torch", reason="needs torch: make setup-train")
transformers = pytest.importorskip("transformers", reason="needs transformers: make setup-train")

import test_dpo  # noqa: E402

from train import scratch, trainer  # noqa: E402
from train.objectives import Pairs  # noqa: E402
from train.packing import order  # noqa: E402
from train.settings import Scratch, Train  # noqa: E402
from trajkit.runs.records import record  # noqa: E402
from trajkit.runs.writer import RunWriter  # noqa: E402
from trajkit.selection.dataset import read  # noqa: E402
from trajkit.selection.select import select  # noqa: E402
from trajkit.tokens.masks import Masks  # noqa: E402

STEPS, BATCH = 12, 6
SETTINGS = Train(
    lr=2e-3, steps=STEPS, batch=BATCH, context=256, row_tokens=100, warmup=0.0, weight_decay=0.0, backend="plain"
)


def talk(number: int) -> list[dict[str, str]]:
    """A conversation; those of other numbers are longer or shorter."""
    turns = [{"role": "user", "content": f"find hat {number}"}]
    for step in range(1 + number % 4):
        turns += [
            {"role": "assistant", "content": f"click[{'abc'[(number + step) % 3]}] " + "because " * (number % 5)},
            {"role": "user", "content": f"page {step} " + "red hat " * (number % 3)},
        ]
    return turns


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    with RunWriter(folder / "runs") as writer:
        for number in range(2 * BATCH):
            writer.add(record(task_id=f"t{number}", role="expert", messages=talk(number), success=True))
    select(folder / "runs", folder / "sft.parquet", "sft_pos")
    return folder / "sft.parquet"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    texts = [message["content"] for number in range(2 * BATCH) for message in talk(number)]
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return scratch.make(folder, texts, Scratch(vocabulary=320, hidden=32, layers=2, heads=2, context=256))


@pytest.fixture(scope="module")
def ours(data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    out = tmp_path_factory.mktemp("ours")
    trainer.train(data, model, out, SETTINGS, show=False)
    return [json.loads(line) for line in (out / trainer.METRICS).read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("rows_a_pass", [BATCH, 2])
@pytest.mark.parametrize("trl", ["1.14.2", "1.16.0"])
def test_every_step_has_the_loss_of_trls_sfttrainer(
    data: Path, model: Path, ours: list[dict[str, float]], trl: str, rows_a_pass: int
) -> None:
    try:
        trl_loss.environment(trl)
    except ConnectionError as error:
        pytest.skip(str(error))
    rows = list(Masks(transformers.AutoTokenizer.from_pretrained(model), context=256).rows(read(data)))
    assert len({len(row.input_ids) for row in rows}) > 5
    in_order = [rows[number] for step in order(len(rows), BATCH, STEPS, SETTINGS.seed) for number in step]
    theirs = trl_loss.run(
        trl,
        model,
        in_order,
        per_device_train_batch_size=rows_a_pass,
        gradient_accumulation_steps=BATCH // rows_a_pass,
        learning_rate=SETTINGS.lr,
        lr_scheduler_type="cosine",
        warmup_steps=0,
        weight_decay=SETTINGS.weight_decay,
        max_grad_norm=SETTINGS.clip,
    )
    assert len(ours) == len(theirs) == STEPS
    assert ours[-1]["loss"] < 0.9 * ours[0]["loss"]
    for mine, step in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(step["loss"], abs=1e-5)
        assert mine["grad_norm"] == pytest.approx(step["grad_norm"], rel=1e-3)
        assert mine["lr"] == pytest.approx(step["lr"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("sft_weight", [0.0, 0.5])
@pytest.mark.parametrize("trl", ["1.14.2", "1.16.0"])
def test_every_step_on_pairs_has_the_loss_of_trls_dpotrainer(
    model: Path, tmp_path: Path, trl: str, sft_weight: float
) -> None:
    try:
        trl_loss.environment(trl)
    except ConnectionError as error:
        pytest.skip(str(error))
    pairs = [test_dpo.pair(number) for number in range(2 * BATCH)]
    data = test_dpo.write(tmp_path / "pairs.parquet", "pairs", pairs)
    settings = replace(SETTINGS, beta=0.2, sft_weight=sft_weight, row_tokens=200)
    trainer.train(data, model, tmp_path / "out", settings, show=False)
    ours = [json.loads(line) for line in (tmp_path / "out" / trainer.METRICS).read_text().splitlines()]
    masks = Masks(transformers.AutoTokenizer.from_pretrained(model), context=256)
    rows = Pairs(read(data), masks, settings, "plain").groups
    in_order = [rows[number] for step in order(len(rows), BATCH, STEPS, settings.seed) for number in step]
    masked = ["".join(str(int(weight)) for weight in row.weights) for group in rows for row in group]
    assert sum("01" in mask[mask.index("1") :] for mask in masked) > BATCH, "the environment's words lie between"
    theirs = trl_loss.run_dpo(
        trl,
        model,
        [(chosen, rejected) for chosen, rejected in in_order],
        per_device_train_batch_size=BATCH,
        learning_rate=settings.lr,
        lr_scheduler_type="cosine",
        warmup_steps=0,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        beta=settings.beta,
        loss_type=["sigmoid", "sft"] if sft_weight else ["sigmoid"],
        loss_weights=[1.0, sft_weight] if sft_weight else [1.0],
    )
    assert len(ours) == len(theirs) == STEPS
    assert ours[-1]["loss"] < 0.9 * ours[0]["loss"] and ours[-1]["margin"] > 0.1
    for mine, step in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(step["loss"], abs=1e-5)
        assert mine["grad_norm"] == pytest.approx(step["grad_norm"], rel=1e-3)
        assert mine["lr"] == pytest.approx(step["lr"], rel=1e-6)
        for name in ("margin", "accuracy", "chosen_reward", "rejected_reward"):
            assert mine[name] == pytest.approx(step[name], abs=1e-4)
