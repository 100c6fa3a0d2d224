"""What the local policy costs beyond the model. Ratios within one run.

OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/generating.py

generating  tokens/s of the local policy against a bare loop over the same prompts: batches of the same size, answers
            of the same length, the same temperature, transformers' own cache
exploring   tokens/s of exploring the tiny shop with it, environment and tables included, against the bare loop over
            the prompts that came up there, which it has to read from the start at every turn

Both by the clock and by this process's processor time, which other programs on the machine disturb less.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from envs.webshop import TinyShop
from train import scratch
from train.settings import Scratch
from trajkit.env import Message
from trajkit.explore import Settings, explore
from trajkit.policies import Answer, Sampling
from trajkit.policies.local import Local

BATCH = 32


class Noting(Local):
    """Keeps each prompt and how many tokens the answer had."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.asked: list[tuple[list[int], int]] = []

    async def answer(self, messages: Sequence[Message], *, seed: int, sample: int) -> Answer:
        prompt = self.turns.prompt(messages)
        answer = await super().answer(messages, seed=seed, sample=sample)
        if answer.message is not None:
            self.asked.append((prompt, len(answer.message["token_ids"])))
        return answer


@torch.inference_mode()
def bare(model: Any, asked: Sequence[tuple[list[int], int]]) -> None:
    """Answer each prompt with as many tokens as given, BATCH at a time."""
    for start in range(0, len(asked), BATCH):
        batch = asked[start : start + BATCH]
        longest = max(len(prompt) for prompt, _ in batch)
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt, _ in batch])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt, _ in batch])
        places, cache = (mask.cumsum(1) - 1).clamp(min=0), None
        for _ in range(max(said for _, said in batch)):
            out = model(
                input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
            cache, ids = out.past_key_values, torch.multinomial(out.logits[:, -1].softmax(-1), 1)
            mask, places = torch.cat([mask, torch.ones_like(ids)], 1), places[:, -1:] + 1


def seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """How long it takes: by the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - processor


def report(name: str, policy: Noting, ours: tuple[float, float]) -> None:
    """Run the bare loop and print the ratios."""
    tokens = sum(said for _, said in policy.asked)
    theirs = seconds(lambda: bare(policy._model, policy.asked))
    print(f"{name}: {tokens} tokens in {len(policy.asked)} answers")
    for kind, own, other in zip(("clock", "processor"), ours, theirs, strict=True):
        print(f"    {kind}: {tokens / own:.0f} tokens/s, the bare loop {tokens / other:.0f}: {other / own:.2f}x")


def generating(folder: Path, shop: TinyShop) -> None:
    """One turn of 64 tokens from the beginning of every task."""
    policy = Noting(str(folder), Sampling(max_tokens=64), batch=BATCH)
    policy._ends = set()  # so that every answer has the same length
    starts = [shop.reset(task.task_id)[0] for task in shop.tasks("train")[: 8 * BATCH]]

    async def answers(starts: Sequence[Sequence[Message]]) -> None:
        await asyncio.gather(*(policy.answer(start, seed=n, sample=0) for n, start in enumerate(starts)))

    asyncio.run(answers(starts[:BATCH]))  # imports and first calls are not what is measured
    bare(policy._model, policy.asked)
    policy.asked.clear()
    report("generating", policy, seconds(lambda: asyncio.run(answers(starts))))


def exploring(folder: Path, shop: TinyShop, runs: Path) -> None:
    """As many rollouts as there are tasks. The random model cannot shop: any of a quarter of its tokens ends a turn."""
    policy = Noting(str(folder), Sampling(max_tokens=8), batch=BATCH)
    policy._ends = set(range(0, policy._model.config.vocab_size, 4))
    settings = Settings("policy", 1, max_steps=8, concurrency=BATCH)
    ours = seconds(lambda: explore(runs, shop, policy, plans=["initial"], settings=settings))
    print(f"exploring: {len(shop.tasks('train')) / ours[0]:.0f} rollouts/s")
    report("exploring", policy, ours)


def main() -> None:
    """Run both."""
    shop = TinyShop(train_tasks=500)
    texts = [message["content"] for task in shop.tasks("train") for message in shop.reset(task.task_id)[0]]
    with tempfile.TemporaryDirectory() as name:
        folder = scratch.make(Path(name) / "tiny", [*texts, json.dumps(shop.admissible())], Scratch())
        generating(folder, shop)
        exploring(folder, shop, Path(name) / "runs")


if __name__ == "__main__":
    main()
