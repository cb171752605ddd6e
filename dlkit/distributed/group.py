"""Exchanges between ranks: each counted and timed, and slowed down where a link is emulated."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dlkit.distributed.gpu import check_exchanged, takes_cuda, wait_for_exchange, wait_for_gpu
from dlkit.distributed.links import Link
from dlkit.distributed.recorder import Recorder, Span, now

_emulated: ContextVar[Link | None] = ContextVar("emulated_link", default=None)


@contextmanager
def emulated(link: Link | None) -> Iterator[None]:
    """In this context, the exchanges of new groups take as long as they would over `link`, if that is longer."""
    token = _emulated.set(link)
    try:
        yield
    finally:
        _emulated.reset(token)


class Group:
    """Ranks that exchange tensors; this process is number `rank` of `world_size`.

    process_group: torch's; None is the group of all ranks. recorder: what its exchanges are noted in. name: that of
    the group in the recorder's spans. link: one to emulate, by default that of `emulated`.
    Each method says what this rank sends, of n ranks; gloo and NCCL go round a ring. On a GPU an exchange begins when
    its tensor has been computed, and ends when the GPU has what it gives: the program waits for both.
    """

    def __init__(
        self,
        process_group: Any = None,
        recorder: Recorder | None = None,
        name: str = "all",
        link: Link | None = None,
    ):
        self.process_group = process_group
        self.rank, self.world_size = dist.get_rank(process_group), dist.get_world_size(process_group)
        self.recorder, self.name, self.link = recorder or Recorder(), name, link or _emulated.get()
        self.backend = dist.get_backend(process_group)
        self.takes_cuda = takes_cuda(process_group)
        self._number = 0  # of the latest exchange
        self._link_free_at = 0.0  # when the emulated link has carried all exchanges so far

    def __repr__(self) -> str:
        link = f", {self.link}" if self.link else ""
        return f"Group({self.name}: rank {self.rank} of {self.world_size}, {self.backend}{link})"

    def all_reduce(self, tensor: Tensor) -> None:
        """The sum over all ranks, in place. Sends 2 (n-1)/n of the tensor's bytes."""
        self._start_all_reduce(tensor, waits=True)()

    def start_all_reduce(self, tensor: Tensor) -> Callable[[], None]:
        """Start an `all_reduce` and return at once. The function returned waits until it has ended."""
        return self._start_all_reduce(tensor, waits=False)

    def _start_all_reduce(self, tensor: Tensor, *, waits: bool) -> Callable[[], None]:
        begin, number = self._begin(tensor), self._next_number()
        staged = self.staged(tensor)
        work = dist.all_reduce(staged, group=self.process_group, async_op=True)

        def wait() -> None:
            since = begin if waits else self._begin(tensor)
            work.wait()
            if staged is not tensor:
                tensor.copy_(staged)
            bytes_sent = ring_bytes(tensor.nbytes, self.world_size, passes=2)
            self._record("all-reduce", begin, number, bytes_sent, tensor.nbytes, tensor.device, since)

        return wait

    def all_gather(self, part: Tensor, counts: Sequence[int], dim: int = 0) -> Tensor:
        """The parts of all ranks, one after another along `dim`; `counts[r]` is the length of rank r's part.

        Sends its part, padded to the longest, n-1 times.
        """
        begin, number, longest = self._begin(part), self._next_number(), max(counts)
        own = self.staged(part).movedim(dim, 0).contiguous()
        padded = own if len(own) == longest else torch.cat([own, own.new_zeros(longest - len(own), *own.shape[1:])])
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=self.process_group)
        whole = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
        whole, size = whole.movedim(0, dim) if dim else whole, padded.nbytes
        whole = whole.to(part.device)
        self._record("all-gather", begin, number, size * (self.world_size - 1), size * self.world_size, part.device)
        return whole

    def all_gather_into(self, whole: Tensor, part: Tensor) -> None:
        """Fill `whole` by the parts of all ranks, one after another, all as long. Sends its part n-1 times."""
        begin, number = self._begin(part), self._next_number()
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        gather(whole, part, group=self.process_group)
        bytes_sent = part.nbytes * (self.world_size - 1)
        self._record("all-gather", begin, number, bytes_sent, whole.nbytes, part.device)

    def reduce_scatter_into(self, part: Tensor, whole: Tensor) -> None:
        """Fill `part` by this rank's chunk of the sum of all ranks' `whole`. Sends (n-1)/n of the whole's bytes."""
        if not whole.is_cuda:  # gloo would send an all-reduce's
            part.copy_(ring_reduce_scatter(whole, self))
            return
        begin, number = self._begin(whole), self._next_number()
        scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        scatter(part, whole, group=self.process_group)
        bytes_sent = ring_bytes(whole.nbytes, self.world_size, passes=1)
        self._record("reduce-scatter", begin, number, bytes_sent, whole.nbytes, whole.device)

    def broadcast(self, tensor: Tensor, source: int = 0) -> None:
        """The tensor of rank `source`, in place. Only that rank sends: the tensor, once."""
        begin, number = self._begin(tensor), self._next_number()
        staged = self.staged(tensor)
        dist.broadcast(staged, group=self.process_group, group_src=source)
        if staged is not tensor:
            tensor.copy_(staged)
        bytes_sent = tensor.nbytes if self.rank == source and self.world_size > 1 else 0
        self._record("broadcast", begin, number, bytes_sent, tensor.nbytes, tensor.device)

    def exchange(self, sends: Mapping[int, Tensor], receives: Mapping[int, Tensor], name: str = "exchange") -> None:
        """Send a tensor to each rank in `sends`, and fill each tensor in `receives` by that rank's, in place.

        Sender and receiver must agree on shape and dtype. `name` is that of the span.
        """
        self._start_exchange(sends, receives, name, waits=True)()

    def start_exchange(
        self, sends: Mapping[int, Tensor], receives: Mapping[int, Tensor], name: str = "exchange"
    ) -> Callable[[], None]:
        """Start an `exchange` and return at once. The function returned waits until it has ended."""
        return self._start_exchange(sends, receives, name, waits=False)

    def _start_exchange(
        self, sends: Mapping[int, Tensor], receives: Mapping[int, Tensor], name: str, *, waits: bool
    ) -> Callable[[], None]:
        tensors = [*sends.values(), *receives.values()]
        begin, number = self._begin(*tensors), self._next_number()
        incoming = {peer: self.staged(tensor) for peer, tensor in receives.items()}
        outgoing = {peer: self.staged(tensor).contiguous() for peer, tensor in sends.items()}
        messages = [
            dist.P2POp(operation, tensor, group=self.process_group, group_peer=peer)
            for operation, each in ((dist.isend, outgoing), (dist.irecv, incoming))
            for peer, tensor in each.items()
        ]
        works = dist.batch_isend_irecv(messages) if messages else []

        def wait() -> None:
            since = None if waits else self._begin(*tensors)
            for work in works:
                work.wait()
            for peer, tensor in receives.items():
                if incoming[peer] is not tensor:
                    tensor.copy_(incoming[peer])
            bytes_sent = sum(tensor.nbytes for tensor in sends.values())
            bytes_received = sum(tensor.nbytes for tensor in receives.values())
            device = tensors[0].device if tensors else torch.device("cpu")
            self._record(name, begin, number, bytes_sent, max(bytes_sent, bytes_received), device, since)

        return wait

    def gather_objects(self, item: Any) -> list[Any]:
        """What each rank gives, in the order of ranks; for small things other than tensors. Not counted, not timed."""
        items: list[Any] = [None] * self.world_size
        dist.all_gather_object(items, item, group=self.process_group)
        return items

    def staged(self, tensor: Tensor) -> Tensor:
        """The tensor where the backend can exchange it: for gloo, in the memory of the CPU."""
        return tensor if tensor.device.type == "cpu" or self.takes_cuda else tensor.cpu()

    def _begin(self, *tensors: Tensor) -> float:
        """The time when these tensors are computed."""
        for tensor in tensors[:1]:
            wait_for_gpu(tensor.device)
        return now()

    def _next_number(self) -> int:
        self._number += not self.recorder.on_trial
        return self._number

    def _record(
        self,
        name: str,
        begin: float,
        number: int,
        bytes_sent: int,
        size: int,
        device: torch.device,
        wait_begin: float | None = None,
    ) -> None:
        """Note the exchange down, once the emulated link would have carried it. `size`: as in `Link.seconds`."""
        wait_for_exchange(device)
        if device.type == "cuda" and self.takes_cuda:
            check_exchanged(self.process_group)
        if self.link is not None and self.world_size > 1 and not self.recorder.on_trial:
            latest_begin = torch.tensor([begin], dtype=torch.float64)
            dist.all_reduce(latest_begin, dist.ReduceOp.MAX, group=self.process_group)
            seconds = self.link.seconds(name, size, self.world_size)
            self._link_free_at = max(latest_begin.item(), self._link_free_at) + seconds
            time.sleep(max(0.0, self._link_free_at - now()))
        self.recorder.add(Span("exchange", name, begin, now(), self.name, number, bytes_sent, wait_begin))


def ring_all_reduce(tensor: Tensor, group: Group) -> None:
    """The sum over all ranks, in place, by sends to the right-hand neighbour alone: n-1 to add up, n-1 to hand round.

    Each rank sends 2 (n-1)/n of the tensor's bytes, however many ranks there are.
    Source: Patarasuk, Yuan 2009, Bandwidth optimal all-reduce algorithms for clusters of workstations, §4.
    """
    rank, n = group.rank, group.world_size
    chunks = list(tensor.view(-1).tensor_split(n))
    right, left = (rank + 1) % n, (rank - 1) % n
    for step in range(n - 1):
        mine, theirs = (rank - step) % n, (rank - step - 1) % n
        received = torch.empty_like(chunks[theirs])
        group.exchange({right: chunks[mine]}, {left: received}, name="ring: add")
        chunks[theirs] += received
    for step in range(n - 1):
        mine, theirs = (rank - step + 1) % n, (rank - step) % n
        group.exchange({right: chunks[mine]}, {left: chunks[theirs]}, name="ring: hand round")


def ring_reduce_scatter(tensor: Tensor, group: Group) -> Tensor:
    """This rank's chunk, of n equal ones, of the sum over all ranks: the first half of `ring_all_reduce`."""
    rank, n = group.rank, group.world_size
    chunks = list(tensor.view(-1).chunk(n))
    right, left = (rank + 1) % n, (rank - 1) % n
    for step in range(n - 1):
        mine, theirs = (rank - step - 1) % n, (rank - step - 2) % n
        received = torch.empty_like(chunks[theirs])
        group.exchange({right: chunks[mine]}, {left: received}, name="ring: add")
        chunks[theirs] = chunks[theirs] + received
    return chunks[rank]


def ring_bytes(size: int, world_size: int, passes: int) -> int:
    """The bytes that each rank sends of `size` bytes in `passes` rounds of a ring."""
    return passes * size * (world_size - 1) // world_size
