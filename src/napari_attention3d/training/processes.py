"""Several processes that train one model, as torchrun starts them: one for each GPU.

Each takes its share of every batch. The loss is made of sums that are added up over the
processes (`SegmentationLoss`), and `DistributedDataParallel` averages the gradients: the
step is that of one process with the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from ..errors import InputError

__all__ = ["Processes", "joined"]

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""How long the others wait for the first, which validates and writes."""


@dataclass(frozen=True)
class Processes:
    """A process among those that train together.

    Parameters
    ----------
    rank
        Its number; 0 validates, writes and talks.
    count
        How many there are.
    local
        Its number on this machine, which is that of its GPU.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def is_first(self) -> bool:
        """Whether it is the one that validates, writes and talks."""
        return self.rank == 0

    def device(self, request: str) -> str:
        """Return the request for this process's own device."""
        if self.count > 1 and request in ("auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{self.local % torch.cuda.device_count()}"
        return request

    def share(self, batch: int) -> tuple[int, int]:
        """Patches of a batch that this process takes, and the number of the first of them.

        Raises
        ------
        InputError
            If they can't be shared evenly.
        """
        if batch % self.count:
            raise InputError(
                f"a batch of {batch} can't be shared by {self.count} processes; set batch_size "
                f"to a multiple of {self.count} (--batch)"
            )
        own = batch // self.count
        return own, self.rank * own

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return a module whose gradients are averaged over the processes."""
        if self.count == 1:
            return network
        # Heads without a loss (a weight of 0) have no gradient.
        return nn.parallel.DistributedDataParallel(
            network, find_unused_parameters=True, broadcast_buffers=False
        )

    def add_up(self, value: Tensor) -> Tensor:
        """Sum over the processes, differentiably.

        Every process's loss is that of the whole batch, so that the gradients of the sums,
        which are added up as well, are `count` times too large; DDP's average divides them.
        """
        from torch.distributed.nn.functional import all_reduce

        return cast(Tensor, all_reduce(value))  # type: ignore[no-untyped-call]

    def agree(self, value: T) -> T:
        """Return the first process's value (anything picklable) on all of them."""
        if self.count == 1:
            return value
        shared = [value]
        distributed.broadcast_object_list(shared, src=0)
        return shared[0]

    def wait(self) -> None:
        """Wait until all are here."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def joined(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that torchrun started; alone if it did not.

    Parameters
    ----------
    device
        What was asked for: NCCL connects GPUs, Gloo the rest.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "MASTER_ADDR" not in os.environ:
        yield Processes()
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(count)))
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    own_gpu = device in ("auto", "cuda") and gpus >= here
    distributed.init_process_group("nccl" if own_gpu else "gloo", timeout=PATIENCE)
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size(), local)
    finally:
        distributed.destroy_process_group()
