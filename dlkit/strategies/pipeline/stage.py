"""A stage of a pipeline: torch's, which records when it computed, sent and waited; and the bubble that this shows."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage

from dlkit.distributed.gpu import wait_for_exchange, wait_for_gpu
from dlkit.distributed.recorder import Recorder, Span, now


class OnWire(nn.Module):
    """A stage between two others: its input is taken to `device`, its output to `output_device`, contiguous.

    It works on a copy of its input, which its first layer may change, and which is a part of a batch or a buffer.
    """

    def __init__(self, net: nn.Module, device: torch.device, output_device: torch.device):
        super().__init__()
        self.net, self.device, self.output_device = net, device, output_device

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.to(self.device, copy=True)).to(self.output_device).contiguous()


@dataclass
class Log:
    """What the stages of a rank, one for each size of batch, record together."""

    recorder: Recorder
    device: torch.device
    batches: int = 0
    numbers: Counter[str] = field(default_factory=Counter)

    def moment(self) -> float:
        """The time when this rank's computation is done."""
        wait_for_gpu(self.device)
        return now()

    def arrival(self) -> float:
        """The time when the input of this rank's next pass is here; all that it had to compute is done."""
        wait_for_exchange(self.device)
        return now()

    def computed(self, name: str, begin: float) -> None:
        self.recorder.add(Span("compute", name, begin, self.moment(), number=self.batches))

    def exchanged(self, name: str, stages: tuple[int, int], begin: float, end: float, size: int = 0) -> None:
        if self.recorder.on_trial:
            return
        group = "stage {} to {}".format(*stages)
        self.numbers[group] += 1
        self.recorder.add(Span("exchange", name, begin, end, group, self.numbers[group], size))


class Stage(PipelineStage):
    """torch's stage, which records its passes, what it sends, and how long it waits for its input."""

    log: Log
    drawing: Callable[[int], AbstractContextManager[object]]  # of a microbatch
    wait_begin = 0.0  # of the next input

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        begin = self.log.arrival()
        if not self.is_first:
            self.log.exchanged("receive activations", (self.stage_index - 1, self.stage_index), self.wait_begin, begin)
        with self.drawing(fwd_chunk_id):
            output = super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)
        self.log.computed(f"F{fwd_chunk_id}", begin)
        return output

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> None:
        begin = self.log.arrival()
        if not self.is_last:
            self.log.exchanged("receive gradients", (self.stage_index + 1, self.stage_index), self.wait_begin, begin)
        super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)
        self.log.computed(f"B{bwd_chunk_id}", begin)

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        self.wait_begin = now()
        return super().get_fwd_recv_ops(fwd_chunk_id)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        self.wait_begin = now()
        return super().get_bwd_recv_ops(bwd_chunk_id)

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        return self.record_send("send activations", super().get_fwd_send_ops(fwd_chunk_id), self.stage_index + 1)

    def get_bwd_send_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        return self.record_send("send gradients", super().get_bwd_send_ops(bwd_chunk_id), self.stage_index - 1)

    def record_send(self, name: str, ops: list[dist.P2POp], to: int) -> list[dist.P2POp]:
        if ops:
            moment = now()
            self.log.exchanged(name, (self.stage_index, to), moment, moment, sum(op.tensor.nbytes for op in ops))
        return ops


def bubble(stages: int, microbatches: int) -> float:
    """The fraction of time in which ranks are idle, if all stages are equally fast and sends take no time.

    Source: Huang et al. 2019, GPipe: efficient training of giant neural networks using pipeline parallelism, §2.3.
    """
    return (stages - 1) / (microbatches + stages - 1)


def measured_bubble(ranks: Sequence[Iterable[Span]]) -> float:
    """The fraction measured in a run, by the spans of all ranks: 1 - busy / (ranks x elapsed), less the first batch.

    ValueError where there are no others.
    """
    passes: list[dict[int, list[Span]]] = []
    for spans in ranks:
        passes.append(defaultdict(list))
        for span in spans:
            if span.kind == "compute":
                passes[-1][span.number].append(span)
    first = max(min(batches, default=0) for batches in passes)  # of the oldest that is kept some may be missing
    common = [n for n in set.intersection(*map(set, passes)) if n > first]
    if not common:
        raise ValueError("these spans are not of two batches or more that went through a pipeline: train for longer.")
    busy = elapsed = 0.0
    for number in common:
        spans = [span for batches in passes for span in batches[number]]
        busy += sum(span.end - span.begin for span in spans)
        elapsed += max(span.end for span in spans) - min(span.begin for span in spans)
    return 1 - busy / (len(passes) * elapsed)
