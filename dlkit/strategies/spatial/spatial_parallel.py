"""Spatial parallelism: each rank has a tile of every map, and borrows what it sees just outside of it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.core.draw_plan import DrawPlan
from dlkit.core.draws import ShardedDraws
from dlkit.core.random import ShardedGenerator
from dlkit.data.batch import Batch
from dlkit.distributed.array import Grid
from dlkit.models.convolution import SparseConv2d
from dlkit.models.graph import NetGraph, Node
from dlkit.models.locally_connected import LocallyConnected2d
from dlkit.strategies.base import DistributedShard, unflatten_into
from dlkit.strategies.checks import check_learner, class_name, refuse_exchanges_of_its_own, refuse_optimizer
from dlkit.strategies.graph.of_run import graph_of_run
from dlkit.strategies.graph.on_paper import paper_graph
from dlkit.strategies.graph.on_rank import Layouts, keep_part
from dlkit.strategies.graph.plan import Plan, Step
from dlkit.strategies.graph.plan_costs import plan_costs, steps_with_rest
from dlkit.strategies.graph.tile_layout import TileLayout
from dlkit.strategies.layer_cost import LayerCost
from dlkit.strategies.spatial.array_forward import ArrayForward, own_forward
from dlkit.strategies.spatial.on_paper import plan_over_grid
from dlkit.training.learner import Backprop, Metrics


@dataclass(frozen=True)
class SpatialParallel:
    """Ranks as a grid of p x q: each computes its tile of every map, of its own places and a halo of others'.

    grid: its rows and columns; by default all ranks one below another, each with a band of rows. Rank r is in row
    r // q and column r % q.
    overlap: compute what needs nothing of others while the rest is on its way. It pays on slow links: the edges of a
    tile are computed apart, which takes longer than what is small needs on its way.
    The net's forward runs as it is, on a `DistributedArray`: convolutions, locally connected layers, pooling and
    up-sampling are split, and so are what works place by place, additions and concatenations of branches, and means
    over places. What sees whole maps in a way of its own has them gathered, and each rank computes it all; `explain`
    says what. Weights of convolutions are on all ranks, and their gradients, each of a tile, are summed; of a locally
    connected layer a rank has the weights of its places alone.
    A rank sends in a step, with n ranks and numbers of 4 bytes: for each layer but the first, the places that others
    lack, forward, and the gradients of those that it lacked itself, back: places x maps x batch x 4; where maps are
    gathered, (n-1) times the largest tile, forward; and 2 (n-1)/n of the split layers' shared weights.
    Source: Coates, Huval, Wang, Wu, Catanzaro, Ng 2013, Deep learning with COTS HPC systems.
    """

    grid: tuple[int, int] | None = None
    overlap: bool = False

    def shard(self, run: Any) -> "SpatialShard":
        """ValueError for learners without a backward pass, and for nets and optimizers that cannot be split so."""
        refuse_exchanges_of_its_own(run.model, "SpatialParallel")
        check_learner(
            run.learner,
            Backprop,
            "has no net that images go through layer by layer, whose maps SpatialParallel could split: use "
            "DataParallel.",
        )
        return SpatialShard(run, self)

    def shape(self, world_size: int) -> tuple[int, int]:
        """The grid's for so many ranks. ValueError for another number of ranks than it has."""
        if self.grid is None:
            return world_size, 1
        if len(self.grid) != 2 or min(self.grid) < 1 or self.grid[0] * self.grid[1] != world_size:
            raise ValueError(
                f"SpatialParallel(grid={self.grid}) needs as many ranks as its rows times its columns, and there are "
                f"{world_size}: give a grid of {world_size}, such as ({world_size}, 1)."
            )
        return self.grid

    def plan(self, graph: NetGraph, world_size: int) -> Plan:
        """ValueError, with the reason, if there is nothing to split."""
        shape = self.shape(world_size)
        plan = plan_over_grid(graph, shape)
        over_maps = [step.node for step in plan.steps if is_over_maps(graph, step.node)]
        if not over_maps:
            raise ValueError(
                f"{class_name(graph.net)} has no layer with maps and weights, a convolution or a locally connected "
                "layer, whose rows SpatialParallel could split: use DataParallel or TensorParallel."
            )
        if not any(step.layout is not None for step in plan.steps if step.node in over_maps):
            self._refuse(graph, over_maps, shape)
        return plan

    def _refuse(self, graph: NetGraph, over_maps: list[Node], shape: tuple[int, int]) -> None:
        """Say why none of these nodes is split."""
        first = max(over_maps, key=lambda node: node.shape[2] * node.shape[3] if node.shape is not None else 0)
        size = first.shape[2:] if first.shape is not None else (0, 0)
        if shape[1] == 1 and size[0] < shape[0]:
            raise ValueError(
                f"the maps of {first.called} have {size[0]} rows, fewer than {shape[0]} ranks: use at most {size[0]} "
                "engines."
            )
        if size[0] < shape[0] or size[1] < shape[1]:
            grid = f"a grid of {shape[0]} x {shape[1]}"
            raise ValueError(
                f"the maps of {first.called} are {size[0]}x{size[1]}, too small for {grid}, which would leave a rank "
                f"nothing: use a grid of at most {size[0]} x {size[1]}."
            )
        raise ValueError(
            f"{class_name(graph.net)} has no layer over maps that SpatialParallel knows how to split: use DataParallel."
        )

    def steps(self, graph: NetGraph, world_size: int) -> list[Step]:
        """What each rank computes of the graph, for `explain`."""
        return steps_with_rest(self.plan(graph, world_size))

    def layer_costs(self, net: nn.Module, images: Tensor, batch_size: int, world_size: int) -> list[list[LayerCost]]:
        """A tile of every map; from the first layer on that sees whole maps, every rank computes the same."""
        return plan_costs(self.plan(paper_graph(net, images.shape[1:]), world_size), batch_size)


def is_over_maps(graph: NetGraph, node: Node) -> bool:
    """Does it go over maps, and has it weights?"""
    module = graph.module_of(node)
    learns = isinstance(module, nn.Conv2d | nn.ConvTranspose2d | SparseConv2d | LocallyConnected2d)
    return (learns or (node.op == "function" and node.called == "conv2d")) and len(node.shape or ()) == 4


def split_over_grid(plan: Plan, grid: Grid) -> Layouts:
    """Leave the plan's net this rank's part, in place, and say how its parameters are split."""
    net = plan.graph.net
    for path, layout in plan.parameters.items():
        keep_part(net, path, layout, grid.group)
    grid.added_up = frozenset((*plan.summed, *plan.parameters))
    forward = vars(net).get("forward") or own_forward(net)
    tiles = {path: layout.tiles for path, layout in plan.parameters.items() if isinstance(layout, TileLayout)}
    net.forward = ArrayForward(net, grid, plan.graph.image_shape, forward, tiles)
    return plan.parameters


class SpatialShard(DistributedShard):
    """A net of which this rank computes a tile; every batch is here whole."""

    model_is_whole = False

    def __init__(self, run: Any, strategy: SpatialParallel):
        super().__init__(run.model, run.learner)
        self.splits_layers = self.group
        plan = strategy.plan(graph_of_run(run), self.world_size)
        if plan.parameters:
            refuse_optimizer(run.experiment, "SpatialParallel")
        grid = Grid(self.group, strategy.shape(self.world_size), overlaps=strategy.overlap)
        self.layouts = split_over_grid(plan, grid)
        self.summed = plan.summed

    def sharded_draws(self, plan: DrawPlan) -> ShardedDraws:
        """What is drawn is drawn for all places."""
        return ShardedDraws(plan, None, self.model)

    def reduce_grad(self, batch: Batch, generator: ShardedGenerator) -> Metrics:
        metrics = self.learner.fill_weighted_grad(self.model, batch, generator)
        self.reduce_gradients()
        return metrics

    def reduce_gradients(self) -> None:
        """Make .grad the whole net's: the sum over all ranks, by one message, where each has that of its tile."""
        parameters = map(self.model.get_parameter, self.summed)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if gradients:
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            self.group.all_reduce(flat)
            unflatten_into(flat, gradients)
