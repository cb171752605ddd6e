"""Exchanges between ranks: each counted and timed, and slowed where another interconnect is emulated."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from dlkit.cluster.placement import yield_on_wakeup
from dlkit.distributed.timeline import Recorder, Span, now


@runtime_checkable
class Wire(Protocol):
    """An interconnect to emulate: the seconds that an exchange of `size` bytes among `world_size` takes on it."""

    def seconds(self, name: str, size: int, world_size: int) -> float: ...


_wire: ContextVar[Wire | None] = ContextVar("wire", default=None)


@contextmanager
def emulating(wire: Wire | None) -> Iterator[None]:
    """Groups made inside it take as long for their exchanges as they would over `wire`, if that is longer."""
    before = _wire.set(wire)
    try:
        yield
    finally:
        _wire.reset(before)


class Group:
    """Some ranks, and their exchanges: `rank` of `size`, in the order of `process_group` (by default all ranks).

    `sent(size)` in each method's docstring is what this rank sends; gloo and NCCL go round a ring.
    """

    def __init__(
        self,
        process_group: Any = None,
        recorder: Recorder | None = None,
        name: str = "all",
        wire: Wire | None = None,
    ):
        self.process_group = process_group
        self.rank, self.size = dist.get_rank(process_group), dist.get_world_size(process_group)
        self.recorder, self.name, self.wire = recorder or Recorder(), name, wire or _wire.get()
        self.backend = dist.get_backend(process_group)
        self._number = 0
        self._free = 0.0  # when the emulated link has carried all so far

    def all_reduce(self, tensor: Tensor) -> None:
        """The sum over all ranks, in place. Sends 2 (n-1)/n of the tensor's bytes."""
        self._start_all_reduce(tensor, waited=now())()

    def start_all_reduce(self, tensor: Tensor) -> Callable[[], None]:
        """As `all_reduce`, while the caller goes on; what is returned waits for it to end."""
        return self._start_all_reduce(tensor)

    def _start_all_reduce(self, tensor: Tensor, waited: float | None = None) -> Callable[[], None]:
        begin, number = now(), self._next()
        wire = self._staged(tensor)
        work = dist.all_reduce(wire, group=self.process_group, async_op=True)

        def wait() -> None:
            since = now() if waited is None else waited
            work.wait()
            if wire is not tensor:
                tensor.copy_(wire)
            size = ring_bytes(nbytes(tensor), self.size, passes=2)
            self._note("all-reduce", begin, number, size, nbytes(tensor), since)

        return wait

    def all_gather(self, part: Tensor, counts: Sequence[int], dim: int = 0) -> Tensor:
        """The parts of all ranks, `counts` long along `dim`, one after another. Sends its part n-1 times."""
        begin, number, most = now(), self._next(), max(counts)
        mine = self._staged(part).movedim(dim, 0).contiguous()
        padded = mine if len(mine) == most else torch.cat([mine, mine.new_zeros(most - len(mine), *mine.shape[1:])])
        found = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(found, padded, group=self.process_group)
        whole = torch.cat([each[:count] for each, count in zip(found, counts, strict=True)]).movedim(0, dim)
        self._note("all-gather", begin, number, nbytes(padded) * (self.size - 1), nbytes(padded) * self.size)
        return whole.to(part.device)

    def broadcast(self, tensor: Tensor, source: int = 0) -> None:
        """The tensor of rank `source`, in place."""
        begin, number = now(), self._next()
        wire = self._staged(tensor)
        dist.broadcast(wire, group=self.process_group, group_src=source)
        if wire is not tensor:
            tensor.copy_(wire)
        size = nbytes(tensor) if self.rank == source and self.size > 1 else 0
        self._note("broadcast", begin, number, size, nbytes(tensor))

    def exchange(self, sends: Mapping[int, Tensor], receives: Mapping[int, Tensor], name: str = "exchange") -> None:
        """Send a tensor to each of some ranks, and fill those from others; which, and how large, both sides know."""
        begin, number = now(), self._next()
        filled = {peer: self._staged(tensor) for peer, tensor in receives.items()}
        sent = {peer: self._staged(tensor).contiguous() for peer, tensor in sends.items()}
        both = ((dist.isend, sent), (dist.irecv, filled))
        messages = [
            dist.P2POp(kind, tensor, group=self.process_group, group_peer=peer)
            for kind, tensors in both
            for peer, tensor in tensors.items()
        ]
        for work in dist.batch_isend_irecv(messages) if messages else ():
            work.wait()
        for peer, tensor in receives.items():
            if filled[peer] is not tensor:
                tensor.copy_(filled[peer])
        size = sum(nbytes(tensor) for tensor in sends.values())
        self._note(name, begin, number, size, max(size, sum(nbytes(tensor) for tensor in receives.values())))

    def gather_objects(self, thing: Any) -> list[Any]:
        """What each rank gives, in their order; for small things that are not tensors. Neither counted nor timed."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, thing, group=self.process_group)
        return found

    def _staged(self, tensor: Tensor) -> Tensor:
        """gloo exchanges what is in a CPU's memory."""
        return tensor.cpu() if self.backend == "gloo" and tensor.is_cuda else tensor

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _note(self, name: str, begin: float, number: int, size: int, whole: int, waited: float | None = None) -> None:
        if self.wire is not None and self.size > 1:
            latest = torch.tensor([begin], dtype=torch.float64)
            dist.all_reduce(latest, dist.ReduceOp.MAX, group=self.process_group)
            self._free = max(latest.item(), self._free) + self.wire.seconds(name, whole, self.size)
            time.sleep(max(0.0, self._free - now()))
        self.recorder.add(Span("exchange", name, begin, now(), self.name, number, size, waited))


def ring_all_reduce(tensor: Tensor, group: Group) -> None:
    """The sum over all ranks, in place, by sends to the right-hand neighbour alone: n-1 to add up, n-1 to hand round.

    Each rank sends 2 (n-1)/n of the tensor's bytes, however many ranks there are.
    Source: Patarasuk, Yuan 2009, Bandwidth optimal all-reduce algorithms for clusters of workstations, §4.
    """
    chunks = list(tensor.view(-1).tensor_split(group.size))
    right, left = (group.rank + 1) % group.size, (group.rank - 1) % group.size
    for step in range(group.size - 1):
        mine, theirs = (group.rank - step) % group.size, (group.rank - step - 1) % group.size
        arrived = torch.empty_like(chunks[theirs])
        group.exchange({right: chunks[mine]}, {left: arrived}, name="ring: add")
        chunks[theirs] += arrived
    for step in range(group.size - 1):
        mine, theirs = (group.rank - step + 1) % group.size, (group.rank - step) % group.size
        group.exchange({right: chunks[mine]}, {left: chunks[theirs]}, name="ring: hand round")


def nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def ring_bytes(size: int, world_size: int, passes: int) -> int:
    """What a rank sends of `size` bytes in `passes` rounds of a ring."""
    return passes * size * (world_size - 1) // world_size


def enter_group() -> None:
    """Make sure that there is a process group: torchrun's, if a script runs under it and has made none.

    RuntimeError where there is neither. Processes of one machine meet by a file, and open no port. From then on this
    process yields to others that wake on its core: `yield_on_wakeup`.
    """
    if dist.is_initialized():
        return
    if "RANK" not in os.environ:
        raise RuntimeError(
            "a strategy needs a process for each rank: `cluster.run(experiment, strategy)` in a notebook, or a script "
            "that calls `experiment.run(strategy=...)` under `torchrun --nproc-per-node 2 script.py`."
        )
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    gpus = torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % gpus)
    backend = "nccl" if 0 < local <= gpus else "gloo"
    yield_on_wakeup()
    store = None
    if local == size:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
        run, attempt = os.environ["TORCHELASTIC_RUN_ID"], os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        name = f"dlkit-torchrun-{os.getppid()}-{run}-{attempt}"
        store = dist.FileStore(os.path.join(tempfile.gettempdir(), name), size)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
