"""Linear layers in turn, split by torch's own tensor parallelism: a second opinion on `layers`."""

from typing import Any

import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from dlkit.distributed.group import Group
from dlkit.models.layer_kinds import kind_of
from dlkit.models.sequence import is_sequential, modules_of
from dlkit.strategies.base import DistributedShard
from dlkit.strategies.checks import class_name


class DTensorShard(DistributedShard):
    """A net whose parameters are DTensors; torch makes the exchanges, and they are not counted."""

    model_is_whole = False

    def __init__(self, run: Any):
        super().__init__(run.model, run.learner)
        if run.device.type != "cpu" and not self.group.takes_cuda:
            raise ValueError(
                "torch's DTensors on GPUs need NCCL, which takes one rank a GPU, and these ranks have no GPU each: "
                'leave `using` out, or give device="cpu".'
            )
        self.mesh = split_by_torch(self.model, self.group)

    def gather(self, name: str, part: Tensor) -> Tensor:
        return part.full_tensor() if isinstance(part, DTensor) else part

    def scatter(self, name: str, whole: Tensor) -> Tensor:
        parameter = dict(self.model.named_parameters()).get(name)
        if not isinstance(parameter, DTensor):
            return whole
        return distribute_tensor(whole, self.mesh, parameter.placements, src_data_rank=None)


def split_by_torch(net: nn.Module, group: Group) -> DeviceMesh:
    """Linear layers in turn by outputs and by inputs, in place. ValueError for nets of other layers."""
    layers = modules_of(net, "TensorParallel") if is_sequential(net) else [("", net)]
    for path, module in layers:
        if kind_of(module).weights:
            raise ValueError(
                f"{path}, a {class_name(module)}: DTensor's conv2d gathers everything first and splits nothing: "
                "TensorParallel() splits it by maps."
            )
        if type(module) not in (nn.Linear, nn.Flatten) and not kind_of(module).elementwise:
            raise ValueError(
                f'{path or "the model"}, a {class_name(module)}: "dtensor" is for chains of Linear layers and '
                "activations: leave `using` out."
            )
    linears = [(path, module) for path, module in layers if isinstance(module, nn.Linear)]
    plan: dict[str, ParallelStyle] = {}
    for position, (path, linear) in enumerate(linears):
        linear.__class__ = Linear
        last = position == len(linears) - 1
        by_outputs = ColwiseParallel(output_layouts=Replicate()) if last else ColwiseParallel(use_local_output=False)
        plan[path] = RowwiseParallel() if position % 2 else by_outputs
    process_group = group.process_group or dist.group.WORLD
    assert process_group is not None
    mesh = DeviceMesh.from_group(process_group, next(net.parameters()).device.type)
    parallelize_module(net, mesh, plan)
    return mesh


class Linear(nn.Linear):
    """Bypasses `fast_linear`, which cannot handle DTensors."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, bias=self.bias)
