"""Nets that grow with a grid of ranks, and the time of their steps as predicted: what a rank computes, and sends.

A rank's computing is measured on the engines, all at once, each with its own tile and zeros for what others would send.
What they exchange is read off the plan of `cost`. The prediction leaves out that ranks wait for each other.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from dlkit import data
from dlkit.bench.parallel_floors import Rate, median_seconds, own_part
from dlkit.core.random import ShardedGenerator
from dlkit.data.batch import Batch
from dlkit.models import RICAStage
from dlkit.strategies import SpatialParallel
from dlkit.strategies.graph.exchanges import Noted
from dlkit.strategies.graph.on_paper import paper_graph
from dlkit.training import Experiment, OwnCost

MAPS, SIZE, POOL = 16, 10, 3
PARAMETERS_A_RANK = 1_000_000
BATCH, BATCHES = 96, 2  # images in a batch, as in the paper, and batches in the data
LR = 0.001
LONGEST = 10_000  # images that are looked at for a size, in pixels
COLLECTIVE = {"summed": "all-reduce", "copied": "all-reduce", "gathered": "all-gather", "cut": "all-gather"}


@dataclass(frozen=True)
class GrownNet:
    """The size of a net for a grid of ranks: one stage of filters that share no weights, over images of this size.

    grid: rows and columns of ranks. image: (height, width), in pixels.
    """

    grid: tuple[int, int]
    image: tuple[int, int]

    @classmethod
    def over(cls, grid: tuple[int, int], parameters_a_rank: int) -> "GrownNet":
        """The one whose ranks hold nearest to so many parameters: images grow in height with the grid's rows, and in
        width with its columns, from the square ones of a single rank.
        """
        rows, columns = grid
        side = nearest(parameters_a_rank, lambda side: parameters_for((side, side)))
        height = nearest(rows * parameters_a_rank, lambda height: parameters_for((height, side)))
        width = nearest(rows * columns * parameters_a_rank, lambda width: parameters_for((height, width)))
        return cls(grid, (height, width))

    @property
    def ranks(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def strategy(self) -> SpatialParallel:
        return SpatialParallel(grid=self.grid)

    def experiment(self) -> Experiment[RICAStage]:
        """Its training on pieces of photographs."""
        height, width = self.image
        photos = data.patches(max(self.image), BATCH * BATCHES, whiten=None).images
        images = photos[:, :height, :width].clone()
        return Experiment(model_of(self.image), images, OwnCost(), batch_size=BATCH, lr=LR)


def model_of(image: tuple[int, int]) -> Callable[[], RICAStage]:
    """What makes the net for images of this size, on an engine too."""
    return partial(RICAStage, 1, MAPS, SIZE, image, pool=(POOL, 1))


def parameters_for(image: tuple[int, int]) -> int:
    """How many parameters the net for images of this size has; it is not allocated."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in model_of(image)().parameters())


def nearest(wanted: int, count: Callable[[int], int]) -> int:
    """The length, in pixels, whose count is nearest to the one wanted; counts must grow with lengths."""
    lengths = range(SIZE + POOL - 1, LONGEST)
    place = max(bisect_left(lengths, wanted, key=count), 1)
    return min(lengths[place - 1 : place + 1], key=lambda length: abs(count(length) - wanted))


# What a rank computes.


class Tile(NamedTuple):
    """What an engine has of a net: how many parameters, and the seconds that a step takes it without any exchange."""

    parameters: int
    seconds: float


def measure_tile(experiment: Experiment, strategy: SpatialParallel, steps: int) -> Tile:
    """On an engine: forward and backward passes and the optimizer's steps of this rank's tile, the median of `steps`.

    The batch is in memory.
    """
    batch, generator = Batch(experiment.data[: experiment.batch_size], None), ShardedGenerator("cpu")
    net = own_part(experiment, strategy, batch)
    optimizer = experiment.optimizer(net.parameters(), lr=experiment.lr)

    def step() -> None:
        experiment.learner.fill_grad(net, batch, generator)
        optimizer.step()

    return Tile(sum(parameter.numel() for parameter in net.parameters()), median_seconds(step, steps))


# What ranks exchange.


class PlannedExchange(NamedTuple):
    """An exchange of a step: its kind, of `parallel_floors.KINDS`, the bytes that each rank sends, and the most that
    one sends or receives.
    """

    kind: str
    sent: tuple[int, ...]
    largest: int


def planned_exchanges(net: GrownNet, batch_size: int) -> list[PlannedExchange]:
    """Those of a step, of which `cost` has the sums: filters that share no weights have no gradients to be summed."""
    if net.ranks == 1:
        return []
    plan = net.strategy.plan(paper_graph(model_of(net.image)(), net.image), net.ranks)
    noted = [made.exchange for step in plan.steps for made in step.made if isinstance(made.exchange, Noted)]
    return [exchange for each in noted for exchange in _both_ways(each, net.ranks, batch_size)]


def _both_ways(noted: Noted, ranks: int, batch_size: int) -> Iterator[PlannedExchange]:
    """What is sent forward comes back as gradients, from those that received it, if any are needed.

    All but collectives are sends: a rank receives forward what it sends back.
    """
    forward, backward = zip(*(noted.bytes_of(rank, batch_size) for rank in range(ranks)), strict=True)
    for sent in (forward, backward):
        if any(sent):
            yield PlannedExchange(COLLECTIVE.get(noted.name, "send"), sent, max(*forward, *backward))


def planned_seconds(exchanges: Sequence[PlannedExchange], rates: Mapping[str, Rate]) -> float:
    """Seconds that these exchanges take one after another, at rates for each kind."""
    return sum(rates[exchange.kind].seconds(exchange.largest) for exchange in exchanges)
