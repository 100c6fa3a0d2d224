"""Whether a model keeps the rows of a pack apart, tried out at loading on two random rows.

Packing is only exact where every layer looks at where a row begins. State-space and convolution layers go on from the
row before; attention with sinks, chunks or soft capping is another one than train/attention.py's. So the two rows go
through the model each by itself, as transformers runs it, and then packed. Where what it predicts differs, rows go
through one by one (train/passes.py). The model's own weights and kernels are what is tried, so nothing has to be known
about its architecture.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from train.packing import Pack, pack
from train.passes import Backend, autocast, hidden, logits, set_one_row_a_pass
from trajkit.errors import UsageError
from trajkit.masks import Row
from trajkit.terminal import clean

LONG, SHORT = 24, 17  # tokens of the two rows
BEYOND = 8  # tokens that the longer row has past where a model may begin to treat a row otherwise
# How far what is predicted for a token may be off, as a share of it: in float32, and where bfloat16 is computed with.
# Rounding is off by about 1e-6 and 0.02, what packing spoils by 0.01 to 1.
EXACT, COARSE = 1e-4, 0.1
BLOCK = 4  # tokens that are judged together where numbers are coarse
_LIMITS = re.compile("window|chunk|index_topk")  # settings of a config, in tokens


def probe(model: Any, ids: Sequence[int], context: int, backend: Backend, *, head: bool = False) -> None:
    """Set how rows of up to `context` tokens go through the model: packed, or one row a pass (passes.one_row_a_pass).

    `ids` are the tokens that the rows are drawn from, always the same ones. The longer row goes beyond what the config
    names as window or chunk, if `context` does. A plain model is left with train/attention.py where that is exact, else
    with its own attention. `head`: it is looked at below its head.
    Nothing is computed but a dozen forward passes at most, without gradients and in float32.
    Raises UsageError for a model that does not run, or predicts a token from those after it.
    """
    device = next(model.parameters()).device
    few = _rows(ids, min(LONG, context), min(SHORT, context)).to(device)
    together = _rows(ids, max(few.lengths[0], _beyond(model.config, context)), few.lengths[1]).to(device)
    exact = backend == "plain"  # Unsloth's kernels are run as in training
    with torch.no_grad(), _still(model, backend), _in_float32(model) if exact else autocast(device):
        try:
            if backend == "plain":
                _own_attention(model, few, head, exact)
            wanted = _alone(model, together, backend, head)
        except Exception as error:  # whatever its own code raises
            raise UsageError(f"the model does not run: {clean(_first_line(error))}") from error
        if any(bool(one.isnan().any()) for one in wanted):
            raise UsageError("the model predicts NaN for random tokens: are its weights whole?")
        _check_order(model, together, wanted[0], backend, head, exact)
        why = _trial(model, together, wanted, backend, head, exact)
    set_one_row_a_pass(model, why)


def _own_attention(model: Any, few: Pack, head: bool, exact: bool) -> None:
    """Keep the attention that transformers chose, if it is the one that the model's own code spells out (eager), and
    take that one where not: a faster one may leave something out, as Gemma 2's does the capping of scores."""
    chosen = model.config._attn_implementation
    fast = _alone(model, few, "plain", head)
    _attend_by(model, "eager")
    if model.config._attn_implementation == chosen or not all(
        _equal(*both, exact) for both in zip(fast, _alone(model, few, "plain", head), strict=True)
    ):
        return
    _attend_by(model, chosen)


def _rows(ids: Sequence[int], *lengths: int) -> Pack:
    draw = random.Random(0)
    rows = [Row("probe", draw.choices(ids, k=length), [0.0] + [1.0] * (length - 1)) for length in lengths]
    return pack([rows], sum(lengths))[0]


def _trial(model: Any, together: Pack, wanted: list[Tensor], backend: Backend, head: bool, exact: bool) -> str | None:
    """Why the model cannot take packed rows, None where it can. With it, its attention is the one to train with."""
    own = model.config._attn_implementation
    set_one_row_a_pass(model, None)
    if backend == "plain":
        from train.attention import NAME  # not before: Unsloth has to come before transformers

        _attend_by(model, NAME)
    why = "with other rows in its forward pass this model predicts other tokens"
    try:
        packed = torch.cat(_together(model, together, backend, head))
        if _equal(packed, torch.cat(wanted), exact):
            return None
        alone = [_together(model, row, backend, head)[0] for row in together.rows()]
        if not all(_equal(*both, exact) for both in zip(alone, wanted, strict=True)):
            why = "its attention is another one than packed rows are attended to by"
    except Exception as error:  # a model that does not know the arguments, say
        why = f"it does not take packed rows ({clean(_first_line(error))})"
    if backend == "plain":
        _attend_by(model, own)
        if not all(_equal(*both, exact) for both in zip(_alone(model, together, backend, head), wanted, strict=True)):
            raise UsageError(f"{why}, and its own attention cannot be put back: it cannot be trained here.")
    return f"{why}: each row has a pass of its own, which is exact and slower."


def _alone(model: Any, together: Pack, backend: Backend, head: bool) -> list[Tensor]:
    """What is predicted for each row by itself, as transformers runs the model, of the tokens that are compared."""
    set_one_row_a_pass(model, "")
    return [_together(model, row, backend, head)[0] for row in together.rows()]


def _together(model: Any, packed: Pack, backend: Backend, head: bool) -> list[Tensor]:
    """The same for the rows of a pack in one pass."""
    places, start = [], 0
    for length in packed.lengths:
        places.append(start + torch.tensor(_compared(length), device=packed.input_ids.device))
        start += length
    at = torch.cat(places)
    found = hidden(model, packed)[at] if head else logits(model, packed, at, backend)
    found = found.float().masked_fill(found.isinf(), 0)  # scores of ids that are no tokens, in some models
    return list(torch.split(found, [len(some) for some in places]))


def _compared(length: int) -> list[int]:
    """The places that are compared in a row: its ends, which is where it can be mistaken, and all of a short one."""
    return list(range(length)) if length <= 64 else [*range(32), *range(length - 32, length)]


def _check_order(model: Any, together: Pack, wanted: Tensor, backend: Backend, head: bool, exact: bool) -> None:
    """Raise UsageError where the first half of a row is predicted otherwise when the second half is another one."""
    row = together.rows()[0]
    n = row.lengths[0] // 2
    changed = torch.cat([row.input_ids[:, :n], row.input_ids[:, n:].flip(1)], 1)
    [found] = _together(model, replace(row, input_ids=changed), backend, head)
    n = min(n, len(wanted) // 2)
    if not _equal(found[:n], wanted[:n], exact):
        raise UsageError(
            "the model predicts a token also from those after it, so it is no causal language model: it cannot be "
            "trained on conversations."
        )


def _equal(found: Tensor, wanted: Tensor, exact: bool) -> bool:
    """Whether two predictions (tokens, numbers) are the same but for rounding.

    Coarse numbers send a token of a mixture of experts to another expert now and then: there the middle one of every
    few tokens counts.
    """
    off = (found - wanted).norm(dim=1) / wanted.norm(dim=1).clamp(min=1e-9)
    if exact:
        return bool((off <= EXACT).all())  # not for NaN
    return all(bool(block.median() <= COARSE) for block in off.split(BLOCK))


def _beyond(config: Any, context: int) -> int:
    """How long a row of at most `context` tokens must be to meet everything that the config changes with length."""
    told = config.to_dict()
    limits = [value for name, value in _numbers(told) if _LIMITS.search(name)]
    if re.search("longrope|dynamic", str(told)):  # rotary embeddings that change with the longest row
        limits += [value for name, value in _numbers(told) if name == "original_max_position_embeddings"]
    return max((min(limit + BEYOND, context) for limit in limits if 0 < limit < context), default=0)


def _numbers(told: Any) -> Iterator[tuple[str, int]]:
    for name, value in told.items() if isinstance(told, dict) else ():
        if isinstance(value, int) and not isinstance(value, bool):
            yield str(name), value
        yield from _numbers(value)


def _attend_by(model: Any, name: str) -> None:
    """Set the attention; a model that knows no other keeps its own, and that is what is then compared."""
    from transformers.utils import logging

    shown = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it warns of models that know no other
    try:
        model.set_attn_implementation(name)
    except ValueError:
        pass
    finally:
        logging.set_verbosity(shown)


@contextmanager
def _still(model: Any, backend: Backend) -> Iterator[None]:
    """Without dropout; Unsloth, which keeps packed rows apart in training mode, stays in it otherwise."""
    training = {module: module.training for module in model.modules()}
    for module in model.modules():
        if backend == "plain" or isinstance(module, torch.nn.Dropout):
            module.training = False
    try:
        yield
    finally:
        for module, was in training.items():
            module.training = was


@contextmanager
def _in_float32(model: Any) -> Iterator[None]:
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


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
