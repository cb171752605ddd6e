"""Replicas of which each rank keeps a part: of parameters, gradients and the optimizer's state, by torch's fully_shard.

Source: Rajbhandari, Rasley, Ruwase, He 2020, ZeRO: memory optimizations toward training trillion parameter models, §5.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from dlkit.core.random import ShardedGenerator
from dlkit.data.batch import Batch
from dlkit.distributed.group import Group
from dlkit.strategies.base import all_reduce_metrics, unflatten_into
from dlkit.strategies.checks import check_learner, class_name, refuse_optimizer
from dlkit.strategies.data.replica import Replica
from dlkit.strategies.data.units import candidates, units_of
from dlkit.strategies.graph.plan import Plan
from dlkit.strategies.graph.plan_costs import called_steps, own_parameters
from dlkit.strategies.layer_cost import FLOAT, LayerCost
from dlkit.strategies.learner_trial import gradients_are_final, uses_same_for_each_image
from dlkit.training.learner import Backprop, Learner, Metrics
from dlkit.training.optimizer_state import PREFIX, unpack_optimizer


class ShardedReplica(Replica):
    """A rank's rows of each parameter; the whole is gathered for a pass, and a gradient's sum cut again."""

    model_is_whole = False

    def __init__(self, run: Any, name: str, *, frees: bool):
        """name: the strategy, for messages. frees: let go of a unit's parameters between its passes."""
        super().__init__(run, name)
        refuse(run, name, self.group)
        self.split_learner(run)
        units = units_of(run)
        self.share_statistics(self.data)
        self.scalars = [p for p in self.model.parameters() if p.ndim == 0]  # which torch does not shard
        self.mesh = shard_model(self.model, units, self.data, set(self.scalars), frees=frees)
        self.rows: dict[str, nn.Parameter] = {}  # of each parameter

    def reduce_grad(self, batch: Batch, generator: ShardedGenerator) -> Metrics:
        metrics = self.learner.fill_weighted_grad(self.model, batch, generator)
        gradients = [p.grad for p in self.scalars if p.grad is not None]
        if gradients:
            flat = torch.stack(gradients)
            self.data.all_reduce(flat)
            unflatten_into(flat, gradients)
        self.show_gradients()
        return all_reduce_metrics(metrics, self.data)

    def show_gradients(self) -> None:
        """Give the optimizer's tensors this rank's rows of the gradients."""
        for name, parameter in self.model.named_parameters() if self.rows else ():
            if isinstance(parameter, DTensor):
                self.rows[name].grad = None if parameter.grad is None else parameter.grad.to_local()

    def optimized(self) -> dict[str, nn.Parameter]:
        """Plain tensors, in the memory of this rank's rows: not all optimizers take DTensors."""
        if not self.rows:
            for name, p in self.model.named_parameters():
                local = nn.Parameter(p.to_local().detach(), p.requires_grad) if isinstance(p, DTensor) else p
                self.rows[name] = local
        return self.rows

    def refuse_wrong_parts(self, run: Any, strategy: str, model: nn.Module, learner: Learner) -> None:
        super().refuse_wrong_parts(run, self.strategy_name, model, learner)

    def sharded(self, name: str) -> DTensor | None:
        """The parameter of this name, of which one may have several, if it is sharded."""
        parameter = dict(self.model.named_parameters(remove_duplicate=False)).get(name)
        return parameter if isinstance(parameter, DTensor) else None

    def gather(self, name: str, part: Tensor) -> Tensor:
        parameter = self.sharded(name)
        if parameter is None:
            return part
        if not isinstance(part, DTensor):  # rows, as the optimizer has them
            like = {"shape": parameter.shape, "stride": parameter.stride()}
            part = DTensor.from_local(part, self.mesh, parameter.placements, run_check=False, **like)
        return part.full_tensor()

    def scatter(self, name: str, whole: Tensor) -> Tensor:
        parameter = self.sharded(name)
        if parameter is None:
            return whole
        return distribute_tensor(whole.to(parameter.device), self.mesh, parameter.placements, src_data_rank=None)

    def load_optimizer(
        self, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: dict[str, Any]
    ) -> None:
        own = {}
        for key, value in tensors.items():
            if key.startswith(PREFIX):
                name = self.names[int(key.removeprefix(PREFIX).split(".")[0])]
                same = value.shape == self.model.get_parameter(name).shape
                part = self.scatter(name, value) if same and value.ndim else value
                own[key] = part.to_local() if isinstance(part, DTensor) else part
        unpack_optimizer(optimizer, own, numbers)


def refuse(run: Any, name: str, group: Group) -> None:
    """ValueError, with the reason, for what cannot be trained so."""
    check_learner(run.learner, Backprop, "has no backward pass, in which shards are gathered: leave out shard=.")
    refuse_optimizer(run.experiment, name)
    if run.device.type != "cpu" and not group.takes_cuda:
        raise ValueError(
            "torch shards parameters on GPUs by NCCL, which takes one rank a GPU, and these ranks have no GPU each: "
            'leave out shard=, or give device="cpu".'
        )
    if not gradients_are_final(run):
        raise ValueError(
            f"{class_name(run.learner)} runs more than one backward pass, or changes gradients after it, when ranks "
            "have parts of their sum: leave out shard=."
        )
    if not uses_same_for_each_image(run):
        raise ValueError(
            "some images leave parameters of the net unused that others use, and ranks would gather and send them out "
            'of step: leave out shard=; reduce="bucketed" sends zeros for them.'
        )


def shard_model(net: nn.Module, units: list[str], group: Group, ignored: set, *, frees: bool) -> DeviceMesh:
    """Shard the net in place: each unit by itself, and what is in none as a whole."""
    process_group = group.process_group or dist.group.WORLD
    assert process_group is not None
    mesh = DeviceMesh.from_group(process_group, next(net.parameters()).device.type)
    for path in units:
        fully_shard(net.get_submodule(path), mesh=mesh, reshard_after_forward=frees, ignored_params=ignored)
    fully_shard(net, mesh=mesh, reshard_after_forward=False, ignored_params=ignored)
    net.register_forward_hook(_let_go)
    gathers, scatters = _AllGather(group), _ReduceScatter(group)
    for module in net.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # losses are weighted: gradients add up
            module.set_custom_all_gather(gathers)  # pyrefly: ignore[bad-argument-type]  torch calls nothing else of it
            module.set_custom_reduce_scatter(scatters)  # pyrefly: ignore[bad-argument-type]
    return mesh


def _let_go(net: nn.Module, args: Any, output: Any) -> None:
    """After a forward pass that no backward pass follows, as of a callback, let go of what was gathered for it."""
    if not torch.is_grad_enabled():
        for module in net.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


class _Exchange:
    """One of fully_shard's exchanges, made by `group`, so that it is counted and timed."""

    def __init__(self, group: Group):
        self.group = group

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class _AllGather(_Exchange):
    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False) -> None:
        self.group.all_gather_into(output_tensor, input_tensor)


class _ReduceScatter(_Exchange):
    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False
    ) -> None:
        self.group.reduce_scatter_into(output_tensor, input_tensor)


def sharded_costs(plan: Plan, ranks: list[list[LayerCost]], *, frees: bool) -> list[list[LayerCost]]:
    """The costs of replicas, in place, where each rank keeps its rows of each parameter.

    Parameters are gathered for the forward pass, and if `frees` again for the backward pass; of gradients each rank
    sends all but its rows, once. Rows are padded to those of the first rank.
    """
    in_units = {id(p) for unit in candidates(plan.graph.net).values() for p in unit.parameters()}
    owned, world_size = own_parameters(plan), len(ranks)
    for rank, layers in enumerate(ranks):
        for layer, step in zip(layers, called_steps(plan), strict=True):
            layer.parameters = layer.exchanged = 0
            for p in owned[step.node].values():
                padded = FLOAT * ceil(len(p) / world_size) * (p.numel() // max(len(p), 1)) if p.ndim else 0
                rest = p.nbytes - padded * rank
                layer.parameters += max(min(padded, rest), 0) if p.ndim else p.nbytes
                sent = (world_size - 1) * padded
                again = sent if frees and id(p) in in_units else 0
                layer.forward, layer.backward = layer.forward + sent, layer.backward + again
                layer.gathered += sent + again
                layer.exchanged += sent if p.requires_grad else 0
                if not p.ndim and p.requires_grad:
                    layer.exchanged += 2 * p.nbytes * (world_size - 1) // world_size
    return ranks
