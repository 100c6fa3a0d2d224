"""The training loop: packing, what a row can see, the curve after a kill, and what goes wrong."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs torch: make setup-train")
transformers = pytest.importorskip("transformers", reason="needs transformers: make setup-train")

from model_kinds import folder_of  # noqa: E402

from train import scratch, trainer  # noqa: E402
from train.attention import NAME as PACKED  # noqa: E402
from train.packing import order, pack, steps_of  # noqa: E402
from train.passes import nll_sum  # noqa: E402
from train.settings import Scratch, Train  # noqa: E402
from trajkit.errors import BadData, TrajkitError, UsageError  # noqa: E402
from trajkit.runs.records import record  # noqa: E402
from trajkit.runs.writer import RunWriter  # noqa: E402
from trajkit.selection.select import select  # noqa: E402
from trajkit.tokens.masks import Row  # noqa: E402

SMALL = Train(lr=1e-3, steps=12, batch=3, context=128, save_steps=4, backend="plain")


def told(settings: Train) -> list[str]:
    return [f"--set=train.{key}={json.dumps(value)}" for key, value in vars(settings).items() if value is not None]


CHECKOUT = Path(__file__).resolve().parents[1]


def talk(number: int) -> list[dict[str, Any]]:
    """A conversation whose length differs from number to number."""
    turns = [{"role": "user", "content": f"find hat {number}"}]
    for step in range(1 + number % 4):
        turns += [
            {"role": "assistant", "content": f"click[{'abc'[(number + step) % 3]}]"},
            {"role": "user", "content": f"page {step} " + "red hat " * (number % 3)},
        ]
    return turns


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    with RunWriter(folder / "runs") as writer:
        for number in range(10):
            writer.add(record(task_id=f"t{number}", role="expert", messages=talk(number), success=True))
    select(folder / "runs", folder / "sft.parquet", "sft_pos")
    return folder / "sft.parquet"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    texts = [message["content"] for number in range(10) for message in talk(number)]
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return scratch.make(folder, texts, Scratch(vocabulary=300, hidden=32, layers=2, heads=2, context=256))


def curve(out: Path) -> list[tuple[int, float, float, float]]:
    lines = [json.loads(line) for line in (out / trainer.METRICS).read_text().splitlines()]
    return [(line["step"], line["loss"], line["lr"], line["grad_norm"]) for line in lines]


def test_training_learns_and_leaves_a_model_that_transformers_loads(data: Path, model: Path, tmp_path: Path) -> None:
    made = trainer.train(
        data, model, tmp_path / "out", Train(lr=1e-2, steps=120, batch=5, context=128, backend="plain")
    )
    losses = [loss for _, loss, _, _ in curve(tmp_path / "out")]
    assert losses[-1] < 0.5 * losses[0]
    assert (made / "model.safetensors").exists() and not list((tmp_path / "out").glob("checkpoint-*"))
    assert list((tmp_path / "out" / "tensorboard").glob("events*"))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(made)
    tokenizer = transformers.AutoTokenizer.from_pretrained(made)
    ids = tokenizer.apply_chat_template(talk(1)[:1], add_generation_prompt=True, return_tensors="pt")["input_ids"]
    said = loaded.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(said).startswith("click[") and said[-1] == tokenizer.convert_tokens_to_ids(scratch.END)


def test_the_same_seed_gives_the_same_model_and_another_one_another(data: Path, model: Path, tmp_path: Path) -> None:
    weights = [
        (trainer.train(data, model, tmp_path / name, settings, show=False) / "model.safetensors").read_bytes()
        for name, settings in (("a", SMALL), ("b", SMALL), ("c", Train(**{**vars(SMALL), "seed": 1})))
    ]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_packing_changes_neither_loss_nor_gradient(data: Path, model: Path, tmp_path: Path, lora_rank: int) -> None:
    """Rows together in one pass against each row in a pass of its own, and against transformers' own padded loss."""
    curves = []
    for name, row_tokens in (("packed", 1000), ("alone", 1)):
        settings = Train(**{**vars(SMALL), "row_tokens": row_tokens, "lora_rank": lora_rank})
        trainer.train(data, model, tmp_path / name, settings, show=False)
        curves.append(curve(tmp_path / name))
    for packed, alone in zip(*curves, strict=True):
        assert packed == pytest.approx(alone, abs=1e-5)


def test_the_loss_is_transformers_own(model: Path) -> None:
    rows = []
    for n in range(4):
        ids, weights = [5 + (n * k) % 90 for k in range(1, 9 + n)], [float(k % 2) for k in range(7 + n)]
        rows.append(Row(str(n), ids, [0.0, *weights]))
    packed_model = transformers.AutoModelForCausalLM.from_pretrained(model, attn_implementation=PACKED)
    plain_model = transformers.AutoModelForCausalLM.from_pretrained(model)
    [packed] = pack([[row] for row in rows], 1000)
    ours = nll_sum(packed_model, packed)
    longest = max(len(row.input_ids) for row in rows)
    padded, labels = torch.zeros(4, longest, dtype=torch.long), torch.full((4, longest), -100)
    attention = torch.zeros_like(padded)
    for n, row in enumerate(rows):
        padded[n, : len(row.input_ids)] = torch.tensor(row.input_ids)
        labels[n, : len(row.input_ids)] = torch.tensor(
            [token if weight else -100 for token, weight in zip(row.input_ids, row.weights, strict=True)]
        )
        attention[n, : len(row.input_ids)] = 1
    theirs = plain_model(input_ids=padded, attention_mask=attention, labels=labels, num_items_in_batch=1).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_a_row_sees_nothing_of_the_rows_it_is_packed_with(model: Path) -> None:
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model, attn_implementation=PACKED)
    own = Row("own", [5, 6, 7, 8, 9], [0.0, 1.0, 1.0, 1.0, 1.0])
    losses = []
    for token in (11, 200):
        other = Row("other", [token] * 20, [0.0] * 20)
        [packed] = pack([[own], [other]], 100)
        losses.append(nll_sum(loaded, packed).item())
    [alone] = pack([[own]], 100)
    assert losses[0] == losses[1] == pytest.approx(nll_sum(loaded, alone).item(), rel=1e-6)


def test_a_model_that_mixes_rows_is_trained_on_each_alone_and_that_is_said_once(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixing = folder_of("lfm2", tmp_path / "lfm2", tokenizer=model)
    curves = []
    for name, row_tokens in (("packed", 1000), ("alone", 1)):
        settings = Train(**{**vars(SMALL), "row_tokens": row_tokens})
        trainer.train(data, mixing, tmp_path / name, settings, show=False)
        assert capsys.readouterr().err.count("lfm2: with other rows in its forward pass") == 1
        curves.append(curve(tmp_path / name))
    for packed, alone in zip(*curves, strict=True):
        assert packed == pytest.approx(alone, abs=1e-5)
    trainer.train(data, model, tmp_path / "llama", SMALL, show=False)
    assert "pass of its own" not in capsys.readouterr().err


def test_weights_scale_the_loss_of_a_token(model: Path) -> None:
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model, attn_implementation=PACKED)
    losses = []
    for weights in ([0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.5, 2.0]):
        [packed] = pack([[Row("r", [5, 6, 7], weights)]], 100)
        losses.append(nll_sum(loaded, packed).item())
    assert losses[2] == pytest.approx(0.5 * losses[0] + 2 * losses[1], rel=1e-6)


@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=3), min_size=1, max_size=30), st.integers(1, 60))
def test_packs_hold_every_group_once_and_whole_and_are_no_longer_than_asked(
    lengths: list[list[int]], tokens: int
) -> None:
    groups = [
        [Row(str(n), [1000 * n + k] * length, [0.0] * length) for k, length in enumerate(group)]
        for n, group in enumerate(lengths)
    ]
    packs = pack(groups, tokens)
    assert Counter(n for packed in packs for n in packed.groups) == Counter({n: len(g) for n, g in enumerate(groups)})
    for packed in packs:
        total = sum(packed.lengths)
        assert total <= tokens or len(set(packed.groups)) == 1
        assert packed.input_ids.shape == packed.position_ids.shape == packed.weights.shape == (1, total)
        starts = (packed.position_ids[0] == 0).nonzero()[:, 0].tolist()
        assert starts == [sum(packed.lengths[:n]) for n in range(len(packed.lengths))]
        rows = [row for n in dict.fromkeys(packed.groups) for row in groups[n]]
        assert packed.input_ids[0].tolist() == [token for row in rows for token in row.input_ids]


@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 20), st.integers(0, 3))
def test_every_epoch_trains_each_row_once(n: int, batch: int, epochs: int, seed: int) -> None:
    steps = steps_of(n, batch, epochs)
    batches = list(order(n, batch, steps, seed))
    assert len(batches) == steps == math.ceil(n / batch) * epochs
    numbers = [number for step in batches for number in step]
    assert Counter(numbers) == dict.fromkeys(range(n), epochs)


def start_training(data: Path, model: Path, out: Path, settings: Train) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "train.trainer", "--data", data, "--model", model, "--out", out, *told(settings)]
    env = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env, cwd=CHECKOUT)


def test_killed_with_kill_9_it_goes_on_along_the_same_curve(data: Path, model: Path, tmp_path: Path) -> None:
    settings = Train(**{**vars(SMALL), "steps": 500, "save_steps": 7})
    whole = trainer.train(data, model, tmp_path / "whole", settings, show=False)
    out = tmp_path / "killed"
    for kills in range(3):
        process = start_training(data, model, out, settings)
        began = {folder.name for folder in out.glob("checkpoint-*")}
        while process.poll() is None and {f.name for f in out.glob("checkpoint-*")} == began:
            time.sleep(0.005)
        time.sleep(0.03 * kills)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (out / "model").exists()
    process = start_training(data, model, out, settings)
    _, said = process.communicate()
    assert process.returncode == 0 and "going on from step" in said, said
    assert curve(out) == curve(tmp_path / "whole")
    assert (out / "model/model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_finished_training_is_not_run_again_and_another_one_is_refused(
    data: Path, model: Path, tmp_path: Path
) -> None:
    made = trainer.train(data, model, tmp_path, SMALL, show=False)
    before = made.stat().st_mtime_ns
    assert trainer.train(data, model, tmp_path, SMALL, show=False) == made and made.stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"other train\.lr"):
        trainer.train(data, model, tmp_path, Train(**{**vars(SMALL), "lr": 2e-3}))


def test_a_loss_that_is_no_number_stops_it_with_the_last_good_checkpoint(
    data: Path, model: Path, tmp_path: Path
) -> None:
    wild = Train(**{**vars(SMALL), "lr": 1e30, "clip": 1e30, "warmup": 0.0, "save_steps": 1})
    with pytest.raises(TrajkitError, match=r"at step \d+ the loss is .*last good checkpoint is .*checkpoint-\d+"):
        trainer.train(data, model, tmp_path, wild, show=False)
    assert list(tmp_path.glob("checkpoint-*")) and not (tmp_path / "model").exists()


def test_a_full_disk_leaves_no_half_checkpoint(data: Path, model: Path, tmp_path: Path) -> None:
    """The size limit of the process stands in for the disk: writing beyond it fails as on a full one."""
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
        "import runpy, sys; sys.argv[0] = 'trainer'; runpy.run_module('train.trainer', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, "--data", data, "--model", model, "--out", tmp_path / "out", *told(SMALL)]
    env = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=CHECKOUT)
    assert done.returncode == 1 and "no checkpoint can be written" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("*checkpoint*")) and not (tmp_path / "out/model").exists()


def test_it_trains_where_polars_and_duckdb_are_not_installed(data: Path, model: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['polars'] = sys.modules['duckdb'] = None\n"
        "import runpy; sys.argv[0] = 'trainer'; runpy.run_module('train.trainer', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, "--data", data, "--model", model, "--out", tmp_path / "out", *told(SMALL)]
    env = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "out/model")


def test_bad_input_is_refused_by_name(data: Path, model: Path, tmp_path: Path) -> None:
    with RunWriter(tmp_path / "runs") as writer:
        writer.add(record(task_id="t", role="expert", messages=talk(1), success=False))
    empty = tmp_path / "empty.parquet"
    select(tmp_path / "runs", empty, "eef", allow_empty=True)
    with pytest.raises(BadData, match="no row to train on"):
        trainer.train(empty, model, tmp_path / "a", SMALL)
    with pytest.raises(UsageError, match="there is no such file"):
        trainer.train(tmp_path / "none.parquet", model, tmp_path / "b", SMALL)
    other = tmp_path / "other.parquet"
    other.write_bytes(b"no parquet at all")
    with pytest.raises(BadData, match=r"other\.parquet: no whole Parquet"):
        trainer.train(other, model, tmp_path / "c", SMALL)
    odd = pa.table({"example_id": ["e"]})
    pq.write_table(odd.replace_schema_metadata({"trajkit.method": "mine"}), tmp_path / "odd.parquet")
    with pytest.raises(BadData, match="it has no column messages, tools"):
        trainer.train(tmp_path / "odd.parquet", model, tmp_path / "d", SMALL)
    told = {"trajkit.method": "mine", "trajkit.kind": "opinions"}
    pq.write_table(odd.replace_schema_metadata(told), tmp_path / "odd.parquet")
    with pytest.raises(BadData, match="it holds 'opinions'; known are examples, pairs, values"):
        trainer.train(tmp_path / "odd.parquet", model, tmp_path / "d", SMALL)
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(UsageError, match="no chat template"):
        trainer.train(data, bare, tmp_path / "e", SMALL)
    with pytest.raises(UsageError, match="there is no such folder"):
        trainer.train(data, tmp_path / "nowhere", tmp_path / "f", SMALL)


def test_the_sample_shows_what_is_trained_also_without_colour(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    context, said = (tokenizer.encode(text, add_special_tokens=False) for text in ("find \x1b[2J[bold]hat", "click[a]"))
    row = Row("x", [*context, *said], [0.0] * len(context) + [1.0] * len(said))
    trainer.print_sample(row, tokenizer)
    err = capsys.readouterr().err
    assert "[bold]hat⟦click[a]⟧" in err and "\x1b[2J" not in err
    monkeypatch.setenv("FORCE_COLOR", "1")
    trainer.print_sample(row, tokenizer)
    assert "\x1b[1;32mclick[a]" in capsys.readouterr().err
