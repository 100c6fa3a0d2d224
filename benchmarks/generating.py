"""What the local policy costs beyond the model, on one thread.

    python benchmarks/generating.py [--size 500 --rounds 3]

First the policy alone, against a bare loop over the same prompts: batches of the same size, answers of the same length,
the same temperature, transformers' own cache. Then exploring `size` tasks of the tiny shop with it, environment and
tables included, against the bare loop over the prompts that came up there, which it has to read from the start at every
turn.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import measure

sys.path.insert(0, str(measure.CHECKOUT))

import torch

from envs.webshop import TinyShop
from train import scratch
from train.settings import Scratch
from trajkit.exploration.env import Message
from trajkit.exploration.explore import Settings, explore
from trajkit.exploration.policies import Answer, Sampling
from trajkit.exploration.policies.local import Local

BATCH = 32


def rows(folder: Path, size: int = 500, rounds: int = 3) -> list[measure.Row]:
    """Both against the bare loop."""
    found = []
    for name, what in (("generating", "local policy, one turn of 64 tokens"), ("exploring", "explore, local policy")):
        took = [measure.alone(__file__, name, size, OMP_NUM_THREADS="1") for _ in range(rounds)]
        own, others = [one["seconds"] for one in took], [one["other"] for one in took]
        note = (
            f"{took[0]['tokens']:,} tokens; by processor time {statistics.median(one['processor'] for one in took):.2f}"
        )
        found.append(measure.Row(what, own, "a bare loop over the same prompts", others, note))
    return found


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


def compare(policy: Noting, run: Callable[[], Any]) -> measure.Found:
    """`run` against the bare loop over what is asked in it, by the clock and by this process's processor time, which
    other programs on the machine disturb less."""
    began = time.process_time()
    ours = measure.seconds(run)
    middle = time.process_time()
    theirs = measure.seconds(lambda: bare(policy._model, policy.asked))
    processor = (middle - began) / (time.process_time() - middle)
    tokens = sum(said for _, said in policy.asked)
    return {"seconds": ours, "other": theirs, "processor": processor, "tokens": tokens}


def prepared(out: Path, tasks: str) -> tuple[str, TinyShop]:
    """A model's folder and the shop."""
    torch.set_num_threads(1)
    shop = TinyShop(train_tasks=int(tasks))
    texts = [message["content"] for task in shop.tasks("train") for message in shop.reset(task.task_id)[0]]
    return str(scratch.make(out / "tiny", [*texts, json.dumps(shop.admissible())], Scratch())), shop


def generating(out: Path, tasks: str) -> measure.Found:
    """One turn of 64 tokens from the beginning of every task."""
    folder, shop = prepared(out, tasks)
    policy = Noting(folder, Sampling(max_tokens=64), batch=BATCH)
    policy._ends = set()  # so that every answer has the same length
    starts = [shop.reset(task.task_id)[0] for task in shop.tasks("train")[: 8 * BATCH]]

    async def answers(starts: Sequence[Sequence[Message]]) -> None:
        await asyncio.gather(*(policy.answer(start, seed=n, sample=0) for n, start in enumerate(starts)))

    asyncio.run(answers(starts[:BATCH]))  # imports and first calls are not what is measured
    bare(policy._model, policy.asked)
    policy.asked.clear()
    return compare(policy, lambda: asyncio.run(answers(starts)))


def exploring(out: Path, tasks: str) -> measure.Found:
    """As many rollouts as there are tasks. The random model cannot shop: any of a quarter of its tokens ends a turn."""
    folder, shop = prepared(out, tasks)
    policy = Noting(folder, Sampling(max_tokens=8), batch=BATCH)
    policy._ends = set(range(0, policy._model.config.vocab_size, 4))
    settings = Settings("policy", 1, max_steps=8, concurrency=BATCH)
    return compare(policy, lambda: explore(out / "runs", shop, policy, plans=["initial"], settings=settings))


MEASURED = {"generating": generating, "exploring": exploring}


if __name__ == "__main__":
    measure.run(rows, MEASURED)
