"""Processes that train one model together: each takes its part of every batch, and the gradients are added up.

Every process draws the whole batch from (seed, stage, step), as one process does, and computes every `size`-th example
of it. The sum of the gradients is therefore that of one process but for the last bits of floating-point sums, whatever
the batch size: where a batch is smaller than the team, some add nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from adabldm.core.errors import AdaBLDMError, InputError, OutputError

T = TypeVar("T")

BUCKET = 2**24
"""Numbers that are added up at a time."""


class ElsewhereError(AdaBLDMError):
    """Another process of the team cannot go on, and says why."""


@dataclass(frozen=True)
class Team:
    """The processes that train together.

    Attributes:
        rank: of this process, from 0, which alone writes and speaks.
        size: number of processes.
        device: where this process computes; `None` for one process, which may compute anywhere.
    """

    rank: int = 0
    size: int = 1
    device: torch.device | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def part(self, places: Sequence[T]) -> Sequence[T]:
        """The own part of what the team shares out."""
        return places[self.rank :: self.size]

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over the team."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return [float(value) for value in sums]

    def add_up_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every process the sum of all gradients; a parameter without any in the whole team keeps none."""
        if self.size == 1:
            return
        taken = self.total([float(one.grad is not None) for one in parameters])
        used = [one for one, count in zip(parameters, taken, strict=True) if count]
        for one in used:
            if one.grad is None:
                one.grad = torch.zeros_like(one)
        for bucket in _buckets([one.grad for one in used if one.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, own in zip(bucket, torch.split(flat, [one.numel() for one in bucket]), strict=True):
                gradient.copy_(own.view_as(gradient))

    def spread(self, value: T) -> T:
        """A value of the leading process."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, 0, device=self.device)
        found: T = box[0]
        return found

    def spread_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors with those of the leading process."""
        if self.size > 1:
            for one in tensors:
                own = one.detach().to(self.device).contiguous()
                dist.broadcast(own, 0)
                one.detach().copy_(own)

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    @contextmanager
    def together(self) -> Iterator[None]:
        """If a process fails in this, all end: with its error there, and with `ElsewhereError` in the others.

        Raises:
            ElsewhereError: another process, the first of those that failed, tells the error.
        """
        error: AdaBLDMError | None = None
        try:
            yield
        except AdaBLDMError as own:
            error = own
        failed = [rank for rank, text in enumerate(self.gather(None if error is None else str(error))) if text]
        if failed and failed[0] != self.rank:
            raise ElsewhereError from error
        if error is not None:
            raise error


ALONE = Team()
"""One process."""


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors in groups that are not too large."""
    bucket: list[Tensor] = []
    for one in tensors:
        if bucket and sum(other.numel() for other in bucket) + one.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(one)
    if bucket:
        yield bucket


def launched_together() -> bool:
    """Whether a launcher, such as `accelerate launch`, started several processes of this command."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def leads_here() -> bool:
    """Whether this process is the one that speaks, of those that a launcher may have started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined_team(device: str) -> Iterator[Team]:
    """The team of this process, as the launcher's environment names it.

    Raises:
        InputError: the processes do not find each other.
        OutputError: another process was killed.
    """
    if not launched_together():
        yield ALONE
        return
    from accelerate import PartialState

    try:
        state = PartialState(cpu=device == "cpu")
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the processes of the fit did not find each other ({' '.join(str(error).split())[:200]}); check the "
            "launcher's options and the network."
        ) from error
    team = Team(state.process_index, state.num_processes, state.device)
    try:
        yield team
    except (dist.DistBackendError, RuntimeError) as error:
        words = str(error)
        if any(sign in words for sign in ("Connection closed", "Connection reset", "NCCL", "gloo", "Broken pipe")):
            raise OutputError(KILLED) from error
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


KILLED = (
    "a process of the fit was killed, perhaps because memory was short, or ended by an error that stands above; the "
    "last checkpoint stays. Run the same command again with --resume."
)
"""What is said then."""
