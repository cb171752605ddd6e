"""What a layer costs to split, by rule of thumb, as notebook 10 reckons it: bytes, seconds, memory."""

from collections.abc import Sequence
from typing import NamedTuple

NUMBER = 4  # bytes of a float32


class Layer(NamedTuple):
    """A layer, by what decides how it is best split: the inputs are those that it takes in for one image."""

    weights: int
    inputs: int


def by_data(weights: float, world_size: int) -> float:
    """Bytes that a rank sends for a layer in a step split by data: the sum of the gradients goes round a ring twice."""
    return NUMBER * 2 * (world_size - 1) / world_size * weights


def by_neurons(inputs: float, batch: float, world_size: int) -> float:
    """Bytes that a rank sends for a layer in a step split by neurons, as TensorParallel does it.

    Forward, the layer's inputs are gathered. Backward, each rank has a part of the sum that is their gradient: adding
    the parts up by an all-reduce sends twice as much. (A reduce-scatter, where it will do, sends once as much.)
    """
    return NUMBER * 3 * (world_size - 1) / world_size * inputs * batch


ALEXNET = {
    "conv1": Layer(34_944, 0),
    "conv2": Layer(307_456, 69_984),
    "conv3": Layer(885_120, 43_264),
    "conv4": Layer(663_936, 64_896),
    "conv5": Layer(442_624, 64_896),
    "fc6": Layer(37_752_832, 9_216),
    "fc7": Layer(16_781_312, 4_096),
    "fc8": Layer(4_097_000, 4_096),
}
Mesh = tuple[int, int]  # data and model

MACHINE, MACHINES = 4, 2  # GPUs in a machine, and machines, of the plan
BATCH, LIMIT = 512, 250e6  # images over all ranks; bytes of memory a rank
WITHIN, BETWEEN = 10e9, 1e9  # bytes a second among ranks of one machine, and among those of both


def bytes_sent(layers: Sequence[Layer], batch: int, data: int, model: int) -> float:
    """Bytes that a rank of a mesh of data x model ranks sends in a step."""
    return sum(by_data(w / model, data) + by_neurons(inputs, batch / data, model) for w, inputs in layers)


def groups_of(rank: int, data: int, model: int) -> tuple[list[int], list[int]]:
    """A rank's data group and model group, on a mesh of data x model ranks that are counted along its rows."""
    row, column = divmod(rank, model)
    return list(range(column, data * model, model)), list(range(row * model, (row + 1) * model))


def exchange_seconds(meshes: Sequence[Mesh]) -> float:
    """How long the exchanges of a step take, if each layer of AlexNet has its mesh and nothing goes on meanwhile."""
    seconds = 0.0
    for (weights, inputs), (data, model) in zip(ALEXNET.values(), meshes, strict=True):
        speeds = [WITHIN if _in_one_machine(group) else BETWEEN for group in groups_of(0, data, model)]
        seconds += by_data(weights / model, data) / speeds[0] + by_neurons(inputs, BATCH / data, model) / speeds[1]
    return seconds


def held_bytes(meshes: Sequence[Mesh]) -> float:
    """What a rank keeps: weights, their gradients and momentum, and the inputs of all layers for the backward pass."""
    return sum(
        NUMBER * (3 * weights / model + inputs * BATCH / data)
        for (weights, inputs), (data, model) in zip(ALEXNET.values(), meshes, strict=True)
    )


def _in_one_machine(ranks: Sequence[int]) -> bool:
    return len({rank // MACHINE for rank in ranks}) == 1
