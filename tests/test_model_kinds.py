"""Training models of many architectures: each row's loss and gradient are what transformers computes for it alone.

A model whose layers mix the rows of a pack, or whose attention is not train/attention.py's, is found at loading.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch: make setup-train")
pytest.importorskip("peft", reason="trains adapters")

from model_kinds import KINDS, folder_of, model_of  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from train.attention import NAME as PACKED  # noqa: E402
from train.backends import Lora, load  # noqa: E402
from train.packing import Pack, pack  # noqa: E402
from train.passes import nll_sum, one_row_a_pass  # noqa: E402
from train.probe import probe  # noqa: E402
from trajkit.errors import UsageError  # noqa: E402
from trajkit.tokens.masks import Row  # noqa: E402

TOGETHER = [
    "llama", "qwen3", "qwen3_moe", "mistral", "gemma3", "phi3", "olmo2", "glm4", "deepseek_v3", "smollm3", "cohere2",
    "gpt2", "gpt_neo",
]  # fmt: skip
MIXING = [
    "qwen3_next", "qwen3_5", "lfm2", "falcon_h1", "mamba", "mamba2", "granitemoehybrid", "recurrent_gemma", "bloom",
    "mpt",
]  # fmt: skip
OTHER_ATTENTION = ["gpt_oss", "llama4"]
REFUSING = ["gemma2"]
APART = MIXING + OTHER_ATTENTION + REFUSING
IDS = range(2, 400)


def some_rows() -> list[Row]:
    """Five rows of several lengths and weights, one of them without any."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for number, length in enumerate((31, 9, 50, 2, 20)):
        weights = torch.rand(length, generator=generator) * (torch.rand(length, generator=generator) > 0.4)
        weights[0] = 0
        weights *= number != 1
        weights[-1] += number == 3
        rows.append(Row(str(number), torch.randint(2, 400, (length,), generator=generator).tolist(), weights.tolist()))
    return rows


def row_by_row(model: Any, rows: list[Row]) -> Any:
    """The weighted sum of -log p, a row at a time, in plain transformers."""
    total = torch.zeros(())
    for row in rows:
        ids = torch.tensor(row.input_ids)
        log_p = model(input_ids=ids[None], use_cache=False).logits[0, :-1].log_softmax(-1)
        total = total - (log_p.gather(1, ids[1:, None])[:, 0] * torch.tensor(row.weights[1:])).sum()
    return total


def gradients(loss: Any, model: Any) -> dict[str, Any]:
    """By parameter's name; those that have none are 0."""
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for name, parameter, gradient in zip(names, parameters, found, strict=True)
    }


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Gradients are the same but for rounding, each beside the largest of its tensor."""
    assert ours.keys() == theirs.keys()
    largest = max(gradient.abs().max().item() for gradient in theirs.values())
    for name, gradient in theirs.items():
        off = (ours[name] - gradient).abs().max().item()
        assert off <= 2e-4 * gradient.abs().max().item() + 1e-6 * largest, name


def packed(rows: list[Row]) -> Pack:
    [one] = pack([[row] for row in rows], 1000)
    order = [rows[group] for group in one.groups]
    assert [len(row.input_ids) for row in order] == one.lengths and len(one.lengths) == len(rows)
    return one


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes a kind's folder once."""
    torch.set_num_threads(1)
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = folder_of(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return folder


def test_every_kind_is_told_what_to_expect() -> None:
    assert sorted([*TOGETHER, *APART, "bert"]) == sorted(KINDS)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("kind", [*TOGETHER, *APART])
def test_loss_and_gradient_are_those_of_each_row_alone(folders: Any, kind: str, checkpointing: bool) -> None:
    model, _ = load(folders(kind), backend="plain", context=64, lora=None, seed=0)
    why = one_row_a_pass(model)
    assert (why is None) == (kind in TOGETHER), why
    if kind in OTHER_ATTENTION:
        assert why is not None and "attention is another one" in why
    if kind in MIXING:
        assert why is not None and "with other rows in its forward pass" in why
    if checkpointing:
        if not model.supports_gradient_checkpointing:
            pytest.skip("this kind has none")
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    rows = some_rows()
    ours = nll_sum(model, packed(rows))
    plain = AutoModelForCausalLM.from_pretrained(folders(kind), attn_implementation="eager", dtype=torch.float32)
    theirs = row_by_row(plain, rows)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert_same(gradients(ours, model), gradients(theirs, plain))


@pytest.mark.parametrize("kind", ["llama", "qwen3_next", "lfm2", "gpt_oss"])
def test_adapters_get_the_gradient_of_each_row_alone(folders: Any, kind: str) -> None:
    model, _ = load(folders(kind), backend="plain", context=64, lora=Lora(4, 8), seed=0)
    assert (one_row_a_pass(model) is None) == (kind in TOGETHER)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    rows = some_rows()
    ours = nll_sum(model, packed(rows))
    ours_gradients = gradients(ours, model)
    model.set_attn_implementation("eager")
    theirs = row_by_row(model, rows)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert_same(ours_gradients, gradients(theirs, model))


@pytest.mark.parametrize("kind", [*TOGETHER, *APART])
def test_packing_where_the_probe_says_not_to_would_be_wrong(kind: str) -> None:
    """What is found is there: packed under train/attention.py the loss is another one, or is none."""
    rows = some_rows()
    wanted = row_by_row(model_of(kind, **({"attn_implementation": "eager"} if kind == "gemma2" else {})), rows).item()
    model = model_of(kind)
    model.set_attn_implementation(PACKED)
    if kind in REFUSING:
        with pytest.raises(ValueError, match="softcap"):
            nll_sum(model, packed(rows))
        return
    off = abs(nll_sum(model, packed(rows)).item() / wanted - 1)
    assert off > 1e-4 if kind in APART else off < 1e-5


@pytest.mark.parametrize(
    ("kind", "context", "together", "changed"),
    [
        ("llama4", 64, False, {"attention_chunk_size": 40}),
        ("llama4", 40, True, {"attention_chunk_size": 40}),  # no row is as long as a chunk
        ("mistral", 64, True, {"sliding_window": 40}),
        (
            "phi3",  # the rotary embedding of a short row changes where a long one is in the same pass
            64,
            False,
            {
                "original_max_position_embeddings": 40, "sliding_window": None,
                "rope_parameters": {
                    "rope_type": "longrope", "rope_theta": 10000.0, "long_factor": [4.0] * 4, "short_factor": [1.0] * 4,
                    "original_max_position_embeddings": 40,
                },
            },
        ),
    ],
    ids=["chunks", "rows shorter than a chunk", "a window", "longrope"],
)  # fmt: skip
def test_what_changes_with_a_rows_length_is_met(
    tmp_path: Path, kind: str, context: int, together: bool, changed: dict[str, Any]
) -> None:
    folder = folder_of(kind, tmp_path, **changed)
    model, _ = load(folder, backend="plain", context=context, lora=None, seed=0)
    assert (one_row_a_pass(model) is None) == together
    rows = [row for row in some_rows() if len(row.input_ids) <= context]
    ours = nll_sum(model, packed(rows))
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    theirs = row_by_row(plain, rows)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert_same(gradients(ours, model), gradients(theirs, plain))


@pytest.mark.parametrize("kind", [*TOGETHER, *APART])
def test_coarse_numbers_are_judged_alike(kind: str) -> None:
    """In bfloat16, as the weights below adapters are on a GPU: tried in float32, and left as they were."""
    model = model_of(kind).bfloat16()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    probe(model, IDS, 64, "plain")
    after = model.state_dict()
    assert all(after[name].dtype == old.dtype and torch.equal(after[name], old) for name, old in before.items())
    assert (one_row_a_pass(model) is None) == (kind in TOGETHER)


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe", "gemma3", "lfm2", "qwen3_next", "falcon_h1"])
def test_the_layers_that_unsloth_runs_are_tried_too(kind: str) -> None:
    """On transformers' own layers, which go by position_ids as Unsloth's do; its kernels need a GPU."""
    model = model_of(kind).train()
    probe(model, IDS, 64, "unsloth")
    assert (one_row_a_pass(model) is None) == (kind in TOGETHER)
    assert model.training and model.config._attn_implementation == "sdpa"
    rows = some_rows()
    ours = nll_sum(model, packed(rows), "unsloth")
    theirs = row_by_row(model, rows)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert_same(gradients(ours, model), gradients(theirs, model))


def test_a_model_that_sees_what_comes_after_is_refused(folders: Any) -> None:
    with pytest.raises(UsageError, match=r"bert0: the model predicts a token also from those after it"):
        load(folders("bert"), backend="plain", context=64, lora=None, seed=0)


def test_a_model_that_does_not_run_is_refused(folders: Any) -> None:
    model = model_of("llama")
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    with pytest.raises(UsageError, match="predicts NaN"):
        probe(model, IDS, 64, "plain")
    model.model.layers[1] = torch.nn.Linear(2, 2)
    with pytest.raises(UsageError, match="the model does not run: "):
        probe(model, IDS, 64, "plain")


def test_the_probe_changes_no_luck_and_leaves_dropout_on() -> None:
    model = model_of("llama", attention_dropout=0.5).train()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    probe(model, IDS, 64, "plain")
    assert torch.equal(torch.get_rng_state(), before)
    assert one_row_a_pass(model) is None and all(module.training for module in model.modules())
