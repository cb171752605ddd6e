"""Layers that look at each map, or each group of maps, alone: a rank has those of its maps, and sends nothing."""

from typing import Any

from torch import nn

from dlkit.models.graph import Node
from dlkit.models.layer_kinds import LayerKind
from dlkit.strategies.graph.exchanges import Layout
from dlkit.strategies.graph.plan import Walk
from dlkit.strategies.tensor.weights import narrow_to

BY_FEATURES = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    nn.PReLU,
)
POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool1d, nn.LPPool2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
    *(nn.AdaptiveMaxPool3d, nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d, nn.ConstantPad1d, nn.ConstantPad2d),
    *(nn.ConstantPad3d, nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
)


def split_features(walk: Walk, node: Node, module: Any) -> bool:
    """BatchNorm, InstanceNorm and PReLU, of features in dimension 1: parameters and running statistics are cut."""
    layout = walk.layout(node.args[0])
    if not isinstance(layout, Layout) or layout.dim != 1 or node.shape is None or node.images_dim != 0:
        return False
    if isinstance(module, nn.PReLU) and module.num_parameters == 1:
        return False
    named = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    cut = {f"{node.target}.{name}": Layout(0, layout.parts) for name, value in named if value.ndim}

    def narrow(module: Any, rank: int) -> None:
        name = "num_parameters" if isinstance(module, nn.PReLU) else "num_features"
        setattr(module, name, layout.counts[rank])

    walk.step(node, layout=layout, along="units", parameters=cut, narrow=narrow)
    return True


def split_group_norm(walk: Walk, node: Node, module: nn.GroupNorm) -> bool:
    layout = walk.layout(node.args[0])
    if not isinstance(layout, Layout) or layout.dim != 1 or node.images_dim != 0:
        return False
    groups = layout.in_blocks(module.num_channels // module.num_groups, 1)
    if groups is None or not all(groups.counts):
        return False
    cut = {f"{node.target}.{name}": Layout(0, layout.parts) for name, _ in module.named_parameters(recurse=False)}

    def narrow(module: Any, rank: int) -> None:
        module.num_groups, module.num_channels = groups.counts[rank], layout.counts[rank]

    walk.step(node, layout=layout, along="units", parameters=cut, narrow=narrow)
    return True


def split_maps(walk: Walk, node: Node, module: nn.Module, kind: LayerKind) -> bool:
    """A kind of layer that looks at each map alone (`layer_kinds`)."""
    layout = walk.layout(node.args[0])
    if not isinstance(layout, Layout) or layout.dim != 1 or node.shape is None or node.images_dim != 0:
        return False
    cut = {f"{node.target}.{name}": Layout(0, layout.parts) for name, _ in module.named_parameters()}
    if not layout.in_order or any(module.buffers()):
        return False
    walk.step(node, layout=layout, along="units", parameters=cut, narrow=narrow_to(layout, kind.narrow))
    return True
