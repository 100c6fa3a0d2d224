"""A model folder as the policy, through transformers: for small models and for machines without a server.

Requests are answered side by side in slots that keep the conversations' keys and values (`continuous_batching.py`).
Each has a generator of its own, seeded by the request, so what a rollout says does not hang on which others are in
flight (but for the rounding of the batch's matrix products). Sampling is written out because `generate` has one
temperature and one seed for a whole batch.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from trajkit.console import clean
from trajkit.errors import UsageError
from trajkit.exploration.env import Message
from trajkit.exploration.policies import Answer, Sampling
from trajkit.exploration.policies.prompt_tokens import Turns
from trajkit.tokens.tokenizer import model_folder

if TYPE_CHECKING:
    from trajkit.exploration.policies.continuous_batching import Request, Slots

_SLOW = {
    "whole": "this model's past cannot be kept between tokens: it is fed whole conversations, which is slow.",
    "one": "what this model says hangs on what else is in the pass: it answers one at a time, which is slow.",
}
_PASSES = 16  # at most, until the event loop is asked what else there is to do


class Local:
    """The model in `folder` (config, weights, tokenizer with a chat template), on the GPU where there is one.

    Where no such folder is, it is a hub's OWNER/NAME. `template_args`: as `Turns` has them. At
    most `batch` requests are answered together. Token ids and log-probabilities (of the model itself, before
    temperature and top_p, as vLLM gives them) are kept. The memory for keys and values grows with the longest
    conversation, `batch` times. A model whose layers see only a window of the past, or keep a state instead of it, is
    fed the whole conversation for every token, which is slow; one that does not keep conversations apart answers one at
    a time. That is tried out when it is loaded, and said on stderr.
    """

    def __init__(
        self,
        folder: str,
        sampling: Sampling | None = None,
        batch: int = 8,
        template_args: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import torch
            from transformers import AutoModelForCausalLM

            from trajkit.exploration.policies.trial import fit
        except ImportError as error:
            raise UsageError(
                f"--policy {folder} needs the packages torch and transformers: pip install 'trajkit[local]'"
            ) from error
        found = model_folder(folder, "--policy")
        self.turns, self._template_args = Turns(str(found), template_args), dict(template_args or {})
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(found, dtype="auto")
        except Exception as error:
            raise UsageError(f"--policy {folder}: no model can be loaded there ({error}).") from error
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.to(self._device).eval()
        try:
            self._fit = fit(self._model)
        except Exception as error:  # whatever its own code raises
            raise UsageError(f"--policy {folder}: the model there does not run ({clean(str(error))}).") from error
        if self._fit != "slots":
            click.echo(f"--policy {clean(folder)}: {_SLOW[self._fit]}", err=True)
        self._sampling, self._batch = sampling or Sampling(), batch if self._fit != "one" else 1
        self._slots: Slots | None = None
        ends = model.generation_config.eos_token_id
        self._ends = {ends} if isinstance(ends, int) else set(ends or ())
        self._ends.add(self.turns.tokenizer.eos_token_id)
        self._room: int = getattr(model.config, "max_position_embeddings", 2**31)
        self.actor = folder.rstrip("/").rpartition("/")[2]
        self._waiting: list[Request] = []
        self._asked: dict[Request, asyncio.Future[Answer]] = {}  # those that wait and those that are being answered
        self._worker: asyncio.Task[None] | None = None

    def sampling(self, sample: int) -> dict[str, Any]:
        """As `trajkit.exploration.policies.AsyncPolicy`."""
        return {
            "model": self.actor,
            "temperature": self._sampling.temperature(sample),
            "top_p": self._sampling.top_p,
            "max_tokens": self._sampling.max_tokens,
            "stop": list(self._sampling.stop),
            "token_ids": True,
            **({"template_args": self._template_args} if self._template_args else {}),
        }

    async def answer(self, messages: Sequence[Message], *, seed: int, sample: int) -> Answer:
        """As `trajkit.exploration.policies.AsyncPolicy`."""
        prompt = self.turns.prompt(messages)
        if len(prompt) >= self._room:
            return Answer(None, cut=True)
        from trajkit.exploration.policies.continuous_batching import Request

        request = Request(prompt, self._sampling.temperature(sample), random.Random(seed).random, self._is_over)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked[request] = future
        self._waiting.append(request)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def close(self) -> None:
        """Stop, and free the memory of what is kept. It can be asked again afterwards."""
        self._waiting.clear()
        self._asked.clear()
        if self._worker is not None:
            await asyncio.gather(self._worker, return_exceptions=True)
        self._slots = None

    async def _work(self) -> None:
        from trajkit.exploration.policies.continuous_batching import Slots

        while self._asked:
            slots = self._slots = self._slots or Slots(
                self._model, self._batch, self._sampling.top_p, keep=self._fit == "slots"
            )
            newcomers, self._waiting = self._waiting[: slots.free], self._waiting[slots.free :]
            try:
                over = await asyncio.to_thread(self._some_passes, slots, newcomers)
                answers = [self._answer(request) for request in over]
            except Exception as error:
                for future in self._asked.values():
                    if not future.done():
                        future.set_exception(error)
                self._waiting, self._asked, self._slots = [], {}, None
                continue
            for request, answer in zip(over, answers, strict=True):
                if request in self._asked and not (future := self._asked.pop(request)).done():
                    future.set_result(answer)
            await asyncio.sleep(0)  # who has an answer can ask for the next one now, and is in the next passes

    def _some_passes(self, slots: Slots, newcomers: Sequence[Request]) -> list[Request]:
        """Let newcomers in and generate until a quarter of the slots can be given to others. Returns what is over.

        Fewer at a time would cost a pass of their own (slots feed newcomers by themselves) for few tokens.
        """
        slots.seat(newcomers)
        over: list[Request] = []
        for _ in range(_PASSES):
            over += slots.step()
            if slots.free == self._batch or 4 * min(slots.free, len(over) + len(self._waiting)) >= self._batch:
                break
        return over

    def _is_over(self, request: Request) -> bool:
        full = len(request.said) >= self._sampling.max_tokens or len(request.prompt) + len(request.said) >= self._room
        return full or self._stopped(request)

    def _stopped(self, request: Request) -> bool:
        """Whether the model ended its answer itself, or said a word that ends it."""
        if request.said[-1] in self._ends:
            return True
        if not self._sampling.stop:
            return False
        text = self.turns.tokenizer.decode(request.said, skip_special_tokens=True)
        return any(stop in text for stop in self._sampling.stop)

    def _answer(self, request: Request) -> Answer:
        text = self.turns.tokenizer.decode(request.said, skip_special_tokens=True)
        for stop in self._sampling.stop:
            text = text.partition(stop)[0]
        message: Message = {
            "role": "assistant",
            "content": text,
            "token_ids": request.said,
            "logprobs": request.logprobs,
        }
        return Answer(message, cut=not self._stopped(request))
