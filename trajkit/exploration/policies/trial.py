"""What a transformers model computes, tried out on a few random tokens at loading, instead of known by its name.

For sampling (`fit`) and for training (train/probe.py). All of it is computed in float32, so that rounding is not taken
for a difference.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

EXACT = 1e-4  # how far what is predicted for a token may be off, as a share of it; rounding is off by about 1e-6
BEYOND = 8  # tokens past a length from which on a model may treat a row otherwise
LONGEST = 4096  # tokens of a trial: what begins beyond them is not tried
SAID = 4  # tokens that are generated
_LIMITS = re.compile("window|chunk|index_topk")  # settings of a config, in tokens

Fit = Literal["slots", "whole", "one"]


def fit(model: Any) -> Fit:
    """How conversations can be answered side by side, and each still gets the model's own scores.

    slots    with their keys and values kept (trajkit.exploration.policies.continuous_batching)
    whole    each fed whole for every token
    one      the same one at a time, as what the model says of one hangs on the others that are in the pass
    """
    from trajkit.exploration.policies.continuous_batching import keeps

    ids = range(model.get_input_embeddings().weight.shape[0])
    with torch.no_grad(), in_float32(model):
        settle_attention(model, lambda: [scores_alone(model, _prompts(ids, 24)[0])])
        if _rope_grows(model.config):
            return "one"
        limits = lengths(model.config)
        if keeps(model) and all(limit + BEYOND <= LONGEST for limit in limits):
            longest = max((limit + BEYOND for limit in limits), default=0)
            if _same(model, _prompts(ids, 5, max(23, longest), 14), keep=True):
                return "slots"
        return "whole" if _same(model, _prompts(ids, 5, 23, 14), keep=False) else "one"


def _same(model: Any, prompts: Sequence[list[int]], keep: bool) -> bool:
    """Whether answers given together have the scores that the model gives to each conversation alone."""
    from trajkit.exploration.policies.continuous_batching import Request, Slots

    requests = [Request(ids, 0.0, lambda: 0.0, lambda request: len(request.said) == SAID) for ids in prompts]
    slots = Slots(model, len(prompts), keep=keep)
    slots.seat(requests)
    over = 0
    while over < len(requests):
        over += len(slots.step())
    for request in requests:
        alone = scores_alone(model, request.prompt + request.said)
        scores = alone[-1 - SAID : -1].log_softmax(-1)
        wanted = scores.gather(1, torch.tensor(request.said, device=scores.device)[:, None])[:, 0]
        found = torch.tensor(request.logprobs, device=scores.device)
        if not bool(((found - wanted).abs() <= EXACT * wanted.abs().clamp(min=1)).all()):
            return False
    return True


def _prompts(ids: Sequence[int], *lengths: int) -> list[list[int]]:
    draw = random.Random(0)
    return [draw.choices(ids, k=length) for length in lengths]


def scores_alone(model: Any, ids: list[int]) -> Tensor:
    """The scores behind every token of one conversation, (tokens, vocabulary)."""
    scores: Tensor = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0].float()
    return scores


def off(found: Tensor, wanted: Tensor) -> Tensor:
    """How far what is predicted for each token (tokens, numbers) is off, as a share of what it should be: (tokens,)."""
    shares: Tensor = torch.linalg.vector_norm(found - wanted, dim=1)
    shares /= torch.linalg.vector_norm(wanted, dim=1).clamp(min=1e-9)
    return shares


def settle_attention(model: Any, predict: Callable[[], list[Tensor]]) -> None:
    """Keep the attention that transformers chose, if it is the one that the model's own code spells out (eager), and
    take that one where not: a faster one may leave something out, as Gemma 2's does the capping of scores."""
    chosen = model.config._attn_implementation
    fast = predict()
    attend_by(model, "eager")
    if model.config._attn_implementation == chosen:
        return
    if all(bool((off(*both) <= EXACT).all()) for both in zip(fast, predict(), strict=True)):
        attend_by(model, chosen)


def attend_by(model: Any, name: str) -> None:
    """Set the attention; a model that knows no other keeps its own."""
    from transformers.utils import logging

    shown = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it warns of models that know no other
    try:
        model.set_attn_implementation(name)
    except ValueError:
        pass
    finally:
        logging.set_verbosity(shown)


def lengths(config: Any) -> list[int]:
    """The numbers of tokens from which on a model may treat a row otherwise, as its config names them: windows, chunks,
    and where the rotary embedding changes with the longest row."""
    told = config.to_dict()
    limits = [value for name, value in _numbers(told) if _LIMITS.search(name)]
    if _rope_grows(config):
        limits += [value for name, value in _numbers(told) if name == "original_max_position_embeddings"]
    return [limit for limit in limits if limit > 0]


def _rope_grows(config: Any) -> bool:
    """Whether the rotary embedding of all rows of a pass changes with the longest of them."""
    return re.search("longrope|dynamic", str(config.to_dict())) is not None


def _numbers(told: Any) -> Iterator[tuple[str, int]]:
    for name, value in told.items() if isinstance(told, dict) else ():
        if isinstance(value, int) and not isinstance(value, bool):
            yield str(name), value
        yield from _numbers(value)


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Compute in float32 whatever the weights are held in, so that rounding is not taken for a difference.

    A layer's weights are float32 while the layer runs, those outside of layers all the time: on top of the model there
    is never more in memory than these.
    """
    layers: list[Any] = []
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList):
            within = {id(part) for layer in layers for part in layer.modules()}
            layers += [layer for layer in module if id(layer) not in within]
    inside = {id(tensor) for layer in layers for tensor in (*layer.parameters(), *layer.buffers())}

    def cast(tensors: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
        were = [(t, t.data) for t in tensors if t.is_floating_point() and t.dtype != torch.float32]
        for tensor, _ in were:
            tensor.data = tensor.data.float()
        return were

    def restore(were: list[tuple[Tensor, Tensor]]) -> None:
        while were:
            tensor, data = were.pop()
            tensor.data = data

    running: list[tuple[Tensor, Tensor]] = []
    hooks = []
    for layer in layers:
        tensors = [*layer.parameters(), *layer.buffers()]
        hooks += [
            layer.register_forward_pre_hook(lambda *_, tensors=tensors: running.extend(cast(tensors))),
            layer.register_forward_hook(lambda *_: restore(running), always_call=True),
        ]
    outside = cast(t for t in (*model.parameters(), *model.buffers()) if id(t) not in inside)
    try:
        yield
    finally:
        restore(outside)
        restore(running)
        for hook in hooks:
            hook.remove()
