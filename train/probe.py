"""Whether a model keeps the rows of a pack apart, tried out at loading on two random rows.

Packing is only exact where every layer looks at where a row begins. State-space and convolution layers go on from the
row before; attention with sinks, chunks or soft capping is another one than train/attention.py's. So the two rows go
through the model each by itself, as transformers runs it, and then packed. Where what it predicts differs, rows go
through one by one (train/passes.py). The model's own weights and kernels are what is tried, so nothing has to be known
about its architecture.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from train.packing import Pack, pack
from train.passes import Backend, autocast, hidden, logits, set_one_row_a_pass
from trajkit.console import clean
from trajkit.errors import UsageError
from trajkit.exploration.policies.trial import BEYOND, EXACT, attend_by, in_float32, lengths, off, settle_attention
from trajkit.tokens.masks import Row

LONG, SHORT = 24, 17  # tokens of the two rows
# How far what is predicted for a token may be off, as a share of it, where bfloat16 is computed with: rounding is off
# by about 0.02, what packing spoils by up to 1.
COARSE = 0.1
BLOCK = 4  # tokens that are judged together there


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
    with torch.no_grad(), _still(model, backend), in_float32(model) if exact else autocast(device):
        try:
            if backend == "plain":
                settle_attention(model, lambda: _alone(model, few, "plain", head))
            wanted = _alone(model, together, backend, head)
        except Exception as error:  # whatever its own code raises
            raise UsageError(f"the model does not run: {clean(_first_line(error))}") from error
        if any(bool(one.isnan().any()) for one in wanted):
            raise UsageError("the model predicts NaN for random tokens: are its weights whole?")
        _check_order(model, together, wanted[0], backend, head, exact)
        why = _trial(model, together, wanted, backend, head, exact)
    set_one_row_a_pass(model, why)


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

        attend_by(model, NAME)
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
        attend_by(model, own)
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
    shares = off(found, wanted)
    if exact:
        return bool((shares <= EXACT).all())  # not for NaN
    return all(bool(block.median() <= COARSE) for block in torch.split(shares, BLOCK))


def _beyond(config: Any, context: int) -> int:
    """How long a row of at most `context` tokens must be to meet everything that the config changes with length."""
    return max((min(limit + BEYOND, context) for limit in lengths(config) if limit < context), default=0)


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


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
