"""What the shards of all strategies have: ranks that stop after the same step, and that record what they exchange."""

import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dlkit.core.draw_plan import DrawPlan
from dlkit.core.draws import ShardedDraws
from dlkit.core.random import ShardedGenerator
from dlkit.core.slices import Slice, slice_of
from dlkit.data.batch import Batch
from dlkit.distributed.batch_norm import OverRanks
from dlkit.distributed.gpu import check_exchanged
from dlkit.distributed.group import Group
from dlkit.distributed.process_group import enter_group, new_group, run_group
from dlkit.distributed.recorder import Recorder, Span, now
from dlkit.strategies.graph.on_rank import Layouts, gather_part, scatter_whole
from dlkit.strategies.learner_trial import sharing_statistics, uses_all_for_each_image
from dlkit.strategies.same_start import start_from_rank_0
from dlkit.strategies.split_trial import refuse_wrong_parts
from dlkit.training.learner import Learner, Metrics
from dlkit.training.shard import Shard, trained
from dlkit.training.untouched import refusal, refusal_of_some


class DistributedShard(Shard):
    """A rank's shard of a run, on `group`, that of all ranks. A strategy overrides `reduce_grad`.

    `splits_layers`: the ranks over which units or rows of maps are split; None if each has whole layers. `layouts`:
    how their parameters are.
    """

    splits_layers: Group | None = None
    statistics: OverRanks | None = None  # of BatchNorm, where it is shared
    normalised: nn.Module | None = None  # in which part of the model

    def __init__(self, model: nn.Module, learner: Learner):
        super().__init__(model, learner)
        self.layouts: Layouts = {}
        enter_group()
        self.recorder = Recorder()
        self.group = Group(run_group(), self.recorder)
        self.rank, self.world_size = self.group.rank, self.group.world_size
        self.on_gpu = is_on_gpu(model)
        name = self.group.gather_objects(uuid.uuid4().hex)[0]
        start_from_rank_0(model, learner.state, self.group)
        self.names = trained(model)
        self.store = dist.PrefixStore(name, dist.distributed_c10d._get_default_store())
        self._step_began = 0.0

    def fill_grad(self, batch: Batch, generator: ShardedGenerator) -> Metrics:
        """Fill .grad with the whole batch's gradient, timed."""
        self._step_began, self.recorder.enabled = now(), True
        generator.rows = batch.rows
        try:
            with self.drawing_for(batch), self.sharing_statistics(batch):
                return self.reduce_grad(batch, generator)
        finally:
            generator.rows = None

    def reduce_grad(self, batch: Batch, generator: ShardedGenerator) -> Metrics:
        """Fill .grad from this rank's part, then exchange what makes it the whole's: what a strategy is."""
        return self.learner.fill_weighted_grad(self.model, batch, generator)

    def sharing_statistics(self, batch: Batch) -> AbstractContextManager[object]:
        """Context of the passes of a batch, in which BatchNorm takes the statistics of the whole."""
        if self.statistics is None:
            return nullcontext()
        return sharing_statistics(self.normalised or self.model, self.learner, batch, self.statistics)

    def share_statistics(
        self, group: Group, groups: list[list[int]] | None = None, within: nn.Module | None = None
    ) -> None:
        """Let BatchNorm take the statistics of `group`, whose ranks have parts of a batch. All ranks call it.

        within: what of the model sees a part of a batch; by default all.
        groups: the ranks of all groups like this one; by default it is that of all ranks. By gloo others of the same
        ranks are made for it: a rank that lacks a gradient sends it later than others, and what is sent between would
        be taken for another. NCCL wants one group for all exchanges.
        """
        self.normalised = within
        paths = [path for path, module in (within or self.model).named_modules() if isinstance(module, _BatchNorm)]
        if not paths:
            return
        process_group = group.process_group
        if not group.takes_cuda:
            made = {tuple(ranks): new_group(ranks) for ranks in groups or [list(range(self.world_size))]}
            process_group = next(own for ranks, own in made.items() if self.rank in ranks)
        self.statistics = OverRanks(Group(process_group, self.recorder, "statistics"), paths)

    def close(self) -> None:
        if self.statistics is not None and not self.group.takes_cuda:
            dist.destroy_process_group(self.statistics.group.process_group)

    def gather(self, name: str, part: Tensor) -> Tensor:
        return part if self.splits_layers is None else gather_part(name, part, self.layouts, self.splits_layers)

    def scatter(self, name: str, whole: Tensor) -> Tensor:
        return whole if self.splits_layers is None else scatter_whole(name, whole, self.layouts, self.splits_layers)

    def sharded_draws(self, plan: DrawPlan) -> ShardedDraws:
        """Functions that draw are watched where a net's graph calls them without the module that they stand in."""
        calls = getattr(self.model.forward, "calls", None)
        watched = calls is not None and not calls.issuperset(plan.modules or ())
        if calls is not None:  # attention of which a rank has some heads draws by it
            plan = replace(plan, functions=plan.functions | {F.dropout})
        locate = None if self.splits_layers is None else self.locate
        return ShardedDraws(plan, locate, None if watched else self.model)

    def locate(self, shape: Sequence[int]) -> tuple[list[int], list[int]]:
        """Where this rank's part of a draw begins in each dimension, and the sizes of all parts together."""
        assert self.splits_layers is not None
        sizes = self.splits_layers.gather_objects(tuple(shape))
        begins = [sum(size[dim] for size in sizes[: self.splits_layers.rank]) for dim in range(len(shape))]
        return begins, [sum(size[dim] for size in sizes) for dim in range(len(shape))]

    def store_for_unused(self, run: Any) -> Any:
        """What `Unused` tells ranks by; None where it is to read a number in each step, which costs a CPU nothing."""
        rare = self.on_gpu and uses_all_for_each_image(run)
        return self.store if all(self.group.gather_objects(rare)) else None

    def refuse_wrong_parts(self, run: Any, strategy: str, model: nn.Module, learner: Learner) -> None:
        if self.has_a_part:
            refuse_wrong_parts(self, run, strategy, model, learner)

    def after_step(self, step: int) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()  # or a rank's Python would be steps ahead of what its GPU has exchanged
            if self.group.takes_cuda:
                check_exchanged(self.group.process_group)  # torch makes some exchanges itself
        self.recorder.add(Span("step", "step", self._step_began, now(), number=step))
        self.recorder.enabled = False

    def last_common(self, step: int) -> int:
        """A step after `step` that no rank can be past while rank 0 has just taken `step`."""
        return step + 1

    def agree_to_stop(self, asked: str | None, step: int) -> str | None:
        """Rank 0 names the step after which all stop. No rank is past it: none takes a step without rank 0.

        RuntimeError if somebody has deleted the file by which the ranks agree.
        """
        try:
            return self._agree_by_store(asked, step)
        except dist.DistStoreError as error:
            raise RuntimeError(
                f"the file by which ranks agree is gone at step {step} ({error}): run again, and let no program empty "
                "the temporary folder meanwhile."
            ) from None

    def _agree_by_store(self, asked: str | None, step: int) -> str | None:
        if asked and self.rank > 0 and not self.store.check(["asked"]):
            self.store.set("asked", asked)
        if self.rank == 0 and not self.store.check(["stop"]):
            why = asked or (self.store.get("asked").decode() if self.store.check(["asked"]) else None)
            if why:
                self.store.set("stop", f"{self.last_common(step)} {why}")
        if not self.store.check(["stop"]):
            return None
        last, why = self.store.get("stop").decode().split(" ", 1)
        return why if step >= int(last) else None

    def on_first_rank(self, write: Callable[[], None]) -> None:
        error = None
        if self.rank == 0:
            try:
                write()
            except OSError as refused:
                error = refused
        error = self.group.gather_objects(error)[0]
        if error is not None:
            raise error

    def agree_at_row(self, asked: str | None, changed: bool, step: int) -> str | None:
        asked_of, changed_on = zip(*self.group.gather_objects((asked, changed)), strict=True)
        if any(changed_on):
            if self.has_a_part:
                raise refusal(step)
            if not all(changed_on) or not self.has_rank_0_s_weights():
                raise refusal_of_some(step)
        return next(filter(None, asked_of), None)

    def has_rank_0_s_weights(self) -> bool:
        """Have all ranks the same weights, but for rounding? All ranks of a net that each has whole call it."""
        same = True
        for parameter in self.model.parameters():
            first = parameter.detach().clone()
            self.group.broadcast(first)
            same = same and torch.allclose(parameter, first, rtol=1e-4, atol=1e-6, equal_nan=True)
        return all(self.group.gather_objects(same))


def is_on_gpu(model: nn.Module) -> bool:
    """Are the model's parameters in the memory of a GPU?"""
    return any(parameter.is_cuda for parameter in model.parameters())


def unflatten_into(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy the values of a vector into tensors that were concatenated to it."""
    for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(values.view_as(tensor))


def all_reduce_metrics(metrics: Metrics, group: Group) -> Metrics:
    """The sum of all ranks' metrics, by one message."""
    values = torch.stack(list(metrics.values()))
    group.all_reduce(values)
    return dict(zip(metrics, values, strict=True))


def slice_counts(part: Slice, group: Group) -> list[int]:
    """How many rows of `part.whole` each rank of the group has."""
    return [slice_of(part.whole, rank, group.world_size).count for rank in range(group.world_size)]
