"""The processes of one training: one alone, or several that torchrun started, each with a GPU where there are any.

    torchrun --nproc-per-node=8 -m train.trainer --data sft.parquet --model FOLDER --out FOLDER

Every process holds all the data and the whole model. Of each step's batch it computes a share, and the gradients are
added up. What the loss is divided by is the whole batch's, which every process knows, so what comes out is the same
loss and gradient as a process alone has, apart from the order in which floats are added. All of them then take the same
step of the optimiser. Plain sums in place of DistributedDataParallel: the processes have different numbers of passes,
some none, and no model has to be wrapped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trajkit.errors import TrajkitError, UsageError

PATIENCE = timedelta(hours=1)  # how long the others wait for one, who writes a large checkpoint, say
BUCKET = 2**24  # gradients that are sent as one, in numbers: 64 MiB


@dataclass(frozen=True)
class Processes:
    """This process's `rank` among `world`. Its methods give back at once what they were given where it is alone; else
    all processes must call the same ones in the same order, and TrajkitError is raised when another one is gone."""

    rank: int = 0
    world: int = 1

    @property
    def main(self) -> bool:
        """Whether it is the one that writes, and talks."""
        return self.rank == 0

    def agree(self, told: Mapping[str, Any]) -> None:
        """Raise UsageError, in all processes, where one has something else to tell; it names what."""
        if self.world == 1:
            return
        all_told: list[Any] = [None] * self.world
        with _together():
            dist.all_gather_object(all_told, dict(told))
        for rank, other in enumerate(all_told):
            if names := [name for name, value in all_told[0].items() if other[name] != value]:
                raise UsageError(
                    f"processes 0 and {rank} have other {', '.join(names)}. Each needs the same command, the same "
                    "files, and one --out that all of them see (on several machines: a folder that they share)."
                )

    def add(self, tensor: Tensor) -> Tensor:
        """The tensor, in which the sum over the processes is now."""
        if self.world > 1:
            moved = tensor.to(_device())
            with _together():
                dist.all_reduce(moved)
            tensor.copy_(moved)
        return tensor

    def sums(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Each number's sum over the processes."""
        if self.world == 1:
            return dict(numbers)
        added = self.add(torch.tensor(list(numbers.values()), dtype=torch.float64))
        return dict(zip(numbers, added.tolist(), strict=True))

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Sum every parameter's gradient over the processes. What has none in any process stays without one."""
        if self.world == 1:
            return
        having = self.add(torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int64))
        gradients = []
        for parameter, count in zip(parameters, having.tolist(), strict=True):
            if count and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = self.add(torch.cat([gradient.reshape(-1) for gradient in bucket]))
            parts = torch.split(flat, [gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def wait(self) -> None:
        """Until all are here."""
        self.sums({"here": 1.0})


ALONE = Processes()


def join() -> Processes:
    """The processes that this one was started with, by torchrun or whatever sets RANK, WORLD_SIZE, ... as it does.

    Raises UsageError where they were started in a way that cannot work.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return ALONE
    if not dist.is_initialized():
        if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
            raise UsageError(
                f"WORLD_SIZE is set and {', '.join(missing)} not. Start several processes with torchrun, or unset it."
            )
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if torch.cuda.is_available():
            if local >= (gpus := torch.cuda.device_count()):
                raise UsageError(
                    f"process {local} of this machine has no GPU: there are {gpus}. Start one process for each of them "
                    f"(torchrun --nproc-per-node={gpus})."
                )
            torch.cuda.set_device(local)
        with _together():
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    return Processes(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """End what `join` began, once all is done. (A process that fails just ends: the others may not answer any more.)"""
    if dist.is_initialized():
        dist.destroy_process_group()


def _device() -> torch.device:
    """Where tensors must be to be sent."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in runs of at most BUCKET numbers; a larger one goes alone."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(held.numel() for held in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # all of torch.distributed's are
        reason = str(error).partition("\n")[0]
        raise TrajkitError(
            f"another process of this training has ended, or cannot be reached ({reason}). Look for what it said; "
            "the same command goes on from the last checkpoint."
        ) from error
