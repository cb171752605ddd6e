"""A stage of a pipeline: torch's, which notes down when it computed, sent and waited; and the bubble that it shows."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage

from dlkit.distributed.recorder import Recorder, Span, now


class OnWire(nn.Module):
    """A stage between two others: what comes is taken to `device`, and what goes to `goes`, in one piece of memory."""

    def __init__(self, net: nn.Module, device: torch.device, goes: torch.device):
        super().__init__()
        self.net, self.device, self.goes = net, device, goes

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.to(self.device)).to(self.goes).contiguous()


@dataclass
class Log:
    """What the stages of a rank, one for each size of batch, note down together."""

    recorder: Recorder
    device: torch.device
    batches: int = 0
    numbers: Counter[str] = field(default_factory=Counter)

    def moment(self) -> float:
        """Now, when what this rank computes is done, and what it waits for is here."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return now()

    def computed(self, name: str, begin: float) -> None:
        self.recorder.add(Span("compute", name, begin, self.moment(), number=self.batches))

    def exchanged(self, name: str, way: tuple[int, int], begin: float, end: float, size: int = 0) -> None:
        group = "stage {} to {}".format(*way)
        self.numbers[group] += 1
        self.recorder.add(Span("exchange", name, begin, end, group, self.numbers[group], size))


class Stage(PipelineStage):
    """torch's stage, which notes down its passes, what it sends, and how long it waits for what comes."""

    log: Log
    waits = 0.0  # since when, for what is to come next

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        begin = self.log.moment()
        if not self.is_first:
            self.log.exchanged("receive activations", (self.stage_index - 1, self.stage_index), self.waits, begin)
        found = super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)
        self.log.computed(f"F{fwd_chunk_id}", begin)
        return found

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> None:
        begin = self.log.moment()
        if not self.is_last:
            self.log.exchanged("receive gradients", (self.stage_index + 1, self.stage_index), self.waits, begin)
        super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)
        self.log.computed(f"B{bwd_chunk_id}", begin)

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        self.waits = now()
        return super().get_fwd_recv_ops(fwd_chunk_id)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        self.waits = now()
        return super().get_bwd_recv_ops(bwd_chunk_id)

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        return self.sent("send activations", super().get_fwd_send_ops(fwd_chunk_id), self.stage_index + 1)

    def get_bwd_send_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        return self.sent("send gradients", super().get_bwd_send_ops(bwd_chunk_id), self.stage_index - 1)

    def sent(self, name: str, ops: list[dist.P2POp], to: int) -> list[dist.P2POp]:
        if ops:
            moment = now()
            self.log.exchanged(name, (self.stage_index, to), moment, moment, sum(op.tensor.nbytes for op in ops))
        return ops


def bubble(stages: int, microbatches: int) -> float:
    """The part of the time in which ranks have nothing to do, if all stages are equally fast and sends take no time.

    Source: Huang et al. 2019, GPipe: efficient training of giant neural networks using pipeline parallelism, §2.3.
    """
    return (stages - 1) / (microbatches + stages - 1)


def measured_bubble(ranks: Sequence[Iterable[Span]]) -> float:
    """The same of a run, from the spans of all ranks: 1 - busy / (ranks x elapsed), the first batch left out.

    ValueError where there are no others.
    """
    passes: list[dict[int, list[Span]]] = []
    for spans in ranks:
        passes.append(defaultdict(list))
        for span in spans:
            if span.kind == "compute":
                passes[-1][span.number].append(span)
    first = max(min(each, default=0) for each in passes)  # of the oldest that is kept some may be missing
    common = [n for n in set.intersection(*(set(each) for each in passes)) if n > first]
    if not common:
        raise ValueError("these spans are not of two batches or more that went through a pipeline: train for longer.")
    busy = elapsed = 0.0
    for number in common:
        spans = [span for each in passes for span in each[number]]
        busy += sum(span.end - span.begin for span in spans)
        elapsed += max(span.end for span in spans) - min(span.begin for span in spans)
    return 1 - busy / (len(passes) * elapsed)
