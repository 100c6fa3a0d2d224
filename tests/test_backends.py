"""Loading a model for training and saving it, on a CPU; what needs a GPU is refused here and says why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="trains")
pytest.importorskip("peft", reason="trains adapters")

from model_server import TEMPLATE, make_tokenizer  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM  # noqa: E402

from train import backends  # noqa: E402
from train.backends import Lora, default_backend, load, save  # noqa: E402
from train.packing import Pack  # noqa: E402
from train.passes import nll_sum  # noqa: E402
from trajkit.errors import TrajkitError, UsageError  # noqa: E402

END = 1  # <|im_end|>


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder."""
    return made(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module", params=[False, True], ids=["own head", "tied head"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder, the last layer being the embedding or not."""
    return made(tmp_path_factory.mktemp("made"), tied=request.param)


def made(folder: Path, tied: bool = False) -> Path:
    """A tiny Llama and its tokenizer, made from scratch."""
    make_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=7,
    )
    model: Any = LlamaForCausalLM
    model(config).save_pretrained(folder)
    return folder


def loaded(folder: Path, lora: Lora | None = None, **changed: Any) -> tuple[Any, Any]:
    """As the trainer loads it."""
    settings: dict[str, Any] = {"backend": "plain", "context": 64, "lora": lora, "seed": 1}
    return load(folder, **(settings | changed))


def logits(model: Any, ids: list[int]) -> Any:
    """What it predicts, [T, vocabulary]."""
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits[0]


def trained_a_little(model: Any) -> None:
    """Some other weights, the adapters' included."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)


def test_the_whole_model_comes_back(either: Path, tmp_path: Path) -> None:
    model, tokenizer = loaded(either)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    trained_a_little(model)
    save(model, tokenizer, tmp_path / "out", stop_ids=[END])
    again, words = loaded(tmp_path / "out")
    assert torch.equal(logits(again, [3, 4, 5]), logits(model, [3, 4, 5]))
    assert words.chat_template == TEMPLATE
    assert words.get_vocab() == tokenizer.get_vocab()
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [7, END]
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(load_file(either / "model.safetensors"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "no temporary folder stays"


def test_merged_adapters_are_the_adapted_model(either: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    model, tokenizer = loaded(either, Lora(rank=4, alpha=8))
    trained_a_little(model)
    wanted = logits(model, [3, 4, 5, 6])
    assert not torch.allclose(wanted, logits(loaded(either)[0], [3, 4, 5, 6]), atol=1e-3), "the adapters do something"
    save(model, tokenizer, tmp_path / "out", stop_ids=[END])
    assert torch.equal(logits(model, [3, 4, 5, 6]), wanted), "saving leaves the model alone"
    merged = logits(loaded(tmp_path / "out")[0], [3, 4, 5, 6])
    assert torch.allclose(merged, wanted, atol=1e-5)
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(load_file(either / "model.safetensors"))
    alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(either), tmp_path / "out" / "adapter")
    assert torch.allclose(logits(alone, [3, 4, 5, 6]), wanted, atol=1e-6)


def test_adapters_are_what_is_trained_and_their_start_is_seeded(folder: Path) -> None:
    model, _ = loaded(folder, Lora(rank=4))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    layers = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained}
    assert layers == set(backends.LINEAR), "both backends adapt the same layers"

    def start(seed: int) -> Any:
        state = loaded(folder, Lora(rank=4), seed=seed)[0].state_dict()
        return torch.cat([weight.ravel() for name, weight in state.items() if ".lora_A" in name])

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


def test_bfloat16_for_the_server(either: Path, tmp_path: Path) -> None:
    model, tokenizer = loaded(either)
    save(model, tokenizer, tmp_path / "out", dtype=torch.bfloat16)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert next(model.parameters()).dtype == torch.float32, "the model itself stays as it is"


def test_a_finished_folder_is_replaced_whole(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = loaded(folder)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale").write_text("of an earlier run")
    save(model, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out" / "stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_disk_that_is_full(folder: Path, tmp_path: Path) -> None:
    """The system's limit on a file's size gives the same error in the middle of the same write."""
    program = f"""
import resource, signal, sys
from pathlib import Path
from train.backends import load, save
model, tokenizer = load(Path({str(folder)!r}), backend="plain", context=64, lora=None, seed=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
save(model, tokenizer, Path({str(tmp_path / "out")!r}))
"""
    run = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert run.returncode == 1
    assert f"TrajkitError: {tmp_path / 'out'} cannot be saved, and nothing of it was" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_killed_in_the_middle_of_a_save(folder: Path, tmp_path: Path) -> None:
    """The temporary folder stays, under no name that a later run reads, and the next save clears it away."""
    program = f"""
import time
from pathlib import Path
from train import backends
model, tokenizer = backends.load(Path({str(folder)!r}), backend="plain", context=64, lora=None, seed=1)
backends.save_tokenizer = lambda tokenizer, folder: time.sleep(600)  # the weights are written, the tokenizer is not
backends.save(model, tokenizer, Path({str(tmp_path / "out")!r}))
"""
    saver = subprocess.Popen([sys.executable, "-c", program], env=environment())
    temporary = tmp_path / ".out.tmp"
    try:
        end = time.monotonic() + 600
        while not (temporary / "model.safetensors").exists() and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        saver.send_signal(signal.SIGKILL)
        saver.wait()
    assert [path.name for path in tmp_path.iterdir()] == [".out.tmp"]
    save(*loaded(folder), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("shared", [1.0, 0.5, None], ids=["weights 1", "weights one half", "weights of all kinds"])
def test_the_loss_for_unsloth_is_the_sum_over_sequences(folder: Path, shared: float | None) -> None:
    """On transformers' own layers, which take the same arguments: packed as alone, for any weights."""
    model, _ = loaded(folder)
    model.set_attn_implementation("sdpa")  # which goes by position_ids, as Unsloth's does by packed_seq_lengths
    torch.manual_seed(3)
    lengths = [5, 9, 2, 7]
    rows = [torch.randint(2, 300, (length,)) for length in lengths]
    weights = [torch.rand(length).round() * shared if shared else torch.rand(length) for length in lengths]
    for weight in weights:
        weight[0] = 0
    weights[0][1] = shared or 0.3
    wanted = torch.zeros(())
    for row, weight in zip(rows, weights, strict=True):
        predicted = model(row[None]).logits[0].log_softmax(-1)
        wanted = wanted - (weight[1:] * predicted[:-1].gather(1, row[1:, None])[:, 0]).sum()
    positions = torch.cat([torch.arange(length) for length in lengths])
    pack = Pack(torch.cat(rows)[None], positions[None], torch.cat(weights)[None], lengths, [0, 1, 2, 3])
    packed = nll_sum(model, pack, "unsloth")
    assert packed.shape == ()
    assert packed.item() == pytest.approx(wanted.item(), rel=1e-5)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for ours, theirs in zip(
        torch.autograd.grad(packed / 10, parameters), torch.autograd.grad(wanted / 10, parameters), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_what_is_no_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs config\.json"):
        loaded(tmp_path / "none")
    copy = copied(folder, tmp_path / "torn")
    (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(UsageError, match="torn: transformers cannot load it"):
        loaded(copy)
    copy = copied(folder, tmp_path / "odd")
    (copy / "config.json").write_text('{"model_type": "no such type"}')
    with pytest.raises(UsageError, match="odd: transformers cannot load it"):
        loaded(copy)
    copy = copied(folder, tmp_path / "deeper")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(UsageError, match=r"9 of the model's weights are not there, model\.layers\.2"):
        loaded(copy)


def test_a_tokenizer_that_does_not_fit(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path / "grown")
    words = loaded(folder)[1]
    words.add_tokens([f"<{number}>" for number in range(200)])
    words.save_pretrained(copy)
    needed = max(words.get_vocab().values()) + 1
    with pytest.raises(UsageError, match=f"ids need {needed} embeddings, but the model has 400: take the model's own"):
        loaded(copy)
    copy = copied(folder, tmp_path / "silent")
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(UsageError, match="no chat template"):
        loaded(copy)
    with pytest.raises(UsageError, match="context is 129, but the model has 128 positions"):
        loaded(folder, context=129)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_unsloth_needs_a_gpu(folder: Path) -> None:
    assert default_backend() == "plain"
    with pytest.raises(UsageError, match="needs a GPU, and there is none here: take the backend plain"):
        loaded(folder, backend="unsloth")


def test_stop_ids_are_added_once(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = loaded(folder)
    for _ in range(2):
        save(model, tokenizer, tmp_path / "out", stop_ids=[END, 7])
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [7, END]


def test_saving_where_nothing_can_be(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrajkitError, match="cannot be saved"):
        save(*loaded(folder), tmp_path / "file" / "out")


def copied(folder: Path, to: Path) -> Path:
    """A folder to spoil."""
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def environment() -> dict[str, str]:
    """For a process that imports train/."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
