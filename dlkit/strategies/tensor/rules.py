"""What splitting by neurons does with each node of a graph: which units, maps or heads of it a rank computes.

A layer's output is split by its units; what comes next takes it as it is, or by inputs, or gathered. What is not known
here, or shares what it has with other nodes, is gathered for, and computed whole on each rank.
"""

from typing import Any

from torch import nn

from dlkit.models.graph import NetGraph, Node, has_hooks
from dlkit.models.layer_kinds import KINDS
from dlkit.strategies.graph.plan import Plan, Walk
from dlkit.strategies.tensor import shapes
from dlkit.strategies.tensor.attention import split_heads
from dlkit.strategies.tensor.elementwise import split_elements
from dlkit.strategies.tensor.functions import function_step
from dlkit.strategies.tensor.norms import BY_FEATURES, POOLS, split_features, split_group_norm, split_maps
from dlkit.strategies.tensor.weights import (
    CONVOLUTIONS,
    TRANSPOSED,
    Weights,
    fewer_by_inputs,
    split_groups,
    split_weights,
    weights_of,
)

DRAWING = (nn.Dropout, nn.AlphaDropout, nn.RReLU, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout)
ALONG = (nn.Softmax, nn.LogSoftmax, nn.Softmin)
RESHAPES = (nn.Flatten, nn.Unflatten)


class NeuronRules:
    """Rules for `plan_split`. `too_small`: layers with fewer outputs than there are ranks."""

    def __init__(self, graph: NetGraph):
        self.chain = is_chain(graph)
        self.too_small: list[str] = []

    def visit(self, walk: Walk, node: Node) -> None:
        known = self.module_step(walk, node) if node.op == "module" else function_step(walk, node)
        if not known:
            walk.step_whole(node)

    def module_step(self, walk: Walk, node: Node) -> bool:
        """Make the step for a module that is known, and has some of its units split; else say False."""
        module, kind = walk.graph.module_of(node), walk.graph.kind_of(node)
        if module is None or has_no_tensor(node) or hooked(walk, node):
            return False
        if type(module) in DRAWING:
            return split_elements(walk, node, draws=True)
        if kind.elementwise:
            return not any(module.parameters()) and split_elements(walk, node)
        if type(module) in RESHAPES:
            return shapes.reshape(walk, node)
        if type(module) in POOLS and type(module) not in KINDS:
            return shapes.by_maps(walk, node)
        if type(module) in ALONG:
            return split_along(walk, node, module)
        if not walk.graph.is_alone(node):
            return False
        return self.owner_step(walk, node, module)

    def owner_step(self, walk: Walk, node: Node, module: Any) -> bool:
        """The same for a module whose parameters are taken here alone."""
        kind = walk.graph.kind_of(node)
        if type(module) in BY_FEATURES:
            return split_features(walk, node, module)
        if type(module) is nn.GroupNorm:
            return split_group_norm(walk, node, module)
        if type(module) is nn.MultiheadAttention:
            return split_heads(walk, node, module)
        if kind.by_maps:
            return split_maps(walk, node, module, kind)
        if type(module) in CONVOLUTIONS + TRANSPOSED and module.groups > 1:
            return split_groups(walk, node, module)
        known = kind.outputs(module) or type(module) in (*CONVOLUTIONS, *TRANSPOSED, nn.Embedding, nn.Linear)
        weights = weights_of(node, module, kind) if known else None
        return weights is not None and self.weights_step(walk, node, module, weights)

    def weights_step(self, walk: Walk, node: Node, module: nn.Module, weights: Weights) -> bool:
        by_rows = isinstance(module, nn.Linear) or (not self.chain and fewer_by_inputs(node))
        done = split_weights(walk, node, module, weights, by_rows=by_rows)
        if not done and weights.outputs < walk.world_size:
            self.too_small.append(node.target)
        return done


def is_chain(graph: NetGraph) -> bool:
    """Do images pass its nodes one after another? Then convolutions are split by output maps, each of them.

    Source: Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks, §2.
    """
    on_way = [node for node in graph.nodes if node.images_dim is not None or node.op == "output"]
    ways = [sum(taken.images_dim is not None for taken in node.inputs) for node in on_way]
    return all(count <= 1 for count in ways) and all(len(graph.users[node]) <= 1 for node in on_way)


def split_along(walk: Walk, node: Node, module: Any) -> bool:
    """A softmax over another dimension than the split one."""
    layout, source = walk.layout(node.args[0]), node.args[0]
    if module.dim is None or layout is None or layout.dim == module.dim % len(source.shape):
        return False
    walk.step(node, layout=layout, along="units")
    return True


def has_no_tensor(node: Node) -> bool:
    """Is its first argument no tensor?"""
    return not node.args or not isinstance(node.args[0], Node) or node.args[0].shape is None


def hooked(walk: Walk, node: Node) -> bool:
    module = walk.graph.module_of(node)
    return module is not None and any(map(has_hooks, module.modules()))


def refuse_nothing_split(plan: Plan, rules: NeuronRules) -> None:
    """ValueError if each rank has all of the net."""
    if plan.parameters:
        return
    name = type(plan.graph.net).__name__
    if rules.too_small:
        raise ValueError(
            f"no layer of this {name} has as many outputs as there are ranks, {plan.world_size} "
            f"({rules.too_small[0]} has fewer): use fewer ranks, or DataParallel."
        )
    raise ValueError(
        f"{name} has nothing to split by neurons, which takes a Linear, a convolution, an Embedding or a "
        "MultiheadAttention with weights of its own: use DataParallel."
    )
