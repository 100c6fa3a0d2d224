"""Which rows each step of the optimiser trains on, and how they are packed into forward passes.

A step takes `batch` rows whatever their length, so packing changes its speed and not its gradient.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from train.masks import Row


@dataclass(frozen=True)
class Pack:
    """Rows one after another in one forward pass: input_ids, position_ids and weights are (1, T), `lengths` add up
    to T. weights[0, t] is the loss weight of predicting input_ids[0, t], 0 at the first token of each row."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    weights: torch.Tensor
    lengths: list[int]
    example_ids: list[str]


def order(n: int, batch: int, steps: int, seed: int) -> Iterator[list[int]]:
    """For every step the numbers of its rows: every epoch all of 0 .. n - 1, shuffled anew by the seed.

    An epoch's last step is as short as it comes out; with fewer rows than `batch` every step takes all.
    """
    epoch, left = 0, steps
    while left:
        numbers = list(range(n))
        random.Random(f"{seed} {epoch}").shuffle(numbers)
        for start in range(0, n, batch)[:left]:
            yield numbers[start : start + batch]
            left -= 1
        epoch += 1


def steps_of(n: int, batch: int, epochs: float) -> int:
    """Steps that `epochs` over n rows take, at least one."""
    return max(1, round(-(-n // batch) * epochs))


def pack(rows: Sequence[Row], tokens: int) -> list[Pack]:
    """The rows in as few passes of at most `tokens` tokens as first-fit decreasing finds; a longer row goes alone."""
    bins: list[tuple[int, list[Row]]] = []
    for row in sorted(rows, key=lambda row: -len(row.input_ids)):
        length = len(row.input_ids)
        for number, (filled, members) in enumerate(bins):
            if filled + length <= tokens:
                bins[number] = (filled + length, [*members, row])
                break
        else:
            bins.append((length, [row]))
    return [_pack(members) for _, members in bins]


def _pack(rows: Sequence[Row]) -> Pack:
    lengths = [len(row.input_ids) for row in rows]
    return Pack(
        torch.tensor([[token for row in rows for token in row.input_ids]]),
        torch.cat([torch.arange(length) for length in lengths])[None],
        torch.tensor([[weight for row in rows for weight in row.weights]], dtype=torch.float32),
        lengths,
        [row.example_id for row in rows],
    )
