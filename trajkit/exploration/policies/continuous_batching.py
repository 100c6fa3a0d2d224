"""Continuous batching: many conversations in one model, each in a slot that keeps its keys and values across turns.

A pass feeds every conversation what the cache does not hold of it yet: one token where an answer is going on, the last
observation where the next turn begins. What a slot held of other conversations is used where it is the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

TOKENS_A_PASS = 8192  # rows times width, which bounds what a pass takes beside the cache


@dataclass(eq=False)
class Request:
    """A prompt to go on from, and what has been said so far. `over` says of what was said whether it is all."""

    prompt: list[int]
    temperature: float
    draw: Callable[[], float]  # uniform numbers from 0 to 1 of this request's own
    over: Callable[[Request], bool]
    said: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Kept(Cache):
    """The keys and values of `n` slots, a tensor (n + 1, places, heads, size) each per layer. Slot n takes padding."""

    def __init__(self, n: int) -> None:
        super().__init__(layers=[])
        self.n, self.places = n, 0
        self._tensors: list[list[torch.Tensor]] = []

    def grow(self, places: int) -> None:
        """Have at least this many places, a power of two of them."""
        if places > self.places:
            self.places = 1 << (places - 1).bit_length()
            for tensors in self._tensors:
                for i, old in enumerate(tensors):
                    tensors[i] = old.new_zeros(self.n + 1, self.places, *old.shape[2:])
                    tensors[i][:, : old.shape[1]] = old

    def copy(self, source: int, target: int, places: int) -> None:
        """Give a slot what another holds in its first places."""
        for tensor in (tensor for tensors in self._tensors for tensor in tensors):
            tensor[target, :places] = tensor[source, :places]

    def aim(self, at: torch.Tensor, rows: torch.Tensor | None, longest: int) -> None:
        """Say what the next pass is about. `at`: where each of its tokens goes (slot * places + place). `rows`: the
        slots that it reads, None: all; `longest`: how many places of them."""
        self._at, self._rows, self._longest = at, rows, longest

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As in transformers: take the new ones (rows, heads, width, size), give all (rows, heads, longest, size)."""
        news = (key_states, value_states)
        while len(self._tensors) <= layer_idx:
            self._tensors.append([x.new_zeros(self.n + 1, self.places, x.shape[1], x.shape[3]) for x in news])
        keys, values = (self._put(*both) for both in zip(self._tensors[layer_idx], news, strict=True))
        return keys, values

    def _put(self, kept: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        kept.view(-1, *kept.shape[2:]).index_copy_(0, self._at, new.transpose(1, 2).flatten(0, 1))
        held = kept[: self.n] if self._rows is None else kept[self._rows]
        return held[:, : self._longest].transpose(1, 2)


class Slots:
    """`n` slots over a causal language model. Not for two threads at once.

    `keep`: keys and values are kept, which must suit the model (`trial.py`); else each conversation is fed
    whole for every token."""

    def __init__(self, model: Any, n: int, top_p: float = 1.0, *, keep: bool) -> None:
        self._model, self._n, self._top_p = model, n, top_p
        self._kept = Kept(n) if keep else None
        self._ids = np.zeros((n, 0), dtype=np.int64)  # of each slot's conversation
        self._length = np.zeros(n, dtype=np.int64)  # how many ids it has
        self._held = np.zeros(n, dtype=np.int64)  # of how many the keys and values are there
        self._used = np.zeros(n, dtype=np.int64)  # when it was last given away
        self._clock = 0
        self._busy: dict[int, Request] = {}

    @property
    def free(self) -> int:
        """How many slots have nothing to do."""
        return self._n - len(self._busy)

    @torch.inference_mode()
    def seat(self, requests: Sequence[Request]) -> None:
        """Give each a slot, at most as many as are free. Those that find most of their prompt there choose first."""
        prompts = [(np.array(request.prompt), request) for request in requests]
        for prompt, request in sorted(prompts, key=lambda both: -int(self._common(both[0]).max())):
            self._reserve(len(prompt))
            common, free = self._common(prompt), np.ones(self._n, dtype=bool)
            free[list(self._busy)] = False
            # A conversation goes on in its slot. Another one takes the slot that has been idle longest, and a copy.
            best = int((2 * common + (free & (common == self._held))).argmax())
            slot = best
            if not free[best] or common[best] < self._held[best]:
                slot = int(np.where(free, self._used, self._clock + 1).argmin())
                if self._kept is not None and common[best] > common[slot]:
                    self._kept.copy(best, slot, int(common[best]))
            self._ids[slot, : len(prompt)] = prompt
            self._held[slot], self._length[slot] = common[best], len(prompt)
            self._busy[slot] = request
            self._clock += 1
            self._used[slot] = self._clock

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """One pass, and one token more for those that it brought to their end. Gives the requests that are over."""
        need = self._length - self._held
        # Newcomers come first and by themselves: in one pass with them the others would be as wide, with padding.
        slots = np.flatnonzero(need > 1)
        slots = slots if len(slots) else np.flatnonzero(need)
        # Reading all slots takes no copy of them, and then the idle ones cost less than the copy would.
        rows = np.arange(self._n) if 2 * len(slots) >= self._n and need.max() == 1 else slots
        width = min(int(need[slots].max()), max(1, TOKENS_A_PASS // len(rows)))
        fed = np.minimum(need[rows], width)
        scores = self._forward(rows, fed, width)
        self._held[rows] += fed
        said = np.flatnonzero((fed > 0) & (self._held[rows] == self._length[rows]))  # the rows that are at their end
        return self._say(rows[said], scores[torch.from_numpy(said).to(scores.device)]) if len(said) else []

    def _forward(self, rows: np.ndarray, fed: np.ndarray, width: int) -> torch.Tensor:
        """Feed each row its next `fed` ids, padded on the left to `width`. Gives the last scores (rows, vocabulary)."""
        device = self._model.device
        if self._kept is None:
            ends = self._held[rows] + fed
            whole = torch.from_numpy(self._ids[rows, : int(ends.max())]).to(device)
            logits: torch.Tensor = self._model(input_ids=whole, use_cache=False).logits
            return logits[torch.arange(len(rows)), torch.from_numpy(ends - 1).clamp(min=0)].float()
        column = np.arange(width) - (width - fed)[:, None]
        places = np.where(column < 0, 0, self._held[rows][:, None] + column)
        at = np.where(column < 0, self._n * self._kept.places, rows[:, None] * self._kept.places + places)
        ids = np.where(column < 0, 0, self._ids[rows[:, None], places])
        longest = int(places.max()) + 1
        chosen = None if len(rows) == self._n else torch.from_numpy(rows).to(device)
        self._kept.aim(torch.from_numpy(at).flatten().to(device), chosen, longest)
        at_places = torch.from_numpy(places).to(device)
        seen = torch.arange(longest, device=device) <= at_places[:, None, :, None]
        mask = torch.zeros_like(seen, dtype=self._model.dtype).masked_fill_(~seen, torch.finfo(self._model.dtype).min)
        logits = self._model(
            input_ids=torch.from_numpy(ids).to(device), position_ids=at_places, attention_mask=mask,
            past_key_values=self._kept, use_cache=True, logits_to_keep=1,
        ).logits  # fmt: skip
        return logits[:, -1].float()

    def _say(self, slots: np.ndarray, scores: torch.Tensor) -> list[Request]:
        requests = [self._busy[slot] for slot in slots.tolist()]
        self._reserve(int(self._length.max()) + 1)
        temperatures = [request.temperature for request in requests]
        tokens = draw(scores, temperatures, self._top_p, [request.draw() for request in requests])
        logprobs = scores.gather(1, tokens[:, None])[:, 0] - scores.logsumexp(-1)
        over = []
        for slot, request, token, logprob in zip(
            slots.tolist(), requests, tokens.tolist(), logprobs.tolist(), strict=True
        ):
            request.said.append(token)
            request.logprobs.append(logprob)
            if request.over(request):  # its last token is not fed; a next turn brings it
                over.append(self._busy.pop(slot))
            else:
                self._ids[slot, self._length[slot]] = token
                self._length[slot] += 1
        return over

    def _common(self, prompt: np.ndarray) -> np.ndarray:
        """How many of the first ids each slot holds of this prompt. Its last id is always left to feed: (n,)."""
        width = min(len(prompt) - 1, self._ids.shape[1])
        if not width or self._kept is None:
            return np.zeros(self._n, dtype=np.int64)
        differ = self._ids[:, :width] != prompt[:width]
        same = np.where(differ.any(1), differ.argmax(1), width)
        return np.minimum(same, self._held)

    def _reserve(self, places: int) -> None:
        if self._kept is not None:
            self._kept.grow(places)
        more = (1 << (places - 1).bit_length()) - self._ids.shape[1]
        if more > 0:
            self._ids = np.pad(self._ids, ((0, 0), (0, more)))


def keeps(model: Any) -> bool:
    """Whether the model says that its past is keys and values at places, all of them seen: what `Kept` holds.

    Not where layers see a window of it or keep a state instead, nor where places are not told by position_ids. Whether
    it is so is tried (trajkit.exploration.policies.trial.fit).
    """
    import inspect

    layers = DynamicCache(config=model.config).layers
    takes = inspect.signature(model.forward).parameters
    told = {"position_ids", "past_key_values", "logits_to_keep"} <= set(takes) and not getattr(
        model.config, "alibi", False
    )
    return told and bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def draw(scores: torch.Tensor, temperatures: Sequence[float], top_p: float, lucks: Sequence[float]) -> torch.Tensor:
    """A token for each row of scores (rows, vocabulary), by one uniform number each. Temperature 0: the best one."""
    best = scores.argmax(-1)
    if not any(temperatures):
        return best
    heat = torch.tensor(temperatures, dtype=torch.float32, device=scores.device)[:, None]
    luck = torch.tensor(lucks, dtype=torch.float64, device=scores.device)[:, None]
    shares = torch.softmax(scores / heat.clamp(min=1e-4), dim=-1)
    if top_p < 1:
        ordered, order = shares.sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0  # the most likely one always stays
        shares = torch.zeros_like(shares).scatter_(1, order, ordered)
    sums = shares.cumsum(-1, dtype=torch.float64)
    drawn = torch.searchsorted(sums, luck * sums[:, -1:], right=True)[:, 0].clamp(max=scores.shape[1] - 1)
    return torch.where(heat[:, 0] == 0, best, drawn)
