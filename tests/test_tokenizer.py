"""Tokenizers that load wrong, what is saved beside a model, and names on the hub."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="tokenizers need the extra server")

import transformers
from model_server import make_tokenizer
from small_runs import pair, write_run

from trajkit.errors import UsageError
from trajkit.tokens.tokenizer import is_hub_name, load_tokenizer, model_folder, save_tokenizer

CHECKOUT = Path(__file__).parents[1]
SAID = "it's a café,\n\n  日本語 🙂\tx = 12"


def byte_level_llama(folder: Path) -> Path:
    """A byte-level tokenizer.json beside model_type llama, as DeepSeek's distilled models have it."""
    folder.mkdir()
    make_tokenizer(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "LlamaTokenizerFast"}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def test_text_is_encoded_as_tokenizer_json_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = byte_level_llama(tmp_path / "model")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.decode(theirs.encode(SAID)) != SAID  # else transformers has mended it, and all of this may go
    ours = load_tokenizer(folder)
    assert ours.decode(ours.encode(SAID)) == SAID
    assert ours.chat_template == theirs.chat_template and ours.eos_token == theirs.eos_token
    assert ours.get_vocab().items() <= theirs.get_vocab().items()  # a LlamaTokenizer has <s> and <unk> besides
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "'it'sacaf" in told.replace('"', "'") and "tokenizer.json is used" in told


def test_a_tokenizer_that_loads_right_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tokenizer(tmp_path)
    ours, theirs = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(ours) is type(theirs)
    assert ours.encode(SAID) == theirs.encode(SAID)
    assert not capsys.readouterr().err


def test_decoded_text_keeps_its_spaces(tmp_path: Path) -> None:
    """Llama 3's configuration asks for a clean-up that takes the spaces before full stops away."""
    make_tokenizer(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"clean_up_tokenization_spaces": True}))
    made = load_tokenizer(tmp_path)
    assert made.decode(made.encode("ls . , do n't")) == "ls . , do n't"


def test_a_tokenizer_json_of_another_vocabulary_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = byte_level_llama(tmp_path / "model")
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    vocab = data["model"]["vocab"]
    one, other = sorted(vocab, key=vocab.__getitem__)[20:22]
    load = transformers.AutoTokenizer.from_pretrained

    def of_another_file(folder: Any, **options: Any) -> Any:  # as where the ids come from tokenizer.model
        made = load(folder, **options)
        swapped = data | {"model": data["model"] | {"vocab": vocab | {one: vocab[other], other: vocab[one]}}}
        path.write_text(json.dumps(swapped))
        return made

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", of_another_file)
    with pytest.raises(UsageError, match=r"--tokenizer .*model: transformers loads it as LlamaTokenizer.*2 tokens"):
        load_tokenizer(folder)


def test_what_is_saved_is_what_was_loaded(tmp_path: Path) -> None:
    folder = byte_level_llama(tmp_path / "model")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tool_use.jinja").write_text("{{ tools }}")
    (folder / "notes.md").write_text("no tokenizer's")
    saved = tmp_path / "saved"
    saved.mkdir()
    save_tokenizer(load_tokenizer(folder), saved)
    expected = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del expected[Path("notes.md")], expected[Path("config.json")]
    assert {path.relative_to(saved): path.read_bytes() for path in saved.rglob("*") if path.is_file()} == expected
    shutil.copyfile(folder / "config.json", saved / "config.json")
    again = load_tokenizer(saved)
    assert again.decode(again.encode(SAID)) == SAID
    shutil.rmtree(folder)
    made = tmp_path / "made"
    made.mkdir()
    save_tokenizer(again, made)  # of a folder
    save_tokenizer(transformers.PreTrainedTokenizerFast(tokenizer_object=again.backend_tokenizer), made)  # of none
    assert load_tokenizer(made).encode(SAID) == again.encode(SAID)


def test_nobody_loads_or_saves_a_tokenizer_another_way() -> None:
    """What goes past trajkit/tokens/tokenizer.py is not checked."""
    wrong = []
    for path in (one for part in ("trajkit", "train", "envs", "benchmarks") for one in (CHECKOUT / part).rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"\bAutoTokenizer\b|tokenizer\.save_pretrained\(", line):
                wrong.append(f"{path.relative_to(CHECKOUT)}:{number}")
    assert {line.partition(":")[0] for line in wrong} == {"trajkit/tokens/tokenizer.py"}, wrong


def test_names_on_the_hub() -> None:
    assert all(map(is_hub_name, ("Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B-Instruct", "a/b_c.d")))
    assert not any(map(is_hub_name, ("gpt2", "a/b/c", "./model", "../model", "/model", "a/", "envs.webshop:Novice")))


def cached(cache: Path, name: str, source: Path) -> None:
    """The files of a model in the hub's cache, as huggingface_hub lays it out."""
    entry = cache / f"models--{name.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (entry / "refs").mkdir(parents=True)
    (entry / "refs/main").write_text(commit)
    (entry / "blobs").mkdir()
    (entry / "snapshots" / commit).mkdir(parents=True)
    for number, path in enumerate(sorted(source.iterdir())):
        shutil.copyfile(path, entry / "blobs" / str(number))
        (entry / "snapshots" / commit / path.name).symlink_to(f"../../blobs/{number}")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of a hub that holds somebody/tiny, a tokenizer and a Llama of two layers."""
    torch = pytest.importorskip("torch")
    source, cache = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("hub")
    make_tokenizer(source)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=400, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(source)
    cached(cache, "somebody/tiny", source)
    return cache


def run(hub: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as huggingface_hub reads its settings when it is imported."""
    environment = os.environ | {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(CHECKOUT)}
    name, *args = command
    start = ["-c", "from trajkit.cli import main; main()"] if name == "trajkit" else ["-m", name]
    return subprocess.run(
        [sys.executable, *start, *args], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_model_of_the_hub_is_taken_wherever_a_folder_is(hub: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "runs", pair("one"))
    made = run(hub, tmp_path, "trajkit", "select", "--input", "runs", "--method", "sft_all", "--out", "sft.parquet")
    assert made.returncode == 0, made.stderr
    shown = run(hub, tmp_path, "trajkit", "show", "sft.parquet", "--tokenizer", "somebody/tiny")
    assert shown.returncode == 0 and "<|im_end|>" in shown.stdout, shown.stderr
    written = run(
        hub,
        tmp_path,
        "trajkit",
        "export",
        "sft.parquet",
        "--to",
        "trl",
        "--tokenizer",
        "somebody/tiny",
        "--out",
        "o.jsonl",
    )
    assert written.returncode == 0, written.stderr
    trained = run(
        hub, tmp_path, "train.trainer", "--data", "sft.parquet", "--model", "somebody/tiny", "--out", "out",
        "--set", "train.steps=1", "--set", "train.context=128",
    )  # fmt: skip
    assert trained.returncode == 0 and (tmp_path / "out/model/tokenizer.json").is_file(), trained.stderr
    for command in (
        ("trajkit", "show", "sft.parquet", "--tokenizer", "somebody/else"),
        ("trajkit", "export", "sft.parquet", "--to", "trl", "--tokenizer", "somebody/else", "--out", "x.jsonl"),
        ("train.trainer", "--data", "sft.parquet", "--model", "somebody/else", "--out", "out2"),
    ):
        missing = run(hub, tmp_path, *command)
        assert missing.returncode == 2, missing.stderr
        assert "somebody/else: there is no such folder, and no such model in the hub's cache" in missing.stderr


def test_a_policy_of_the_hub(hub: Path, tmp_path: Path) -> None:
    explored = run(
        hub, tmp_path, "trajkit", "explore", "--runs", "runs", "--env", "envs.webshop:TinyShop", "--max-steps", "1",
        "--env-arg", "train_tasks=2", "--policy", "somebody/tiny", "--iteration", "1", "--max-tokens", "4", "--json",
    )  # fmt: skip
    assert explored.returncode == 0 and json.loads(explored.stdout)["actor"] == "tiny", explored.stderr


def test_neither_a_folder_nor_a_name() -> None:
    for name in ("nowhere", "a/b/c", "/nowhere/at/all"):
        with pytest.raises(UsageError, match=f"--model {name}: there is no such folder"):
            model_folder(name)
