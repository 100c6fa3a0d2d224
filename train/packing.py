"""Which rows each step of the optimiser trains on, and how they are packed into forward passes.

A step takes `batch` groups of rows (an example's row alone, or the rows of both sides of a pair) whatever their length,
so packing changes its speed and not its gradient. Of several processes each packs its own share of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from trajkit.tokens.masks import Row


@dataclass(frozen=True)
class Pack:
    """Rows one after another in one forward pass: input_ids, position_ids and weights are (1, T), `lengths` add up
    to T. weights[0, t] is the loss weight of predicting input_ids[0, t], 0 at the first token of each row. `groups` has
    for each row the number of its group in the list that was packed; a group's rows follow each other in its order."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    weights: torch.Tensor
    lengths: list[int]
    groups: list[int]

    def to(self, device: torch.device) -> Pack:
        """The same on a device."""
        parts = (self.input_ids, self.position_ids, self.weights)
        input_ids, position_ids, weights = (part.to(device, non_blocking=True) for part in parts)
        return Pack(input_ids, position_ids, weights, self.lengths, self.groups)

    def rows(self) -> list[Pack]:
        """Each row as a pack of its own."""
        ids, positions, weights = (
            torch.split(part, self.lengths, 1) for part in (self.input_ids, self.position_ids, self.weights)
        )
        return [
            Pack(ids[n], positions[n], weights[n], [length], [group])
            for n, (length, group) in enumerate(zip(self.lengths, self.groups, strict=True))
        ]


def order(n: int, batch: int, steps: int, seed: int) -> Iterator[list[int]]:
    """For every step the numbers of its groups: every epoch all of 0 .. n - 1, shuffled anew by the seed.

    An epoch's last step is as short as it comes out; with fewer groups than `batch` every step takes all.
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
    """Steps that `epochs` over n groups take, at least one."""
    return max(1, round(-(-n // batch) * epochs))


def share(groups: Sequence[Sequence[Row]], rank: int, world: int) -> list[int]:
    """The numbers of the groups that process `rank` of `world` takes: each goes, the longest first, to the process that
    has the fewest tokens so far. With fewer groups than processes some have none; alone it is all of them, in order."""
    lengths = [sum(len(row.input_ids) for row in group) for group in groups]
    filled, taken = [0] * world, []
    for group in sorted(range(len(groups)), key=lambda group: -lengths[group]):
        emptiest = filled.index(min(filled))
        filled[emptiest] += lengths[group]
        if emptiest == rank:
            taken.append(group)
    return sorted(taken)


def pack(groups: Sequence[Sequence[Row]], tokens: int, some: Sequence[int] | None = None) -> list[Pack]:
    """The groups in as few passes of at most `tokens` tokens as first-fit decreasing finds; a longer one goes alone.

    The rows of a group are never parted. `some`: only the groups of these numbers.
    """
    lengths = [sum(len(row.input_ids) for row in group) for group in groups]
    bins: list[tuple[int, list[int]]] = []
    for group in sorted(range(len(groups)) if some is None else some, key=lambda group: -lengths[group]):
        for number, (filled, members) in enumerate(bins):
            if filled + lengths[group] <= tokens:
                bins[number] = (filled + lengths[group], [*members, group])
                break
        else:
            bins.append((lengths[group], [group]))
    return [_pack(groups, members) for _, members in bins]


def _pack(groups: Sequence[Sequence[Row]], members: Sequence[int]) -> Pack:
    rows = [row for group in members for row in groups[group]]
    lengths = [len(row.input_ids) for row in rows]
    return Pack(
        torch.tensor([[token for row in rows for token in row.input_ids]]),
        torch.cat([torch.arange(length) for length in lengths])[None],
        torch.tensor([[weight for row in rows for weight in row.weights]], dtype=torch.float32),
        lengths,
        [group for group in members for _ in groups[group]],
    )
