"""What other trainers make of an exported file, each in an environment of its own.

`load` calls this file in the trainer's environment, where trajkit is not needed: the trainer's own code reads the file,
renders and tokenises it, and what it would train on comes back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import trl_loss

TORCH = "torch==2.13.0"
# The trainer's release, and what its data code imports of what it depends on: the whole would be gigabytes more.
RELEASES: dict[str, tuple[str, list[str]]] = {
    "llamafactory": (
        "llamafactory==0.9.5",
        ["transformers==5.6.0", "datasets==4.0.0", "peft==0.18.1", "trl==0.24.0", "accelerate==1.11.0", "omegaconf",
         "pyyaml", "numpy", "einops"],
    ),
    "ms-swift": (
        "ms-swift==4.6.0",
        ["transformers==5.17.0", "datasets==4.8.4", "peft==0.20.0", "trl==0.29.1", "accelerate", "modelscope", "addict",
         "json-repair", "dacite", "einops", "pillow", "requests", "numpy"],
    ),
    "axolotl": (
        "axolotl==0.21.0",
        ["transformers==5.20.1", "datasets==5.0.1", "peft==0.21.2", "trl==1.14.1", "accelerate==1.15.0",
         "pydantic==2.13.5", "fire", "PyYAML", "addict", "colorama", "requests", "numpy", "posthog", "numba"],
    ),
    "verl": (
        "verl==0.9.1",
        ["transformers==5.9.0", "datasets==5.2.0", "tensordict==0.10.0", "ray[default]", "omegaconf", "hydra-core",
         "pandas", "numpy", "codetiming", "packaging", "pybind11", "peft", "accelerate", "torchdata", "dill", "pillow",
         "uvicorn", "fastapi"],
    ),
    "unsloth": (  # its preparation of the data alone, in TRL's trainer: Unsloth itself asks for a GPU
        "unsloth_zoo==2026.10.7",
        ["transformers==5.17.0", "datasets==4.8.4", "trl==1.15.0", "accelerate==1.15.0"],
    ),
    "openai": ("openai==3.54.0", ["pydantic", "anyio", "httpx2", "jiter", "sniffio", "tqdm", "typing_extensions"]),
}  # fmt: skip
TRL = "1.16.0"


def environment(trainer: str) -> Path:
    """The Python of an environment with this trainer, kept for the next time (where trl_loss keeps TRL's).

    Raises ConnectionError where no package index can be reached, RuntimeError with what pip said where it fails.
    """
    if trainer == "trl":
        return trl_loss.environment(TRL)
    release, needed = RELEASES[trainer]
    kept = Path(os.environ.get("TRAJKIT_TRL_ENVS") or Path.home() / ".cache/trajkit/trl")
    folder = kept / f"{release.replace('==', '-')}-python-{sys.version_info[0]}.{sys.version_info[1]}"
    python, finished = folder / "bin/python", folder / "finished"
    if not finished.exists():
        venv.create(folder, clear=True, with_pip=True)
        torch = [] if trainer == "openai" else [TORCH]
        _pip(python, *torch, *needed, "--retries", "1", "--extra-index-url", "https://download.pytorch.org/whl/cpu")
        # Axolotl asks for Python 3.12, but its data code runs on 3.11, too.
        _pip(python, release, "--no-deps", "--ignore-requires-python")
        if trainer == "llamafactory":
            [packages] = folder.glob("lib/python*/site-packages")
            (packages / "torchaudio.py").write_text('"""Imported, but only called for audio."""\n')
        finished.touch()
    return python


def _pip(python: Path, *wanted: str) -> None:
    done = subprocess.run([python, "-m", "pip", "install", "-q", *wanted], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip()[-600:]
        error = ConnectionError if "(from versions: none)" in said else RuntimeError
        raise error(f"{wanted[0]} cannot be installed: {said}")


def load(trainer: str, file: Path, model: Path, settings: str) -> list[dict[str, Any]]:
    """What the trainer makes of each pair of the file, in order.

    `model` is a folder with a tiny Llama and its tokenizer; `settings` is what docs/exporting.md says of the trainer:
    TRL's Python, Axolotl's YAML, the others' commands. Each line is a dict with chosen and rejected: the token ids of
    the whole conversation, and for each token whether it gets loss.
    """
    found: list[dict[str, Any]] = _call(trainer, f"from_{trainer}", file, model, settings)
    return found


def load_examples(trainer: str, file: Path, model: Path, settings: str) -> list[tuple[list[int], list[int]]]:
    """The same for a file of examples: of each row the token ids, and for each token whether it gets loss."""
    found = _call(trainer, f"examples_{trainer}", file, model, settings)
    return [(ids, loss) for ids, loss in found]


def load_folder(folder: Path) -> dict[str, Any]:
    """What `datasets.load_dataset` (of TRL's environment) makes of a folder: its features as text, and its rows."""
    found: dict[str, Any] = _call("trl", "folder_datasets", folder, folder, "")
    return found


def check_openai(file: Path, code: str) -> int:
    """How many lines the openai package's types take, of messages and tools; raises at one that they do not."""
    found: int = _call("openai", "lines_openai", file, file, code)
    return found


def _call(trainer: str, function: str, file: Path, model: Path, settings: str) -> Any:
    """The function of this file, called in the trainer's environment, in the file's folder."""
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    with tempfile.TemporaryDirectory() as scratch:
        for cache in ("HF_DATASETS_CACHE", "MODELSCOPE_CACHE", "HF_HOME"):
            quiet[cache] = f"{scratch}/{cache}"
        call = {
            "function": function.replace("-", "_"), "file": str(file), "model": str(model), "scratch": scratch,
            "settings": settings,
        }  # fmt: skip
        done = subprocess.run(
            [environment(trainer), __file__], input=json.dumps(call), cwd=file.parent, capture_output=True, text=True,
            env=os.environ | quiet | {"DISABLE_VERSION_CHECK": "1", "AXOLOTL_DO_NOT_TRACK": "1"},
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{trainer} failed: {done.stderr.strip()[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def from_trl(file: str, model: str, scratch: str, settings: str) -> list[dict[str, Any]]:
    """DPOTrainer on the file as the document's Python loads it, and one step of it."""
    names: dict[str, Any] = {}
    exec(settings[: settings.index("DPOTrainer(")], names)
    return _dpo(names["pairs"], model, scratch)


def _dpo(dataset: Any, model: str, scratch: str) -> list[dict[str, Any]]:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(
        output_dir=scratch, use_cpu=True, bf16=False, gradient_checkpointing=False, max_length=None, max_steps=1,
        per_device_train_batch_size=2, save_strategy="no", report_to="none",
    )  # fmt: skip
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(model),
        args=config,
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    rows = []
    for row in trainer.train_dataset:
        batch = trainer.data_collator([row])
        sides = zip(batch["input_ids"].tolist(), batch["completion_mask"].tolist(), strict=True)
        lengths = batch["attention_mask"].sum(dim=1).tolist()  # the rest is padding
        cut = [[ids[:length], mask[:length]] for (ids, mask), length in zip(sides, lengths, strict=True)]
        rows.append(dict(zip(("chosen", "rejected"), cut, strict=True)))
    assert 0 < trainer.train().training_loss < 10
    return rows


def from_axolotl(file: str, model: str, scratch: str, settings: str) -> list[dict[str, Any]]:
    """Axolotl's own preparation with the document's YAML, then the TRL trainer that Axolotl runs."""
    import yaml
    from axolotl.utils.data.rl import prepare_preference_datasets
    from axolotl.utils.dict import DictDefault
    from axolotl.utils.schemas.enums import RLType
    from transformers import AutoTokenizer

    own = yaml.safe_load(settings)
    own["datasets"][0]["path"] = file
    fixed = {
        "base_model": model, "tokenizer_config": model, "dataset_prepared_path": f"{scratch}/prepared",
        "sequence_len": 100_000, "seed": 1,
    }  # fmt: skip
    cfg = DictDefault(own | fixed | {"rl": RLType(own["rl"])})
    dataset, _ = prepare_preference_datasets(cfg, AutoTokenizer.from_pretrained(model))
    return _dpo(dataset, model, scratch)


def from_llamafactory(file: str, model: str, scratch: str, settings: str) -> list[dict[str, Any]]:
    """LLaMA-Factory's own loading, by the dataset_info.json beside the file."""
    return [_labelled(row) for row in _in_v0(file, model, scratch, settings, "rm")]


def _in_v0(file: str, model: str, scratch: str, settings: str, stage: Any) -> Any:
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    given = dict(word.split("=", 1) for word in settings.split() if "=" in word)
    fixed = {
        "model_name_or_path": model, "dataset_dir": str(Path(file).parent), "output_dir": f"{scratch}/out",
        "finetuning_type": "full", "use_cpu": True, "report_to": "none", "do_train": True,
    }  # fmt: skip
    model_args, data_args, training_args, _, _ = get_train_args(given | {"cutoff_len": 8192} | fixed)
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    return get_dataset(template, model_args, data_args, training_args, stage=stage, **module)["train_dataset"]


def from_ms_swift(file: str, model: str, scratch: str, settings: str) -> list[dict[str, Any]]:
    """ms-swift's own loading, with the settings that `swift rlhf --rlhf_type dpo` has."""
    from swift.dataset import load_dataset
    from swift.model import get_processor
    from swift.template import get_template

    processor = get_processor(model, model_type="qwen2")
    template = get_template(processor, template_type="qwen2_5", agent_template="hermes", loss_scale="last_round")
    template.set_mode("rlhf")
    dataset, _ = load_dataset(file, strict=True)
    return [_labelled(template.encode(row)) for row in dataset]


def examples_trl(file: str, model: str, scratch: str, settings: str) -> list[Any]:
    """SFTTrainer on the file as the document's Python loads it and with its settings, and one step of it."""
    from trl import SFTTrainer

    return _sft(SFTTrainer, model, scratch, settings)


def examples_unsloth(file: str, model: str, scratch: str, settings: str) -> list[Any]:
    """The same, but for the step, with Unsloth's preparation in the place of TRL's, where Unsloth puts it."""
    import importlib.util
    import types

    from trl import SFTTrainer

    found = importlib.util.find_spec("unsloth_zoo")
    assert found is not None and found.submodule_search_locations is not None
    package = types.ModuleType("unsloth_zoo")  # without its __init__, which asks for a GPU
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["unsloth_zoo"] = package
    from unsloth_zoo.dataset_utils import sft_prepare_dataset

    class Trainer(SFTTrainer):
        _prepare_dataset = sft_prepare_dataset

    return _sft(Trainer, model, scratch, settings, step=False)


def _sft(trainer_of: Any, model: str, scratch: str, settings: str, step: bool = True) -> list[Any]:
    from functools import partial

    import trl
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trl.SFTConfig = partial(
        trl.SFTConfig, output_dir=scratch, use_cpu=True, bf16=False, gradient_checkpointing=False, max_steps=1,
        per_device_train_batch_size=2, save_strategy="no", report_to="none",
    )  # fmt: skip
    names: dict[str, Any] = {}
    exec(settings[: settings.index("SFTTrainer(")], names)
    trainer = trainer_of(
        AutoModelForCausalLM.from_pretrained(model),
        args=names["settings"],
        train_dataset=names["examples"],
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    trainer._set_signature_columns_if_needed()
    columns = set(trainer._signature_columns)
    found = []
    for row in trainer.train_dataset:
        batch = trainer.data_collator([{name: value for name, value in row.items() if name in columns}])
        found.append(_loss(batch["input_ids"][0].tolist(), batch["labels"][0].tolist()))
    if step:
        assert 0 < trainer.train().training_loss < 10
    return found


def examples_axolotl(file: str, model: str, scratch: str, settings: str) -> list[Any]:
    """Axolotl's own preparation with the document's YAML."""
    import yaml
    from axolotl.utils.data.sft import _load_tokenized_prepared_datasets
    from axolotl.utils.dict import DictDefault
    from transformers import AutoTokenizer

    own = yaml.safe_load(settings)
    own["datasets"][0]["path"] = file
    fixed = {
        "base_model": model, "tokenizer_config": model, "dataset_prepared_path": f"{scratch}/prepared",
        "sequence_len": 100_000, "seed": 1, "val_set_size": 0, "dataset_num_proc": 1, "excess_length_strategy": "raise",
    }  # fmt: skip
    dataset, _ = _load_tokenized_prepared_datasets(AutoTokenizer.from_pretrained(model), DictDefault(own | fixed))
    return [_loss(row["input_ids"], row["labels"]) for row in dataset]


def examples_llamafactory(file: str, model: str, scratch: str, settings: str) -> list[Any]:
    """LLaMA-Factory's own loading: v1's with the document's YAML, the older engine's with its command."""
    if "llamafactory-cli" in settings:
        return [_loss(row["input_ids"], row["labels"]) for row in _in_v0(file, model, scratch, settings, "sft")]
    import yaml
    from llamafactory.v1.config import get_args
    from llamafactory.v1.core.data_engine import DataEngine
    from llamafactory.v1.core.utils.rendering import Renderer
    from transformers import AutoTokenizer

    own = yaml.safe_load(settings) | {"model": model, "train_dataset": file, "output_dir": scratch}
    model_args, data_args, _, _ = get_args(own)
    renderer = Renderer(model_args.template, AutoTokenizer.from_pretrained(model))
    data = DataEngine(data_args.train_dataset)
    rows = renderer.process_samples([data[at] for at in range(len(data))])
    for row in rows:
        assert [weight > 0 for weight in row["loss_weights"]] == [label >= 0 for label in row["labels"]]
    return [_loss(row["input_ids"], row["labels"]) for row in rows]


def examples_ms_swift(file: str, model: str, scratch: str, settings: str) -> list[Any]:
    """ms-swift's own loading, with the settings that `swift sft` has."""
    from swift.dataset import load_dataset
    from swift.model import get_processor
    from swift.template import get_template

    processor = get_processor(model, model_type="qwen2")
    template = get_template(processor, template_type="qwen2_5", agent_template="hermes")
    template.set_mode("train")
    dataset, _ = load_dataset(file, strict=True)
    encoded = [template.encode(row) for row in dataset]
    return [_loss(list(row["input_ids"]), list(row["labels"])) for row in encoded]


def examples_verl(file: str, model: str, scratch: str, settings: str) -> list[Any]:
    """verl's own dataset with its own settings and the document's command, or with the document's class, too."""
    import verl
    from omegaconf import OmegaConf
    from verl.trainer.sft_trainer import create_sft_dataset
    from verl.utils import hf_tokenizer

    *code, command = settings.split("\n---\n")
    for text in code:
        Path(scratch, "trajkit_verl.py").write_text(text)
    usual = OmegaConf.load(Path(verl.__file__).parent / "trainer/config/sft_trainer_engine.yaml").data
    told = [word.removeprefix("data.") for word in command.split() if word.startswith("data.")]
    data = OmegaConf.merge(usual, OmegaConf.from_dotlist(told))
    if code:
        data.custom_cls.path = f"{scratch}/trajkit_verl.py"
    dataset = create_sft_dataset([file], data, hf_tokenizer(model), None)
    rows = [dataset[at] for at in range(len(dataset))]
    return [[row["input_ids"].tolist(), row["loss_mask"].tolist()] for row in rows]


def folder_datasets(file: str, model: str, scratch: str, settings: str) -> dict[str, Any]:
    """The folder as `datasets` loads it."""
    from datasets import load_dataset

    rows = load_dataset(file, split="train")
    return {"features": str(rows.features), "rows": list(rows)}


def lines_openai(file: str, model: str, scratch: str, settings: str) -> int:
    """OpenAI's types know no weight: it is checked apart, as its guide has it. Also that the document's calls exist."""
    import ast
    import inspect

    from openai import OpenAI
    from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam
    from pydantic import ConfigDict, TypeAdapter, with_config
    from typing_extensions import TypedDict

    @with_config(ConfigDict(extra="forbid"))
    class Line(TypedDict, total=False):
        messages: list[ChatCompletionMessageParam]
        tools: list[ChatCompletionFunctionToolParam]
        parallel_tool_calls: bool

    lines = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    adapter = TypeAdapter(Line)
    for line in lines:
        weights = [message.pop("weight") for message in line["messages"] if message["role"] == "assistant"]
        assert set(weights) <= {0, 1} and 1 in weights
        assert all("weight" not in message for message in line["messages"])
        adapter.validate_python(line)
    client = OpenAI(api_key="none")
    asked = {ast.unparse(call.func): call for call in ast.walk(ast.parse(settings)) if isinstance(call, ast.Call)}
    for name, function in (
        ("client.files.create", client.files.create),
        ("client.fine_tuning.jobs.create", client.fine_tuning.jobs.create),
    ):
        assert {word.arg for word in asked[name].keywords} <= inspect.signature(function).parameters.keys()
    return len(lines)


def _loss(ids: list[int], labels: list[int]) -> list[list[int]]:
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    return [ids, [int(label >= 0) for label in labels]]


def _labelled(row: dict[str, Any]) -> dict[str, Any]:
    """Ids and labels as ids and whether they get loss."""
    return {
        side: [list(row[f"{side}_input_ids"]), [int(label >= 0) for label in row[f"{side}_labels"]]]
        for side in ("chosen", "rejected")
    }


if __name__ == "__main__":
    call = json.load(sys.stdin)
    function = globals()[call.pop("function")]
    print("\n" + json.dumps(function(**call)))
