"""Training on pairs and on values: the losses, the masks of both sides, the reference, and what goes wrong."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs torch: make setup-train")
transformers = pytest.importorskip("transformers", reason="needs transformers: make setup-train")

from model_kinds import folder_of  # noqa: E402

from train import scratch, trainer  # noqa: E402
from train.backends import load, save  # noqa: E402
from train.objectives import Pairs, Values  # noqa: E402
from train.packing import order, pack  # noqa: E402
from train.passes import one_row_a_pass, predictions  # noqa: E402
from train.settings import Scratch, Train  # noqa: E402
from train.settings import load as load_settings  # noqa: E402
from trajkit.errors import BadData, UsageError  # noqa: E402
from trajkit.selection.dataset import read  # noqa: E402
from trajkit.tokens.masks import Masks  # noqa: E402

CHECKOUT = Path(__file__).resolve().parents[1]
SMALL = Train(lr=1e-3, steps=12, batch=3, context=256, save_steps=4, backend="plain", beta=0.3)

MESSAGE = [
    ("role", pa.string()), ("content", pa.string()), ("reasoning", pa.string()), ("tool_calls", pa.string()),
    ("tool_call_id", pa.string()), ("name", pa.string()), ("weight", pa.float32()), ("token_ids", pa.list_(pa.int32())),
]  # fmt: skip


def write(path: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    """A file as `trajkit select` writes it."""
    messages = pa.large_list(pa.struct([*MESSAGE, ("value", pa.float64())] if kind == "values" else MESSAGE))
    columns = {"pairs": ["prompt", "chosen", "rejected"], "values": ["messages"]}[kind]
    name = "pair_id" if kind == "pairs" else "example_id"
    texts = [name, "level", "tools"] if kind == "pairs" else [name, "tools"]
    fields = [*((text, pa.string()) for text in texts), *((column, messages) for column in columns)]
    told = {"trajkit.method": "mine", "trajkit.kind": kind}
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(fields, metadata=told)), path)
    return path


def say(role: str, content: str, weight: float | None = None) -> dict[str, Any]:
    return {"role": role, "content": content, "weight": float(role == "assistant") if weight is None else weight}


def side(number: int, letter: str, steps: int, seen: str = "red hat") -> list[dict[str, Any]]:
    """Actions with the environment's messages between them, and mostly one behind the last."""
    turns = []
    for step in range(steps):
        turns += [say("assistant", f"click[{letter}{number}]"), say("user", f"page {step} " + f"{seen} " * step)]
    return turns[: len(turns) - number % 2]


def pair(number: int) -> dict[str, Any]:
    """Pairs of other numbers are longer or shorter."""
    prompt = [say("user", f"find hat {number}"), say("assistant", "click[start]", 0.0), say("user", "a page")]
    return {
        "pair_id": f"p{number}",
        "level": "step" if number % 3 == 0 else "trajectory",
        "prompt": prompt[: 1 if number % 2 else 3],
        "chosen": side(number, "a", 1 + number % 3),
        "rejected": side(number, "b", 1 + number % 4),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "pairs.parquet", "pairs", [pair(number) for number in range(8)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    texts = [
        message["content"] for n in range(8) for part in ("prompt", "chosen", "rejected") for message in pair(n)[part]
    ]
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return scratch.make(folder, texts, Scratch(vocabulary=300, hidden=32, layers=2, heads=2, context=256))


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(model)


def changed(**values: Any) -> Train:
    return Train(**{**vars(SMALL), **values})


def lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / trainer.METRICS).read_text().splitlines()]


def curve(out: Path) -> list[dict[str, float]]:
    """All that does not tell the time."""
    return [{key: value for key, value in line.items() if key != "tokens_per_s"} for line in lines(out)]


# --- the loss --------------------------------------------------------------------------------------


def plain_log_p(model: Any, tokenizer: Any, messages: list[dict[str, Any]]) -> tuple[Any, int]:
    """The summed log-probability of the trained actions, each with its stop token, and how many tokens that are."""
    total, tokens, start, end = torch.zeros(()), 0, "<|assistant|>", scratch.END
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    inside, said = False, iter([message for message in messages if message["role"] == "assistant"])
    for t, token in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        if inside:
            total, tokens = total + log_p[t - 1, ids[t]], tokens + 1
        inside = inside and token != end
        if token == start:
            inside = bool(next(said)["weight"])
    return total, tokens


PLAIN = [SMALL, changed(sft_weight=0.7), changed(sft_weight=2.0, sft_level="trajectory")]


@pytest.mark.parametrize(
    ("settings", "kind"), [*((settings, None) for settings in PLAIN), (PLAIN[2], "lfm2"), (PLAIN[2], "gpt_oss")]
)
def test_the_loss_is_the_plain_one(
    data: Path, model: Path, tokenizer: Any, tmp_path: Path, settings: Train, kind: str | None
) -> None:
    """Ten lines without packing, at the first step with another reference than the model, so that no term is 0.

    `kind`: a model whose rows must not be packed; both sides of a pair then have passes of their own.
    """
    if kind:
        model = folder_of(kind, tmp_path / kind, tokenizer=model)
    policy, reference = (
        transformers.AutoModelForCausalLM.from_pretrained(model).requires_grad_(False) for _ in range(2)
    )
    packed_model, _ = load(model, backend="plain", context=256, lora=None, seed=0)
    assert (one_row_a_pass(packed_model) is None) == (kind is None)
    aim = Pairs(read(data), Masks(tokenizer, context=256), settings, "plain")
    aim.refer_to(packed_model, tmp_path, 100)
    torch.manual_seed(1)
    with torch.no_grad():
        for one, other in zip(policy.parameters(), packed_model.parameters(), strict=True):
            one += 0.05 * torch.randn_like(one)
            other.copy_(one)
    batch = [6, 1, 3, 4]
    dpo, sft, sft_tokens, margins = 0.0, 0.0, 0, []
    for example in (pair(number) for number in batch):
        ratios = []
        for name in ("chosen", "rejected"):
            log_p, tokens = plain_log_p(policy, tokenizer, [*example["prompt"], *example[name]])
            ratios.append(log_p - plain_log_p(reference, tokenizer, [*example["prompt"], *example[name]])[0])
            if name == "chosen" and settings.sft_level in ("all", example["level"]):
                sft, sft_tokens = sft - float(log_p), sft_tokens + tokens
        margins.append(settings.beta * float(ratios[0] - ratios[1]))
        dpo += math.log1p(math.exp(-margins[-1])) / len(batch)
    for tokens in (1, 150, 1000):
        found: dict[str, float] = {"loss": 0.0}
        for packed in pack([aim.groups[number] for number in batch], tokens):
            loss, told = aim.part(packed_model, packed, batch)
            for key, value in {"loss": loss.item(), **told}.items():
                found[key] = found.get(key, 0.0) + value
        assert found["dpo_loss"] == pytest.approx(dpo, rel=1e-5)
        assert found["loss"] == pytest.approx(dpo + settings.sft_weight * sft / sft_tokens, rel=1e-5)
        assert found["margin"] == pytest.approx(sum(margins) / 4, rel=1e-4)
        assert found["accuracy"] == pytest.approx(sum(margin > 0 for margin in margins) / 4)
        assert found["chosen_reward"] - found["rejected_reward"] == pytest.approx(found["margin"], rel=1e-4)
    assert min(margins) < 0 < max(margins), "of both kinds"


def test_packing_changes_neither_loss_nor_gradient(data: Path, model: Path, tmp_path: Path) -> None:
    for name, settings in (("packed", changed(row_tokens=2000)), ("alone", changed(row_tokens=1))):
        trainer.train(data, model, tmp_path / name, changed(**{**vars(settings), "sft_weight": 1.0}), show=False)
    for packed, alone in zip(curve(tmp_path / "packed"), curve(tmp_path / "alone"), strict=True):
        assert packed == pytest.approx(alone, abs=2e-5)


def test_without_a_pair_of_the_level_there_is_no_sft_loss(model: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "pairs.parquet", "pairs", [pair(0), pair(3)])
    settings = changed(sft_weight=1.0, sft_level="trajectory", steps=2)
    trainer.train(data, model, tmp_path, settings, show=False)
    assert [line["sft_loss"] for line in lines(tmp_path)] == [0.0, 0.0]
    assert all(line["loss"] == line["dpo_loss"] for line in lines(tmp_path))


def test_it_begins_at_log_2_and_prefers_what_is_chosen(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.train(data, model, tmp_path, changed(lr=5e-3, steps=60, batch=8))
    first, last = lines(tmp_path)[0], lines(tmp_path)[-1]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5) and first["margin"] == pytest.approx(0, abs=1e-5)
    assert last["accuracy"] == 1.0 and last["margin"] > 1 and last["loss"] < 0.3
    err = capsys.readouterr().err
    assert "8 pairs" in err and "16 rows" in err
    assert "a pair's chosen side, p0" in err and "⟦click[a0]" in err
    assert "its rejected side, p0" in err and "⟦click[b0]" in err


# --- the masks of both sides -----------------------------------------------------------------------

words = st.text("abc <|>/[]\n", max_size=20)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=3), st.lists(words, min_size=6, max_size=6))
def test_what_the_environment_says_is_never_trained_on(
    model: Path, tokenizer: Any, said: list[tuple[str, str]], other: list[str]
) -> None:
    """With other messages of the environment the trained tokens of both sides are the same: the actions'."""

    def trained(seen: list[str]) -> list[list[int]]:
        sides = []
        for actions in zip(*said, strict=True):
            turns = [say("assistant", actions[0])]
            for action, observation in zip(actions[1:], seen, strict=False):
                turns += [say("user", observation), say("assistant", action)]
            sides.append(turns)
        one = {"pair_id": "p", "level": "step", "tools": None, "prompt": [say("user", seen[-1])]}
        one |= {"chosen": sides[0], "rejected": sides[1]}
        aim = Pairs([one], Masks(tokenizer, context=1000), SMALL, "plain")
        [[chosen, rejected]] = aim.groups
        return [
            [token for token, weight in zip(row.input_ids, row.weights, strict=True) if weight]
            for row in (chosen, rejected)
        ]

    found = trained(["x"] * 6)
    assert found == trained(other)
    end = tokenizer.convert_tokens_to_ids(scratch.END)
    for ids, actions in zip(found, zip(*said, strict=True), strict=True):
        assert ids.count(end) == len(actions)
        assert "".join(tokenizer.decode(ids).split()) == "".join("".join(f"{a}{scratch.END}" for a in actions).split())


def test_one_row_per_action_is_the_same_pair(data: Path, model: Path, tokenizer: Any, tmp_path: Path) -> None:
    """Where the template does not rewrite earlier turns, rows of one action each sum up to the same sides."""
    packed_model, _ = load(model, backend="plain", context=256, lora=None, seed=0)
    found = []
    for per_step in (False, True):
        aim = Pairs(read(data), Masks(tokenizer, context=256, per_step=per_step), SMALL, "plain")
        out = tmp_path / f"per-step-{per_step}"
        out.mkdir()
        aim.refer_to(packed_model, out, 100)
        found.append(aim.reference)
    assert max(map(len, aim.groups)) > 2
    assert torch.allclose(*found, rtol=1e-5)


# --- the reference, and a kill ---------------------------------------------------------------------


def given_as(settings: Train) -> list[str]:
    return [f"--set=train.{key}={json.dumps(value)}" for key, value in vars(settings).items() if value is not None]


@pytest.mark.slow  # three processes; that the reference is read back has a test of its own, as have the checkpoints
def test_killed_with_kill_9_it_goes_on_along_the_same_curve(data: Path, model: Path, tmp_path: Path) -> None:
    settings = changed(steps=60, save_steps=10, sft_weight=0.5)
    whole = trainer.train(data, model, tmp_path / "whole", settings, show=False)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "train.trainer", "--data", data, "--model", model, "--out", out]
    command += given_as(settings)
    env = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env, cwd=CHECKOUT)
    while process.poll() is None and not list(out.glob("checkpoint-*")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "model").exists()
    reference = (out / "reference.safetensors").stat().st_mtime_ns
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=CHECKOUT)
    assert done.returncode == 0 and "going on from step" in done.stderr
    assert curve(out) == curve(tmp_path / "whole")
    assert (out / "model/model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (out / "reference.safetensors").stat().st_mtime_ns == reference


def test_the_reference_is_read_back_and_not_computed_again(
    data: Path, model: Path, tmp_path: Path, tokenizer: Any
) -> None:
    packed_model, _ = load(model, backend="plain", context=256, lora=None, seed=0)
    aim = Pairs(read(data), Masks(tokenizer, context=256), SMALL, "plain")
    aim.refer_to(packed_model, tmp_path, 1000)
    before = aim.reference.clone()
    assert packed_model.training and before.shape == (2, 8) and bool((before < 0).all())
    with torch.no_grad():
        for parameter in packed_model.parameters():
            parameter.zero_()
    again = Pairs(read(data), Masks(tokenizer, context=256), SMALL, "plain")
    again.refer_to(packed_model, tmp_path, 1000)
    assert torch.equal(again.reference, before)


# --- adapters, settings, bad input -----------------------------------------------------------------


def test_adapters_learn_pairs_and_are_merged(data: Path, model: Path, tmp_path: Path) -> None:
    settings = changed(lr=2e-2, steps=40, batch=8, lora_rank=4)
    made = trainer.train(data, model, tmp_path, settings, show=False)
    first, last = lines(tmp_path)[0], lines(tmp_path)[-1]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert last["accuracy"] == 1.0 and last["margin"] > 1
    merged = transformers.AutoModelForCausalLM.from_pretrained(made)
    assert not [name for name, _ in merged.named_parameters() if "lora" in name] and (made / "adapter").is_dir()


def test_settings_of_pairs_hold_where_the_data_are_pairs(data: Path, model: Path, tmp_path: Path) -> None:
    where = ["--data", str(data), "--model", str(model), "--out", str(tmp_path / "out")]
    more = ["--set=pair_train.beta=0.25", "--set=pair_train.steps=2"]
    done = CliRunner().invoke(trainer.command, [*where, *given_as(changed(steps=1)), *more])
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "out/training.json").read_text())["settings"]
    assert (told["beta"], told["steps"]) == (0.25, 2) and len(lines(tmp_path / "out")) == 2


def test_settings_of_pairs_are_checked_like_the_others() -> None:
    found = load_settings([], ["train.lr=1e-3", "clone_train.lr=2e-3", "pair_train.lr=3e-3"])
    wanted = {(0, "examples"): 2e-3, (1, "values"): 1e-3, (1, "pairs"): 3e-3}
    assert {key: found.training(*key).lr for key in wanted} == wanted
    for wrong, said in (
        ("pair_train.beta=0", r"\[pair_train\] beta = 0\.0: it must be over 0"),
        ("train.sft_weight=-1", r"\[train\] sft_weight = -1\.0: it must be from 0 on"),
        ("pair_train.sft_level=both", "'trajectory' or 'step' or 'all'"),
        ("pair_train.betta=1", r"\[pair_train\] has no key betta \(did you mean beta"),
    ):
        with pytest.raises(UsageError, match=said):
            load_settings([], [wrong])


def test_a_pair_with_a_side_too_long_is_refused_or_left_out_whole(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = pair(9) | {"rejected": side(9, "b", 4, seen="zyx" * 20)}
    data = write(tmp_path / "pairs.parquet", "pairs", [pair(1), long, pair(2)])
    with pytest.raises(BadData, match=r"pair p9: its rejected side is longer than the context of 128 tokens\. Raise"):
        trainer.train(data, model, tmp_path / "a", changed(context=128), show=False)
    trainer.train(data, model, tmp_path / "b", changed(context=128, on_long="drop", batch=8), show=False)
    err = capsys.readouterr().err
    assert "3 pairs, 1 dropped as too long, 4 rows" in err
    with pytest.raises(UsageError, match=r"on_long=split: pairs cannot be cut"):
        trainer.train(data, model, tmp_path / "c", changed(context=128, on_long="split"), show=False)


def test_bad_pairs_are_refused_by_name(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no row to train on"):
        trainer.train(write(tmp_path / "none.parquet", "pairs", []), model, tmp_path / "a", SMALL, show=False)
    silent = pair(1) | {"rejected": [say("user", "?")]}
    with pytest.raises(BadData, match="example p1, rejected: no message to train on"):
        trainer.train(write(tmp_path / "silent.parquet", "pairs", [silent]), model, tmp_path / "b", SMALL, show=False)
    wild = changed(lr=1e30, clip=1e30, warmup=0.0, save_steps=1)
    data = write(tmp_path / "wild.parquet", "pairs", [pair(1), pair(2)])
    with pytest.raises(Exception, match=r"the loss is .* The batch: p[12], p[12]\. "):
        trainer.train(data, model, tmp_path / "c", wild, show=False)


def test_a_training_from_before_a_setting_existed_is_the_same(data: Path, model: Path, tmp_path: Path) -> None:
    made = trainer.train(data, model, tmp_path, changed(beta=0.1), show=False)
    path = tmp_path / "training.json"
    told = json.loads(path.read_text())
    for name in ("beta", "sft_weight", "sft_level"):
        del told["settings"][name]
    path.write_text(json.dumps(told))
    assert trainer.train(data, model, tmp_path, changed(beta=0.1), show=False) == made


# --- values ----------------------------------------------------------------------------------------


def valued(number: int) -> dict[str, Any]:
    """A trajectory in which a good action is worth 1, a bad one 0.2, and the second action has no value."""
    chance = random.Random(number)
    turns = [say("user", f"find hat {number % 8}")]
    for step in range(1 + number % 4):
        good = chance.random() < 0.5
        value = None if step == 1 else 1.0 if good else 0.2
        action = say("assistant", f"click[{'a' if good else 'b'}{chance.randrange(8)}]", float(value is not None))
        turns += [action | {"value": value}, say("user", f"page {step}")]
    return {"example_id": f"v{number}", "messages": turns}


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("values") / "v.parquet", "values", [valued(number) for number in range(24)])


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_regression_learns_and_what_is_saved_predicts_in_transformers(
    values: Path, model: Path, tokenizer: Any, tmp_path: Path, lora_rank: int
) -> None:
    settings = changed(lr=1e-2, steps=60, batch=24, lora_rank=lora_rank)
    made = trainer.train(values, model, tmp_path, settings, show=False)
    losses = [line["loss"] for line in lines(tmp_path)]
    assert losses[-1] < 0.02 < losses[0]

    ours, _ = load(made, backend="plain", context=256, lora=None, seed=0, head=True)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(made)
    assert theirs.config.num_labels == 1
    aim = Values(read(values), Masks(tokenizer, context=256))
    [packed] = pack(aim.groups[:9], 10_000)
    with torch.no_grad():
        predicted = predictions(ours.eval(), packed).tolist()
    wanted, alone = [], []
    for number in dict.fromkeys(packed.groups):
        messages = valued(number)["messages"]
        for at, message in enumerate(messages):
            if message.get("value") is not None:
                text = tokenizer.apply_chat_template(messages[: at + 1], tokenize=False).rstrip()
                ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
                assert tokenizer.decode(ids[0, -1]) == scratch.END
                with torch.no_grad():
                    alone.append(float(theirs(ids).logits))
                wanted.append(message["value"])
    assert predicted == pytest.approx(alone, abs=1e-5)
    assert predicted == pytest.approx(wanted, abs=0.45)
    assert len(predicted) == sum(len(aim.values[number]) for number in set(packed.groups))


@pytest.mark.parametrize("kind", ["qwen3_next", "gpt_oss"])
def test_values_of_models_whose_rows_are_not_packed(values: Path, model: Path, tmp_path: Path, kind: str) -> None:
    folder = folder_of(kind, tmp_path / kind, tokenizer=model)
    ours, tokenizer = load(folder, backend="plain", context=256, lora=None, seed=0, head=True)
    assert one_row_a_pass(ours) is not None
    aim = Values(read(values), Masks(tokenizer, context=256))
    [packed] = pack(aim.groups[:5], 10_000)
    with torch.no_grad():
        predicted = predictions(ours.eval(), packed).tolist()
        ours.set_attn_implementation("eager")
        alone = []
        for number in packed.groups:
            [row] = aim.groups[number]
            ends = [at for at, weight in enumerate(row.weights) if weight]
            alone += [ours(torch.tensor([row.input_ids[: end + 1]])).logits.item() for end in ends]
    assert predicted == pytest.approx(alone, abs=1e-4) and len(alone) > 5


def test_values_are_read_where_the_action_ends_and_nowhere_else(tokenizer: Any) -> None:
    examples_ = [valued(number) | {"tools": None} for number in range(4)]
    for example in examples_:
        for message in example["messages"]:
            if message.get("value") is None:
                message.pop("value", None)
    end = tokenizer.convert_tokens_to_ids(scratch.END)
    for per_step in (False, True):
        aim = Values(examples_, Masks(tokenizer, context=256, per_step=per_step))
        wanted = [m["value"] for e in examples_ for m in e["messages"] if "value" in m]
        assert [value for found in aim.values for value in found] == wanted and aim.counts["values"] == len(wanted)
        for [row] in aim.groups:
            marked = [token for token, weight in zip(row.input_ids, row.weights, strict=True) if weight]
            assert marked and set(marked) == {end}


def test_the_regression_loss_is_the_mean_over_values(values: Path, model: Path, tokenizer: Any) -> None:
    loaded, _ = load(model, backend="plain", context=256, lora=None, seed=0, head=True)
    aim = Values(read(values), Masks(tokenizer, context=256))
    batch = next(order(len(aim.groups), 5, 1, 0))
    errors = []
    for number in batch:
        [packed] = pack([aim.groups[number]], 1000)
        for predicted, value in zip(predictions(loaded, packed).tolist(), aim.values[number], strict=True):
            errors.append((predicted - value) ** 2)
    passes: Iterable[Any] = pack([aim.groups[number] for number in batch], 60)
    loss = sum(aim.part(loaded, packed, batch)[0].item() for packed in passes)
    assert loss == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_a_padding_token_that_is_the_stop_token_is_no_padding_for_the_head(model: Path, tmp_path: Path) -> None:
    loaded, words = load(model, backend="plain", context=64, lora=None, seed=0, head=True)
    stop = words.convert_tokens_to_ids(scratch.END)
    words.pad_token = scratch.END
    save(loaded, words, tmp_path / "out", stop_ids=[stop])
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    ids = torch.tensor([[5, 6, stop]])
    with torch.no_grad():
        hidden = again.model(ids).last_hidden_state[0, -1]
        assert float(again(ids).logits) == pytest.approx(float(again.score(hidden)), abs=1e-6)


def test_values_without_any_and_the_other_backend_are_refused(values: Path, model: Path, tmp_path: Path) -> None:
    bare = valued(0)
    for message in bare["messages"]:
        message.pop("value", None)
    with pytest.raises(BadData, match="example v0: no action of it has a value"):
        trainer.train(write(tmp_path / "v.parquet", "values", [bare]), model, tmp_path / "a", SMALL, show=False)
    with pytest.raises(UsageError, match="values are trained on with the backend plain"):
        trainer.train(values, model, tmp_path / "b", changed(backend="unsloth"), show=False)
