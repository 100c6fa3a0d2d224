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
        _pip(python, TORCH, *needed, "--retries", "1", "--extra-index-url", "https://download.pytorch.org/whl/cpu")
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
    """What the trainer makes of each line of the file, in order.

    `model` is a folder with a tiny Llama and its tokenizer; `settings` is what docs/exporting.md says of the trainer:
    TRL's Python, Axolotl's YAML, the others' commands. Each line is a dict with chosen and rejected: the token ids of
    the whole conversation, and for each token whether it gets loss.
    """
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    with tempfile.TemporaryDirectory() as scratch:
        for cache in ("HF_DATASETS_CACHE", "MODELSCOPE_CACHE", "HF_HOME"):
            quiet[cache] = f"{scratch}/{cache}"
        call = json.dumps(
            {"trainer": trainer, "file": str(file), "model": str(model), "scratch": scratch, "settings": settings}
        )
        done = subprocess.run(
            [environment(trainer), __file__], input=call, cwd=file.parent, capture_output=True, text=True,
            env=os.environ | quiet | {"DISABLE_VERSION_CHECK": "1", "AXOLOTL_DO_NOT_TRACK": "1"},
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{trainer} failed: {done.stderr.strip()[-3000:]}")
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


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
    dataset = get_dataset(template, model_args, data_args, training_args, stage="rm", **module)["train_dataset"]
    return [_labelled(row) for row in dataset]


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


def _labelled(row: dict[str, Any]) -> dict[str, Any]:
    """Ids and labels as ids and whether they get loss."""
    return {
        side: [list(row[f"{side}_input_ids"]), [int(label >= 0) for label in row[f"{side}_labels"]]]
        for side in ("chosen", "rejected")
    }


if __name__ == "__main__":
    call = json.load(sys.stdin)
    load_with = globals()[f"from_{call.pop('trainer').replace('-', '_')}"]
    print("\n" + json.dumps(load_with(**call)))
