"""Chains of Linear layers split by torch's own tensor parallelism: a second opinion on `split_layers`."""

from collections.abc import Iterator

import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from dlkit.distributed.group import Group
from dlkit.models.convolution import SparseConv2d
from dlkit.strategies.base import DistributedShard, kind
from dlkit.strategies.tensor.layers import ELEMENTWISE, is_chain, joined
from dlkit.training.learner import Learner


class DTensorShard(DistributedShard):
    """A net whose parameters are DTensors; torch exchanges what it needs to, and nobody counts it."""

    model_is_whole = False

    def __init__(self, model: nn.Module, learner: Learner):
        super().__init__(model, learner)
        self.mesh = split_by_torch(model, self.group)

    def gather(self, name: str, part: Tensor) -> Tensor:
        return part.full_tensor() if isinstance(part, DTensor) else part

    def scatter(self, name: str, whole: Tensor) -> Tensor:
        parameter = dict(self.model.named_parameters()).get(name)
        if not isinstance(parameter, DTensor):
            return whole
        return distribute_tensor(whole, self.mesh, parameter.placements, src_data_rank=None)


def split_by_torch(net: nn.Module, group: Group) -> DeviceMesh:
    """Linear layers in turn by outputs and by inputs, in place. ValueError for nets that are not chains of them."""
    steps = list(leaves("", net)) if is_chain(net) else [("", net)]
    for path, module in steps:
        if isinstance(module, (nn.Conv2d, SparseConv2d)):
            raise ValueError(
                f"{path}, a {kind(module)}: DTensor's conv2d gathers everything first and splits nothing: "
                "TensorParallel() splits it by maps."
            )
        if type(module) not in (nn.Linear, nn.Flatten, *ELEMENTWISE):
            raise ValueError(
                f'{path or "the model"}, a {kind(module)}: "dtensor" is for chains of Linear layers and activations: '
                "leave `using` out."
            )
    linears = [(path, module) for path, module in steps if isinstance(module, nn.Linear)]
    plan: dict[str, ParallelStyle] = {}
    for place, (path, linear) in enumerate(linears):
        linear.__class__ = Linear
        last = place == len(linears) - 1
        outputs = ColwiseParallel(output_layouts=Replicate()) if last else ColwiseParallel(use_local_output=False)
        plan[path] = RowwiseParallel() if place % 2 else outputs
    process_group = group.process_group or dist.group.WORLD
    assert process_group is not None
    mesh = DeviceMesh.from_group(process_group, next(net.parameters()).device.type)
    parallelize_module(net, mesh, plan)
    return mesh


class Linear(nn.Linear):
    """Called so that `products.fast_linear` leaves it alone, whose products know nothing of DTensors."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, bias=self.bias)


def leaves(path: str, chain: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of nested chains, in order, with their paths."""
    for name, child in chain.named_children():
        if is_chain(child):
            yield from leaves(joined(path, name), child)
        else:
            yield joined(path, name), child
