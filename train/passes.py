"""A pack's rows through a model, and what it makes of their trained tokens.

All rows go through in one forward pass, unless the model does not keep them apart (train/probe.py finds that out at
loading); then each row has a pass of its own, by the model's own attention. The numbers are the same either way.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from train.packing import Pack

Backend = Literal["plain", "unsloth"]
IGNORED = -100  # cross entropy's label of a token that is not predicted


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 on a GPU, float32 on a CPU."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def one_row_a_pass(model: Any) -> str | None:
    """Why each row of a pack goes through this model by itself; None: they go through together."""
    return getattr(model, "trajkit_one_row_a_pass", None)


def set_one_row_a_pass(model: Any, why: str | None) -> None:
    """Have rows go through this model one by one, and say why; None: together."""
    model.trajkit_one_row_a_pass = why


def nll_sum(model: Any, packed: Pack, backend: Backend = "plain") -> Tensor:
    """The weighted sum of -log p over a pack's trained tokens, a scalar."""
    if backend == "unsloth":
        return torch.stack([_unsloth_sum(model, some) for some in _passes(model, packed)]).sum()
    return (token_nll(model, packed, backend) * packed.weights[packed.weights != 0]).sum()


def token_nll(model: Any, packed: Pack, backend: Backend = "plain") -> Tensor:
    """-log p of the tokens that have a weight, in their order. Logits are computed for those alone (`plain`)."""
    parts = []
    for some in _passes(model, packed):
        at = some.weights[0].nonzero()[:, 0]
        scores = logits(model, some, at - 1, backend)
        parts.append(cross_entropy(scores.float(), some.input_ids[0, at], reduction="none"))
    return torch.cat(parts)


def predictions(model: Any, packed: Pack) -> Tensor:
    """What a model with a head predicts at the marked tokens of a pack, in their order."""
    score = _whole(model).score
    marked = torch.cat([hidden(model, some)[some.weights[0] > 0] for some in _passes(model, packed)])
    with torch.autocast(marked.device.type, enabled=False):  # in float32: IPR tells rewards apart by 0.01
        predicted: Tensor = score(marked.float())[:, 0]
    return predicted


def logits(model: Any, packed: Pack, places: Tensor, backend: Backend = "plain") -> Tensor:
    """The scores behind the tokens at `places`, [places, vocabulary], by one forward pass."""
    if backend == "unsloth":
        scores: Tensor = model(**_unsloth_row(packed)).logits[0]
        return scores[places]
    given = _plain_row(model, packed)
    if "logits_to_keep" in inspect.signature(_whole(model).forward).parameters:
        given["logits_to_keep"] = places
    scores = model(**given).logits[0]
    return scores if len(scores) == len(places) else scores[places]  # some take it and give all


def hidden(model: Any, packed: Pack) -> Tensor:
    """The last hidden state of every token, [T, size], by one forward pass. For a model with a head of its own."""
    state: Tensor = _whole(model).base_model(**_plain_row(model, packed)).last_hidden_state[0]
    return state


def _passes(model: Any, packed: Pack) -> Sequence[Pack]:
    """What goes through the model at once. Rows on which nothing is trained are left out where rows go one by one."""
    if one_row_a_pass(model) is None:
        return [packed]
    rows = packed.rows()
    return [row for row in rows if row.weights.any()] or rows[:1]


def _plain_row(model: Any, packed: Pack) -> dict[str, Any]:
    # One row by itself is what every model takes without more being said; not all take positions or other arguments.
    if one_row_a_pass(model) is not None:
        return {"input_ids": packed.input_ids, "use_cache": False}
    return {
        "input_ids": packed.input_ids,
        "position_ids": packed.position_ids,
        "lengths": packed.lengths,
        "use_cache": False,
    }


def _unsloth_sum(model: Any, packed: Pack) -> Tensor:
    """The weighted sum of -log p, by one forward pass. Divided by the whole batch's sum of weights it is the plain
    backend's mean loss."""
    weights = packed.weights[0]
    trained = weights != 0
    values: Tensor = torch.unique(weights[trained])
    if len(values) == 1:
        # The fused cross entropy never holds all logits, but knows no weights: sum / num_items_in_batch.
        labels = packed.input_ids.masked_fill(~trained, IGNORED)
        loss: Tensor = model(**_unsloth_row(packed), labels=labels, num_items_in_batch=1).loss
        return loss * values[0]
    at = trained.nonzero()[:, 0]
    scores = logits(model, packed, at - 1, "unsloth")
    nll = cross_entropy(scores.float(), packed.input_ids[0, at], reduction="none")
    return (nll * weights[at]).sum()


def _unsloth_row(packed: Pack) -> dict[str, Any]:
    # Unsloth's attention keeps sequences apart by packed_seq_lengths, its rotary embedding by position_ids
    # (unsloth/models/llama.py, LlamaAttention_fast_forward); on transformers' own layers position_ids do both.
    lengths = torch.tensor(packed.lengths, dtype=torch.int32)
    return {
        "input_ids": packed.input_ids,
        "position_ids": packed.position_ids,
        "use_cache": False,
        "packed_seq_lengths": lengths,
    }


def _whole(model: Any) -> Any:
    """The model below its adapters, if it has any."""
    return model.get_base_model() if hasattr(model, "peft_config") else model
