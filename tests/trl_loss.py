"""TRL's SFTTrainer and DPOTrainer on given rows, in an environment of its own: the loss, and what a step costs.

`environment` makes it; `run` and `run_dpo` call this file in it, where trajkit is not needed, and have a dict per step
back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TORCH, TRANSFORMERS = "2.13.0", "5.17.0"


def environment(trl: str) -> Path:
    """The Python of an environment with this version of TRL, kept for the next time.

    It lies in the folder that TRAJKIT_TRL_ENVS names, else in ~/.cache/trajkit/trl; it takes 1 GB.
    Raises ConnectionError where no package index can be reached, RuntimeError with what pip said where it fails.
    """
    kept = Path(os.environ.get("TRAJKIT_TRL_ENVS") or Path.home() / ".cache/trajkit/trl")
    folder = kept / f"trl-{trl}-transformers-{TRANSFORMERS}-python-{sys.version_info[0]}.{sys.version_info[1]}"
    python, finished = folder / "bin/python", folder / "finished"
    if not finished.exists():
        venv.create(folder, clear=True, with_pip=True)
        # The second index has torch without CUDA; where it cannot be reached, pip goes on without it.
        wanted = [f"torch=={TORCH}", f"transformers=={TRANSFORMERS}", f"trl=={trl}"]
        more = ["--retries", "1", "--extra-index-url", "https://download.pytorch.org/whl/cpu"]
        done = subprocess.run([python, "-m", "pip", "install", "-q", *wanted, *more], capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip()[-600:]
            if "(from versions: none)" in said:
                raise ConnectionError(f"TRL {trl} cannot be fetched: {said}")
            raise RuntimeError(f"TRL {trl} cannot be installed: {said}")
        finished.touch()
    return python


def run(trl: str, folder: Path, rows: Sequence[Any], **settings: Any) -> list[dict[str, float]]:
    """Every step's loss, lr, grad_norm and cpu_s of SFTTrainer on trajkit.tokens.masks.Rows, whose weights are 0 or 1.

    The rows are trained on in their order, each once. `folder` is the model's; the rest is SFTConfig's.
    """
    return _run(trl, {"model": str(folder), "rows": [_given(row) for row in rows], **settings})


def run_dpo(trl: str, folder: Path, pairs: Sequence[tuple[Any, Any]], **settings: Any) -> list[dict[str, float]]:
    """Every step's loss, lr, grad_norm and rewards of DPOTrainer on (chosen, rejected) rows, in their order.

    TRL trains on all that comes after the prompt: here the rows' masks are put in place of its own.
    """
    given = [[_given(chosen), _given(rejected)] for chosen, rejected in pairs]
    return _run(trl, {"model": str(folder), "pairs": given, **settings})


def _given(row: Any) -> list[list[int]]:
    return [list(row.input_ids), [int(weight) for weight in row.weights]]


def _run(trl: str, what: dict[str, Any]) -> list[dict[str, float]]:
    call = json.dumps(what)
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [environment(trl), __file__], input=call, capture_output=True, text=True, env=os.environ | quiet
    )
    if done.returncode:
        raise RuntimeError(f"TRL failed: {done.stderr.strip()[-3000:]}")
    steps: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return steps


def main() -> None:
    """In TRL's environment."""
    import torch

    torch.set_num_threads(1)
    call = json.load(sys.stdin)
    print(json.dumps(dpo(**call) if "pairs" in call else sft(**call)))


def sft(model: str, rows: list[list[list[int]]], **settings: Any) -> list[dict[str, float]]:
    """SFTTrainer's steps."""
    import tempfile

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    labels = [[token if trained else -100 for token, trained in zip(*row, strict=True)] for row in rows]

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *args: Any, **more: Any) -> None:
            ends.append(time.process_time())

        def on_step_end(self, *args: Any, **more: Any) -> None:
            ends.append(time.process_time())

    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out, use_cpu=True, bf16=False, gradient_checkpointing=False, max_length=None,
            shuffle_dataset=False, train_sampling_strategy="sequential", num_train_epochs=1, save_strategy="no",
            report_to="none", logging_steps=1, **settings,
        )  # fmt: skip
        trainer = SFTTrainer(
            AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            config,
            train_dataset=Dataset.from_dict({"input_ids": [row[0] for row in rows], "labels": labels}),
            processing_class=AutoTokenizer.from_pretrained(model),
            callbacks=[Clock()],
        )
        trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return [
        {"loss": log["loss"], "lr": log["learning_rate"], "grad_norm": log["grad_norm"], "cpu_s": end - start}
        for log, start, end in zip(logs, ends[:-1], ends[1:], strict=True)
    ]


def dpo(model: str, pairs: list[list[list[list[int]]]], **settings: Any) -> list[dict[str, float]]:
    """DPOTrainer's steps, with the given masks for its completion masks."""
    import tempfile

    import torch
    from datasets import Dataset
    from torch.nn.utils.rnn import pad_sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    class Masked(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *args: Any, **more: Any) -> Any:
            return dataset  # it is tokenised

        def _set_signature_columns_if_needed(self) -> None:
            self._signature_columns = ["chosen", "rejected"]

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        rows = [example[side] for side in ("chosen", "rejected") for example in examples]
        ids, masks = ([torch.tensor(row[part]) for row in rows] for part in (0, 1))
        return {
            "input_ids": pad_sequence(ids, batch_first=True),
            "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
            "completion_mask": pad_sequence(masks, batch_first=True),
        }

    with tempfile.TemporaryDirectory() as out:
        config = DPOConfig(
            output_dir=out, use_cpu=True, bf16=False, gradient_checkpointing=False, max_length=None,
            train_sampling_strategy="sequential", num_train_epochs=1, save_strategy="no", report_to="none",
            logging_steps=1, **settings,
        )  # fmt: skip
        loaded, reference = (AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32) for _ in range(2))
        trainer = Masked(
            loaded,
            reference,
            config,
            data_collator=collate,
            train_dataset=Dataset.from_dict(
                {"chosen": [one for one, _ in pairs], "rejected": [one for _, one in pairs]}
            ),
            processing_class=AutoTokenizer.from_pretrained(model),
        )
        trainer.train()
    names = {
        "loss": "loss", "lr": "learning_rate", "grad_norm": "grad_norm", "margin": "rewards/margins",
        "accuracy": "rewards/accuracies", "chosen_reward": "rewards/chosen", "rejected_reward": "rewards/rejected",
    }  # fmt: skip
    return [{ours: log[name] for ours, name in names.items()} for log in trainer.state.log_history if "loss" in log]


if __name__ == "__main__":
    main()
