"""What a training minimises, one class for each kind of data that `trajkit select` writes.

    examples   the mean over a batch's trained tokens of -log p(token), each by its message's weight (EEF, section 3.2)
    pairs      direct preference optimisation (https://arxiv.org/abs/2305.18290) of conversations; ETO, IPR
    values     the mean squared error of a predicted step reward (IPR, section 5.5)

An objective holds `groups` of rows: what is drawn as one, and packed into the same forward pass. `part` is the share of
a batch's loss that one pass has, and the same of what is told beside it; over the passes of a batch both add up, also
where several processes have them, as all are divided by what the whole batch has.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.nn.functional import logsigmoid

from train.packing import Pack, pack, share
from train.parallel import ALONE, Processes
from train.passes import Backend, autocast, nll_sum, predictions, token_nll
from train.settings import Train
from trajkit.console import bar, clean
from trajkit.errors import BadData, UsageError
from trajkit.runs.atomic import write_whole
from trajkit.selection.dataset import kind, read
from trajkit.tokens.masks import Masks, Row, conversation, value_rows

AT_ONCE = 64  # groups that are packed together where nothing is trained


class Objective(Protocol):
    """See above. `counts`: what was made of the data, for people; `refused`: how many examples (sides of pairs) the
    chat template cannot hold, by reason; `beside`: what is told beside the loss; `batch` below are the numbers of a
    step's groups."""

    groups: list[list[Row]]
    counts: Counter[str]
    refused: Counter[str]
    beside: tuple[str, ...]

    def sample(self) -> dict[str, Row]:
        """Rows to look at before the first step, by what they are."""

    def part(self, model: Any, packed: Pack, batch: Sequence[int]) -> tuple[Tensor, dict[str, float]]:
        """(loss, what else is told) of a pass with some of the batch's groups: packed.groups are places in `batch`."""


def objective(data: Path, tokenizer: Any, settings: Train, backend: Backend) -> tuple[Objective, int]:
    """The objective for a file, by its kind, and the id of the token that ends an answer.

    Raises UsageError where there is no such file, BadData for one that cannot be trained on.
    """
    made: Objective
    what = kind(data)
    if what == "pairs" and settings.on_long == "split":
        raise UsageError("train.on_long=split: pairs cannot be cut. Take error or drop, or raise train.context.")
    on_long = "drop" if what == "pairs" else settings.on_long  # Pairs sees to it that no half of one is left
    masks = Masks(
        tokenizer,
        context=settings.context,
        on_long=on_long,
        per_step=settings.per_step,
        template_args=settings.template_args,
        on_refused=settings.on_refused,
    )
    if what == "pairs":
        made = Pairs(read(data), masks, settings, backend)
    elif what == "values":
        made = Values(read(data), masks)
    else:
        made = Examples(read(data), masks, backend)
    if not made.groups:
        counted = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in made.counts.items() if n)
        counted += "".join(f"; {n:,}: {reason}" for reason, n in masks.refused.most_common())
        raise BadData(f"{data}: it holds no row to train on ({counted}). `trajkit select` says what it left out.")
    made.refused = masks.refused
    return made, masks.stop_id


class Examples:
    """The weighted sum of -log p over a batch's trained tokens, divided by the sum of their weights."""

    refused: Counter[str]
    beside: tuple[str, ...] = ()

    def __init__(self, examples: Iterable[dict[str, Any]], masks: Masks, backend: Backend) -> None:
        self.backend = backend
        self.groups = [[_small(row)] for row in masks.rows(examples)]
        self.totals = [sum(row.weights) for [row] in self.groups]
        self.counts = masks.counts

    def sample(self) -> dict[str, Row]:
        """The first example."""
        return {"a sample": self.groups[0][0]}

    def part(self, model: Any, packed: Pack, batch: Sequence[int]) -> tuple[Tensor, dict[str, float]]:
        """Nothing is told beside the loss."""
        return nll_sum(model, packed, self.backend) / sum(self.totals[number] for number in batch), {}


class Pairs:
    """DPO: the mean over a batch's pairs of -log sigmoid(beta * (log-ratio of chosen - log-ratio of rejected)).

    A side's log-ratio is the sum over its actions' tokens of log p - log p_ref; what the environment says is context on
    both sides (ETO, eq. 11; IPR, eqs. 7 and 8, pairs of both levels counting alike). p_ref is the model that training
    starts from. To it comes `sft_weight` times the mean of -log p over the batch's chosen tokens of the pairs of
    `sft_level` (IPR, eq. 9, which is the sum, and so grows with the conversations' length).
    """

    refused: Counter[str]

    def __init__(self, pairs: Iterable[dict[str, Any]], masks: Masks, settings: Train, backend: Backend) -> None:
        self.backend, self.beta, self.sft_weight = backend, settings.beta, settings.sft_weight
        self.beside: tuple[str, ...] = ("dpo_loss", "margin", "accuracy", "chosen_reward", "rejected_reward")
        self.beside += ("sft_loss",) if settings.sft_weight else ()
        self.groups: list[list[Row]] = []
        self.n_chosen: list[int] = []  # how many of a group's rows are the chosen side's: the first ones
        self.sft_totals: list[float] = []  # the weights of these rows, 0 for a pair without SFT loss
        self.reference = torch.zeros(2, 0)  # log p_ref of every pair's chosen and rejected side
        self.counts = Counter[str]()
        for pair in pairs:
            self.counts["pairs"] += 1
            refused = masks.counts["refused"]
            sides = [self._side(masks, pair, side) for side in ("chosen", "rejected")]
            if masks.counts["refused"] > refused:
                self.counts["dropped_as_refused"] += 1
                continue
            too_long = [name for name, rows in zip(("chosen", "rejected"), sides, strict=True) if rows is None]
            if too_long and settings.on_long == "error":
                raise BadData(
                    f"pair {clean(str(pair['pair_id']))}: its {' and its '.join(too_long)} side is longer than the "
                    f"context of {settings.context:,} tokens. Raise train.context, or leave such pairs out (--set "
                    "train.on_long=drop)."
                )
            if too_long:
                self.counts["dropped_as_too_long"] += 1
                continue
            chosen, rejected = (rows or [] for rows in sides)
            self.groups.append([*chosen, *rejected])
            self.n_chosen.append(len(chosen))
            wanted = settings.sft_weight and settings.sft_level in ("all", pair["level"])
            self.sft_totals.append(sum(sum(row.weights) for row in chosen) if wanted else 0.0)
        masks.check_refused()
        for group in self.groups:
            self.counts["rows"] += len(group)
            self.counts["tokens"] += sum(len(row.input_ids) for row in group)
            self.counts["trained_tokens"] += sum(sum(map(bool, row.weights)) for row in group)
        for name in ("token_ids_used", "token_ids_unusable", "reasoning_left_out", "tools_left_out"):
            self.counts[name] = masks.counts[name]

    def sample(self) -> dict[str, Row]:
        """Both sides of the first pair."""
        return {"a pair's chosen side": self.groups[0][0], "its rejected side": self.groups[0][self.n_chosen[0]]}

    def refer_to(self, model: Any, out: Path, tokens: int, processes: Processes = ALONE) -> None:
        """Take log p_ref from out/reference.safetensors; where it is not there yet, compute it with the model as it is
        now, in passes of `tokens` tokens, each process for its share of the pairs."""
        path = out / "reference.safetensors"
        if not path.exists():
            found = torch.zeros(2, len(self.groups))
            device = next(model.parameters()).device
            # Without dropout; Unsloth, which keeps packed rows apart in training mode, stays in it otherwise.
            dropouts = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
            for module in dropouts if self.backend == "unsloth" else [model]:
                module.eval()
            at_once, hidden = AT_ONCE * processes.world, not processes.main
            with torch.no_grad(), bar(hidden, total=len(self.groups), unit="pair", desc="reference") as shown:
                for start in range(0, len(self.groups), at_once):
                    batch = range(start, min(start + at_once, len(self.groups)))
                    groups = [self.groups[number] for number in batch]
                    for packed in pack(groups, tokens, share(groups, processes.rank, processes.world)):
                        with autocast(device):
                            here, log_p = self._log_p(model, packed.to(device), batch)
                        found[:, here] = log_p.float().cpu()
                    shown.update(len(batch))
            model.train()
            self.reference = processes.add(found)
            if processes.main:
                write_whole(path, to_bytes({"log_p": found}))
            return
        self.reference = load_file(path)["log_p"]

    def part(self, model: Any, packed: Pack, batch: Sequence[int]) -> tuple[Tensor, dict[str, float]]:
        """Told are dpo_loss and sft_loss (unweighted), and means over the pairs: the rewards beta * log-ratio of both
        sides, their difference (margin), and the share of pairs where it is over 0 (accuracy)."""
        here, log_p = self._log_p(model, packed, batch)
        rewards = self.beta * (log_p - self.reference[:, here].to(log_p.device))
        margin = rewards[0] - rewards[1]
        dpo = -logsigmoid(margin).sum() / len(batch)
        means = torch.stack([margin, (margin > 0).float(), *rewards]).sum(1) / len(batch)
        told = dict(zip(self.beside[:5], torch.cat([dpo[None], means]).tolist(), strict=True))
        if not self.sft_weight:
            return dpo, told
        total = sum(self.sft_totals[number] for number in batch)
        counts = torch.tensor([self.sft_totals[number] > 0 for number in here], device=log_p.device)
        sft = -(log_p[0] * counts).sum() / (total or 1.0)
        return dpo + self.sft_weight * sft, told | {"sft_loss": sft.item()}

    def _side(self, masks: Masks, pair: dict[str, Any], side: str) -> list[Row] | None:
        """The rows of a side; None where the context has no room for all of them."""
        dropped = masks.counts["dropped_rows"]
        rows = [_small(replace(row, example_id=str(pair["pair_id"]))) for row in masks.tried(conversation(pair, side))]
        return rows if masks.counts["dropped_rows"] == dropped else None

    def _log_p(self, model: Any, packed: Pack, batch: Sequence[int]) -> tuple[list[int], Tensor]:
        """The numbers of the pairs in a pass, and log p of their chosen and their rejected sides, (2, pairs)."""
        at = packed.weights[0].nonzero()[:, 0]
        log_p = -token_nll(model, packed, self.backend) * packed.weights[0, at]
        here = [batch[group] for group in dict.fromkeys(packed.groups)]
        side_of_row: list[int] = []
        for place, number in enumerate(here):
            n_chosen = self.n_chosen[number]
            side_of_row += [place] * n_chosen + [len(here) + place] * (len(self.groups[number]) - n_chosen)
        side_of_token = torch.tensor(side_of_row).repeat_interleave(torch.tensor(packed.lengths)).to(at.device)[at]
        sums = log_p.new_zeros(2 * len(here)).index_add(0, side_of_token, log_p)
        return here, sums.view(2, -1)


class Values:
    """The mean over a batch's values of (predicted - value) squared, each by its action's weight.

    Predicted is what the model's head reads at the last token of an action that has a value, mostly the stop token:
    given all up to and with this action. All actions of a trajectory are predicted in one row.
    """

    refused: Counter[str]
    beside: tuple[str, ...] = ()

    def __init__(self, examples: Iterable[dict[str, Any]], masks: Masks) -> None:
        self.groups: list[list[Row]] = []
        self.values: list[list[float]] = []  # of each group, in the order of their tokens
        self.counts = masks.counts
        for example in examples:
            for row, values in value_rows(masks, example):
                self.groups.append([_small(row)])
                self.values.append(values)
        masks.check_refused()
        self.counts["values"] = sum(map(len, self.values))
        del self.counts["trained_tokens"]

    def sample(self) -> dict[str, Row]:
        """The first row; what is marked is where values are read."""
        return {"a sample, in which each value is read at a trained token": self.groups[0][0]}

    def part(self, model: Any, packed: Pack, batch: Sequence[int]) -> tuple[Tensor, dict[str, float]]:
        """Nothing is told beside the loss."""
        values = [value for group in packed.groups for value in self.values[batch[group]]]
        wanted = torch.tensor(values, device=packed.weights.device)
        weights = packed.weights[0, packed.weights[0] > 0]
        total = sum(sum(row.weights) for number in batch for row in self.groups[number])
        return ((predictions(model, packed) - wanted).square() * weights).sum() / total, {}


def _small(row: Row) -> Row:
    """As arrays, of four bytes a token."""
    return replace(row, input_ids=array("i", row.input_ids), weights=array("f", row.weights))  # type: ignore[arg-type]
