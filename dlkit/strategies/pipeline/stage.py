"""A stage of a pipeline: torch's, which records when it computed, sent and waited; and the bubble that this shows."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dlkit.distributed.gpu import wait_for_exchange, wait_for_gpu
from dlkit.distributed.recorder import Recorder, Span, now


@dataclass(frozen=True)
class Value:
    """A tensor that goes to the next stage with each microbatch. has_grad: whether a gradient of it comes back;
    requires_grad: whether it is a function of what is trained, though perhaps of no use to the loss."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool
    has_grad: bool

    def empty(self, device: torch.device) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device=device)


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


class Stage:
    """What a schedule of torch.distributed.pipelining asks of a stage, with a record of its passes, of what it sends,
    and of how long it waits for its input.

    torch's own stage wants a gradient of all that it is sent; masks have none. `compute`: the forward pass; of
    `received` values it is given copies, which its layers may change, and it gives the `sent` ones, but the last stage
    what the net does. They are sent from and to memory on `device`. `rows`: of a microbatch.
    """

    def __init__(
        self,
        compute: Callable[[int, Sequence[Tensor]], Any],
        rows: int,
        received: Sequence[Value],
        sent: Sequence[Value],
        group: dist.ProcessGroup,
        device: torch.device,
        log: Log,
        drawing: Callable[[int], AbstractContextManager[object]],
    ):
        self.compute, self.rows, self.received, self.sent = compute, rows, received, sent
        self.group, self.device, self.log, self.drawing = group, device, log, drawing
        self.stage_index, self.num_stages = dist.get_rank(group), dist.get_world_size(group)
        self.is_first, self.is_last = self.stage_index == 0, self.stage_index == self.num_stages - 1
        self.has_backward = True
        self.wait_begin = 0.0  # of the next input
        self.inputs: list[list[Tensor]] = []  # of each microbatch
        self.gradients: list[list[Tensor]] = []
        self.outputs: dict[int, Any] = {}

    def _get_init_p2p_neighbors_ops(self) -> list[dist.P2POp]:
        """Neighbours meet: some libraries want that all ranks take part in their first messages."""
        ops = []
        for to in (self.stage_index + 1, self.stage_index - 1):
            if 0 <= to < self.num_stages:
                pair = (
                    self.operation(dist.isend, torch.zeros(1, device=self.device), to),
                    self.operation(dist.irecv, torch.zeros(1, device=self.device), to),
                )
                ops += pair
        return ops

    def _prepare_forward_infra(self, microbatches: int, *_: Any, **__: Any) -> None:
        for _number in range(microbatches):
            own = [] if self.is_first else [value.empty(self.device) for value in self.received]
            for value, tensor in zip(self.received, own, strict=False):
                tensor.requires_grad_(value.requires_grad)
            self.inputs.append(own)
            self.gradients.append([value.empty(self.device) for value in self.sent if value.has_grad])

    def _prepare_backward_infra(self, *_: Any, **__: Any) -> None:
        """Memory for gradients is there with that for inputs."""

    def clear_runtime_states(self) -> None:
        self.outputs.clear()
        for tensors in self.inputs:
            for tensor in tensors:
                tensor.grad = None

    def perform_reduce_grad(self, scale: int) -> None:
        """Gradients are not scaled: losses have their weights."""

    def forward_one_chunk(self, number: int, args: Sequence[Tensor] = (), *_: Any, **__: Any) -> Any:
        begin = self.log.arrival()
        if not self.is_first:
            self.log.exchanged("receive activations", (self.stage_index - 1, self.stage_index), self.wait_begin, begin)
        with self.drawing(number):
            output = self.compute(self.rows, args if self.is_first else self.inputs[number])
        if not self.is_last:
            for value, tensor in zip(self.sent, output, strict=True):
                if tensor.shape != value.shape or tensor.dtype != value.dtype:
                    raise RuntimeError(
                        f"a stage gives {tuple(tensor.shape)} of {tensor.dtype} where it gave {value.shape} of "
                        f"{value.dtype} for the first images: let shapes and dtypes not depend on the batch."
                    )
        self.outputs[number] = output
        self.log.computed(f"F{number}", begin)
        return output

    def backward_one_chunk(self, number: int, loss: Tensor | None = None, **_: Any) -> None:
        begin = self.log.arrival()
        if not self.is_last:
            self.log.exchanged("receive gradients", (self.stage_index + 1, self.stage_index), self.wait_begin, begin)
        output = self.outputs.pop(number)
        if loss is not None:
            loss.backward()
        else:
            tensors = [tensor for value, tensor in zip(self.sent, output, strict=True) if value.has_grad]
            if tensors:
                torch.autograd.backward(tensors, self.gradients[number])
        self.log.computed(f"B{number}", begin)

    def get_fwd_recv_ops(self, number: int) -> list[dist.P2POp]:
        self.wait_begin = now()
        return [self.operation(dist.irecv, tensor, self.stage_index - 1) for tensor in self.inputs[number]]

    def get_bwd_recv_ops(self, number: int) -> list[dist.P2POp]:
        self.wait_begin = now()
        return [self.operation(dist.irecv, tensor, self.stage_index + 1) for tensor in self.gradients[number]]

    def get_fwd_send_ops(self, number: int) -> list[dist.P2POp]:
        if self.is_last:
            return []
        return self.recorded("send activations", [tensor.detach() for tensor in self.outputs[number]], 1)

    def get_bwd_send_ops(self, number: int) -> list[dist.P2POp]:
        gradients = []
        for value, tensor in zip(self.received, self.inputs[number], strict=False):
            if value.has_grad:
                gradients.append(torch.zeros_like(tensor) if tensor.grad is None else tensor.grad.contiguous())
            elif tensor.grad is not None:
                raise RuntimeError(
                    "the loss has a gradient for something that it made no use of for the first images: let it use "
                    "the same outputs of the net for all batches, or use DataParallel."
                )
            tensor.grad = None
        return self.recorded("send gradients", gradients, -1)

    def recorded(self, name: str, tensors: Sequence[Tensor], way: int) -> list[dist.P2POp]:
        """What sends these tensors to a neighbour, the next stage or the one before, noted as one message."""
        if tensors:
            moment, to = now(), self.stage_index + way
            self.log.exchanged(name, (self.stage_index, to), moment, moment, sum(tensor.nbytes for tensor in tensors))
        return [self.operation(dist.isend, tensor, self.stage_index + way) for tensor in tensors]

    def operation(self, kind: Callable[..., Any], tensor: Tensor, stage: int) -> dist.P2POp:
        """Send to, or receive from, this stage. The buffer of a value whose gradient is wanted is filled as it is."""
        return dist.P2POp(kind, tensor.detach(), group=self.group, group_peer=stage)


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
