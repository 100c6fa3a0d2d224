"""TRL's SFTTrainer on given rows, in an environment of its own: its loss and what a step costs.

`environment` makes it; `run` calls this file in it, where trajkit is not needed, and has a dict per step back.
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
    """Every step's loss, lr, grad_norm and cpu_s of SFTTrainer on train.masks.Rows, whose weights are 0 or 1.

    The rows are trained on in their order, each once. `folder` is the model's; the rest is SFTConfig's.
    """
    given = [[list(row.input_ids), [int(weight) for weight in row.weights]] for row in rows]
    call = json.dumps({"model": str(folder), "rows": given, **settings})
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
    import tempfile

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(1)
    call = json.load(sys.stdin)
    model, rows = call.pop("model"), call.pop("rows")
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
            report_to="none", logging_steps=1, **call,
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
    steps = [
        {"loss": log["loss"], "lr": log["learning_rate"], "grad_norm": log["grad_norm"], "cpu_s": end - start}
        for log, start, end in zip(logs, ends[:-1], ends[1:], strict=True)
    ]
    print(json.dumps(steps))


if __name__ == "__main__":
    main()
