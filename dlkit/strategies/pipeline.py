"""By layers: every rank has some that follow one another, and microbatches flow through the ranks as down a line."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.utils.flop_counter import FlopCounterMode

from dlkit.cluster.collectives import nbytes
from dlkit.cluster.timeline import Recorder, Span, now
from dlkit.models.draws import Draws
from dlkit.models.products import fast_linear
from dlkit.strategies.together import Together, kind, refuse_what_differs
from dlkit.training.learner import Backprop, Batch, Splits
from dlkit.training.schedules import at
from dlkit.training.share import trained

SCHEDULES = {"1f1b": Schedule1F1B, "gpipe": ScheduleGPipe}
VALUE = 100  # multiplications that cost as much as making a value: so LeNet-5 is cut as measured times would have it

Piece = list[tuple[str, nn.Module]]


@dataclass(frozen=True)
class Pipeline:
    """Each rank has a stage of the net, layers that follow one another; a batch goes through it in `microbatches`.

    Activations go to the next rank, gradients to the one before. schedule: "gpipe", all forward passes, then all
    backward ones; "1f1b", each stage turns to a backward pass as soon as there is one, and so keeps the activations of
    no more microbatches than there are stages. `stages`: names, or positions in the net, of the modules with which the
    second and later stages begin; by default the cut is where the slowest stage has least to do, by the
    multiplications of both passes and the values that layers give.
    A last batch that does not divide goes in fewer microbatches; where those are fewer than the stages, by GPipe.
    Callbacks see this rank's stage in `run.model`, other layers being nn.Identity: to call it there makes no sense.
    Spans of kind "compute" are the passes of a microbatch, F3 and B3 and on the last stage L3, its loss; their `number`
    is that of the batch. A send is noted when it is handed over: it goes on beside what follows.
    Sources: Huang et al. 2019, GPipe: efficient training of giant neural networks using pipeline parallelism, §2.2;
    Narayanan et al. 2019, PipeDream: generalized pipeline parallelism for DNN training, §3.2 (1F1B; here, as in GPipe,
    all take a step when the batch is through).
    """

    microbatches: int = 4
    schedule: str = "1f1b"
    stages: Sequence[str | int] | None = None

    def __post_init__(self):
        if self.microbatches < 1:
            raise ValueError(f"microbatches={self.microbatches}: at least 1.")
        if self.schedule not in SCHEDULES:
            raise ValueError(f'schedule="{self.schedule}": it is one of {", ".join(SCHEDULES)}.')

    def share(self, run: Any) -> "PipelineShare":
        """ValueError, with the reason, for nets that are no chain of enough layers, and for what needs more of one."""
        if not isinstance(run.learner, Backprop):
            raise ValueError(
                f"{kind(run.learner)} has no loss of a net's answer, and so no backward pass from stage to stage: "
                "Pipeline is for CrossEntropy and Reconstruction, and DataParallel splits the batch."
            )
        if isinstance(run.learner, Splits):
            run.learner.split(0, 1)  # a microbatch is a part of a batch
        optimizer = run.experiment.optimizer(
            [{"params": [nn.Parameter(torch.zeros(1))]}], lr=at(run.experiment.lr, 0.0)
        )
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError(
                f"{kind(optimizer)} looks at all parameters at once, and a stage has some of them: use SGD or Adam."
            )
        refuse_what_differs(run.model, "Pipeline")
        size = run.experiment.batch_size
        if size % self.microbatches:
            close = sorted(sorted(divisors(size), key=lambda n: abs(n - self.microbatches))[:3])
            some = f"{', '.join(map(str, close[:-1]))} or {close[-1]} do"
            raise ValueError(f"a batch of {size} does not divide into {self.microbatches} microbatches: {some}.")
        return PipelineShare(run, run.learner, self)


class PipelineShare(Together):
    """One stage: the net with nn.Identity in place of the layers of other ranks."""

    model_is_whole = False

    def __init__(self, run: Any, learner: Backprop, strategy: Pipeline):
        pieces = cut_at_weights(run.model)
        super().__init__(run.model, run.learner)
        if strategy.schedule == "1f1b" and strategy.microbatches < self.ranks:
            raise ValueError(
                f"microbatches={strategy.microbatches} does not fill {self.ranks} stages: 1F1B needs one for each, and "
                'schedule="gpipe" does not.'
            )
        if len(pieces) < self.ranks:
            raise ValueError(
                f"{self.ranks} ranks need a layer with weights each, and this {kind(run.model)} has {len(pieces)}: "
                "use fewer ranks."
            )
        self.strategy, self.backprop, self.device = strategy, learner, run.device
        images, labels = run.data.images[:2].to(run.device), run.data.labels
        self.batch = Batch(images, None if labels is None else labels[:2].to(run.device))
        inputs = learner.inputs(self.batch, torch.Generator(run.generator.device)).clone()
        costs, between = weigh(pieces, inputs)
        starts = best_cut(costs, self.ranks) if strategy.stages is None else self.asked(strategy.stages, pieces)
        begins = (0, *starts, len(pieces))
        for place, piece in enumerate(pieces):
            if not begins[self.rank] <= place < begins[self.rank + 1]:
                for name, _ in piece:
                    self.model.set_submodule(name, nn.Identity())
        self.comes, self.goes = (between[place] for place in begins[self.rank : self.rank + 2])
        self.reported = list(learner.loss(between[-1], self.batch)[1])
        self.reports: list[dict[str, Tensor]] = []
        self.schedules: dict[int, Schedule1F1B | ScheduleGPipe] = {}
        self.log = Log(self.recorder, run.device)

    def asked(self, stages: Sequence[str | int], pieces: list[Piece]) -> list[int]:
        """The pieces with which stages begin. ValueError if nothing that is asked for can be one."""
        tops = list(self.model._modules)
        names = [tops[x] if isinstance(x, int) and 0 <= x < len(tops) else x for x in stages]
        firsts = [piece[0][0] for piece in pieces]
        found = [next((i for i, first in enumerate(firsts) if f"{first}.".startswith(f"{x}.")), 0) for x in names]
        if 0 in found or found != sorted(set(found)):
            raise ValueError(
                f"stages={list(stages)}: give, in the net's order, the layers with which the second and later stages "
                f"begin, of those with weights: {', '.join(firsts[1:])}."
            )
        if len(found) != self.ranks - 1:
            raise ValueError(
                f"stages={list(stages)} makes {len(found) + 1} stages, and there are {self.ranks} ranks: give "
                f"{self.ranks - 1} in all."
            )
        return found

    def fill(self, batch: Batch, generator: Draws) -> dict[str, Tensor]:
        self.model.zero_grad()
        x = self.backprop.inputs(batch, generator).contiguous()
        self.batch, self.reports = batch, []
        self.log.batches += 1
        given = (x,) if self.rank == 0 else ()
        rows = torch.arange(len(x), device=x.device) if self.rank == self.ranks - 1 else None
        with fast_linear(self.model, len(x) // self.parts(len(x))):
            self.schedule(len(x)).step(*given, target=rows, return_outputs=False)
        report = x.new_empty(len(self.reported))
        if self.reports:
            report.copy_(torch.stack([torch.stack([*each.values()]) for each in self.reports]).sum(0))
        self.group.broadcast(report, source=self.ranks - 1)
        return dict(zip(self.reported, report, strict=True))

    def loss(self, found: Tensor, rows: Tensor) -> Tensor:
        """Of a microbatch, these rows of the batch: with those of all others it makes the whole batch's."""
        begin = self.log.moment()
        labels = None if self.batch.labels is None else self.batch.labels[rows]
        share = Batch(self.batch.images[rows], labels, self.batch.weight * len(rows) / len(self.batch))
        loss, report = self.backprop.loss(found, share)
        self.log.computed(f"L{len(self.reports)}", begin)
        self.reports.append(report)
        return loss

    def parts(self, rows: int) -> int:
        """The microbatches of a batch: as many as asked for, or the most that it divides into."""
        return max(n for n in divisors(rows) if n <= self.strategy.microbatches)

    def schedule(self, rows: int) -> Schedule1F1B | ScheduleGPipe:
        """A batch of another size has a schedule of its own, since buffers are made for one size of microbatch."""
        if rows not in self.schedules:
            parts = self.parts(rows)
            wire = torch.device("cpu") if self.group.backend == "gloo" else self.device
            net = OnWire(self.model, self.device, self.device if self.rank == self.ranks - 1 else wire)
            comes, goes = (
                torch.empty(rows // parts, *x.shape[1:], dtype=x.dtype, device="meta", requires_grad=True)
                for x in (self.comes, self.goes)
            )
            stage = Stage(net, self.rank, self.ranks, wire, comes, goes, group=self.group.process_group)
            stage.log = self.log
            made = SCHEDULES[self.strategy.schedule] if parts >= self.ranks else ScheduleGPipe
            self.schedules[rows] = made(stage, parts, loss_fn=self.loss, scale_grads=False)
        return self.schedules[rows]

    # A rank has some tensors, and has them whole.

    def model_state(self) -> dict[str, Tensor]:
        return self.united(self.model.state_dict())

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, numbers = super().optimizer_state(optimizer)
        everywhere = self.group.gather_objects(renumbered(numbers, trained(self.model), self.names))
        return self.united(tensors), {key: value for each in everywhere for key, value in each.items()}

    def load_optimizer(
        self, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: dict[str, Any]
    ) -> None:
        super().load_optimizer(optimizer, tensors, renumbered(numbers, self.names, trained(self.model)))

    def united(self, mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What all ranks have, stage after stage, on each."""
        whole = {}
        for source, kinds in enumerate(self.group.gather_objects({k: (v.shape, v.dtype) for k, v in mine.items()})):
            for name, (shape, dtype) in kinds.items():
                whole[name] = torch.empty(shape, dtype=dtype, device=self.device)
                if source == self.rank:
                    whole[name].copy_(mine[name])
                self.group.broadcast(whole[name], source)
        return whole


def renumbered(numbers: Mapping[str, Any], before: list[str], after: list[str]) -> dict[str, Any]:
    """Of what is kept by the place of a parameter in `before`, what belongs to one of `after`, by its place there."""
    parted = [(*key.split(".", 1), value) for key, value in numbers.items()]
    named = [(before[int(index)], what, value) for index, what, value in parted]
    return {f"{after.index(name)}.{what}": value for name, what, value in named if name in after}


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
            self.log.exchanged(name, (self.stage_index, to), moment, moment, sum(nbytes(op.tensor) for op in ops))
        return ops


def cut_at_weights(net: nn.Module) -> list[Piece]:
    """What cannot be parted: a module that has something to train, and those up to the next one that has.

    ValueError if the net is no chain, or uses weights twice.
    """
    pieces: list[Piece] = [[]]
    found: list[nn.Parameter] = []
    for name, module in chain(net):
        weights = [p for p in module.parameters() if p.requires_grad]
        if weights and found:
            pieces.append([])
        pieces[-1].append((name, module))
        found += weights
    if len({id(p) for p in found}) < len(found):
        raise ValueError(f"layers of this {kind(net)} share weights, which would be on two ranks: give each its own.")
    return pieces


def chain(net: nn.Module) -> Piece:
    """The modules, by name, that a batch goes through one after another: Sequentials inside are taken apart."""
    if not is_chain(net):
        raise ValueError(
            f"{kind(net)} is no chain of layers: Pipeline cuts an nn.Sequential, or a class made of it that has no "
            "forward of its own."
        )
    found: Piece = []
    for name, module in net._modules.items():  # named_children() leaves out a module's second place
        assert module is not None
        found += [(f"{name}.{inner}", one) for inner, one in chain(module)] if is_chain(module) else [(name, module)]
    return found


def is_chain(net: nn.Module) -> bool:
    return isinstance(net, nn.Sequential) and type(net).forward is nn.Sequential.forward


def weigh(pieces: list[Piece], x: Tensor) -> tuple[list[int], list[Tensor]]:
    """What both passes of each piece cost for these inputs; and those inputs, what follows each piece, the answer.

    ValueError for a module that does not give a row for each image.
    """
    costs, between = [], [x]
    for piece in pieces:
        values = 0
        x = between[-1].detach().requires_grad_(len(between) > 1)  # nobody needs the images' gradient
        with FlopCounterMode(display=False) as counter:
            for name, module in piece:
                x = module(x)
                if not isinstance(x, Tensor) or len(x) != len(between[0]):
                    raise ValueError(
                        f"{name}, a {kind(module)}, does not give a row for each image, which Pipeline needs: let it "
                        "keep the first dimension."
                    )
                values += x.numel()
            x.sum().backward()
        costs.append(counter.get_total_flops() // 2 + VALUE * values)
        between.append(x.detach())
    return costs, between


def best_cut(costs: Sequence[int], stages: int) -> tuple[int, ...]:
    """The places with which the second and later stages begin, so that the most costly stage costs least."""

    @cache
    def best(begin: int, left: int) -> tuple[int, tuple[int, ...]]:
        if left == 1:
            return sum(costs[begin:]), ()
        found = []
        for place in range(begin + 1, len(costs) - left + 2):
            worst, places = best(place, left - 1)
            found.append((max(sum(costs[begin:place]), worst), (place, *places)))
        return min(found)

    return best(0, stages)[1]


def divisors(n: int) -> list[int]:
    return [each for each in range(1, n + 1) if n % each == 0]


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
