"""Attention over packed rows: each sequence of a row sees itself and nothing else of the row.

The sequences are attended to one by one with PyTorch's causal kernel, so nothing has to be masked out: no mask of
row x row is built, and there is no contamination by construction. Models whose attention is another one (sinks, chunks,
ALiBi), or whose other layers mix rows, are found by train/probe.py and do not use it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "packed"


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    lengths: list[int] | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a row: query (1, heads, T, d), key and value (1, key-value heads, T, d) -> (1, T, heads, d).

    `lengths` are those of the row's sequences and add up to T. None: the row is one sequence.
    Raises ValueError for models whose attention is another one (soft capping).
    """
    if softcap is not None:
        raise ValueError("this model caps its attention scores (softcap), which packed rows do not do")
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast the rotary embedding makes them float32
    attended = []
    lengths = lengths or [query.shape[2]]
    parts = [torch.split(whole, lengths, 2) for whole in (query, key, value)]
    for q, k, v in zip(*parts, strict=True):
        length, band = q.shape[2], None
        if sliding_window is not None and length > sliding_window:
            place = torch.arange(length, device=q.device)
            behind = place[:, None] - place[None, :]
            band = (behind >= 0) & (behind < sliding_window)
        attended.append(
            scaled_dot_product_attention(
                q, k, v, attn_mask=band, dropout_p=dropout, is_causal=band is None, scale=scaling,
                enable_gqa=q.shape[1] != k.shape[1],
            )
        )  # fmt: skip
    return torch.cat(attended, 2).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, packed_attention)
