"""The exercises of notebook 10: when two splits cost the same, the cheaper one, the groups of a rank, bytes sent.

`batch_statistics` has the statistics of a batch in parts, `hybrid_plan` the open task.
"""

from collections.abc import Sequence
from operator import eq
from typing import Any

import numpy as np

from dlkit.exercises import Answer, Hint, exercise
from dlkit.exercises.answers import first_wrong, listed, near, number, over_cases, refuse_mistakes, whole
from dlkit.exercises.batch_statistics import combined
from dlkit.exercises.hybrid_plan import plan
from dlkit.exercises.layer_bills import ALEXNET, Layer, by_data, by_neurons, bytes_sent, groups_of

__all__ = ["cheaper", "combined", "crossing_batch", "groups", "hybrid_bytes", "plan"]


@exercise(
    "the weights over the inputs decide, however many ranks there are: their number cancels",
    deeper="A smaller case: 2 ranks, 6 weights, 1 input. By data 4 * 2 * 1/2 * 6 = 24 bytes; by neurons "
    "4 * 3 * 1/2 * 1 = 6 bytes for each image. How many images make 24 bytes?",
)
def crossing_batch(answer: Answer) -> None:
    """`answer(weights, inputs, world_size)`: the batch for which a layer sends as much by data as by neurons."""
    cases = [(307_456, 69_984, 2), (37_752_832, 9_216, 4), (1_000, 70, 3), (48_120, 400, 7)]
    batches = [number(answer(*case)) for case in cases]
    right = [2 * weights / (3 * inputs) for weights, inputs, _ in cases]
    if near(batches, right):
        return
    if all(abs(batch - exact) < 1 for batch, exact in zip(batches, right, strict=True)):
        raise Hint("Rounded: leave it as it comes out, 2.93 images and all.")
    refuse_mistakes(batches, over_cases(_wrong_batches(*case) for case in cases), near)
    i = first_wrong(batches, right)
    weights, inputs, world_size = cases[i]
    raise Hint(
        f"With {weights:,} weights, {inputs:,} inputs and {world_size} ranks it is {right[i]:,.4g}; yours is "
        f"{batches[i]:,.4g}. Write `by_data(...)` and `by_neurons(...)` down as equal, and solve for the batch."
    )


def _wrong_batches(weights: int, inputs: int, world_size: int) -> list[tuple[float, str]]:
    """The usual wrong crossing batches, with their hints."""
    right, passes = 2 * weights / (3 * inputs), (world_size - 1) / world_size
    return [
        (weights / inputs, "That sends both equally often. By the rules above gradients go twice, inputs three times."),
        (2 * weights / inputs, "What is taken in travels back too, as gradients, and those are sums: a factor of 3."),
        (weights / (3 * inputs), "A sum goes round the ring twice: once to add up, once to hand round."),
        (1 / right, "Upside down: the more weights, the *larger* the batch from which data is the cheaper split."),
        (9 / 4 * right, "The factors are the wrong way round: which of the two is sent three times, which twice?"),
        (right / 4, "A number has four bytes on both sides: they cancel."),
        (4 * right, "A number has four bytes on both sides: they cancel."),
        (right * passes, "(n - 1) / n is in both amounts: does it not cancel?"),
        (right / passes, "(n - 1) / n is in both amounts: does it not cancel?"),
        (right / world_size, "`batch` is that of all ranks together, in both amounts: do not divide by the ranks."),
        (right * world_size, "`batch` is that of all ranks together, in both amounts: do not multiply by the ranks."),
    ]


@exercise(
    "the net has no one best split: it depends on the layer, and on the batch",
    deeper="Take one layer, and leave out 4 (n - 1) / n, which both have. By data 600 weights make 2 * 600 = 1,200. By "
    "neurons 10 inputs and a batch of 8 make 3 * 10 * 8 = 240. That is less: neurons.",
)
def cheaper(answer: Answer) -> None:
    """`answer(layers, batch, world_size)`: for each layer (weights, inputs) the split that sends less.

    Each split is a word, "data" or "neurons".
    """
    net = [ALEXNET[name] for name in ("conv1", "conv2", "conv4", "fc6", "fc8")]
    cases = [(net, 128, 4), (net, 4096, 2), (_layers(), 60, 3), (_layers()[::-1], 500, 8), (net[3:4], 1, 5)]
    choices = [_words(answer(list(layers), *rest), len(layers)) for layers, *rest in cases]
    right = [_cheaper(layers, batch) for layers, batch, _ in cases]
    if choices != right:
        _wrong_choice(choices, right, cases)


def _layers() -> list[Layer]:
    """Layers whose crossing batches lie on both sides of 60 and of 500 images."""
    inputs = [50, 37, 512, 80, 1_200, 9, 260, 64, 300, 700]
    factors = [1, 20, 45, 75, 110, 190, 330, 470, 600, 900]
    return [Layer(factor * count, count) for factor, count in zip(factors, inputs, strict=True)]


def _cheaper(layers: Sequence[Layer], batch: float) -> list[str]:
    """For each layer the word of the split that sends less."""
    return ["data" if 2 * weights < 3 * inputs * batch else "neurons" for weights, inputs in layers]


def _wrong_choice(choices: list[list[str]], right: list[list[str]], cases: list[tuple[list[Layer], int, int]]) -> None:
    """Raise the hint for choices that are not `right`; a case is (layers, batch, world size)."""
    opposite = {"data": "neurons", "neurons": "data"}
    if choices == [[opposite[word] for word in words] for words in right]:
        raise Hint("The wrong way round in every layer: which amount is smaller?")
    if len(chosen := {word for words in choices for word in words}) == 1:
        raise Hint(f'All of them by "{chosen.pop()}": each layer is decided for itself.')
    limits = [  # weights per input above which a layer is split by neurons
        (lambda batch, n: 1.5, "That leaves the batch out: what is taken in is sent for *every* image."),
        (lambda batch, n: batch, "What is taken in is sent three times, gradients twice: count the passes."),
        (lambda batch, n: batch / 2, "What is taken in travels forward, and its gradients are added up: 1 + 2."),
        (lambda batch, n: 1.5 * batch / n, "The batch is that of all ranks together: do not divide it."),
    ]
    for limit, hint in limits:
        refuse_mistakes(choices, [([_cheaper(layers, limit(batch, n) / 1.5) for layers, batch, n in cases], hint)], eq)
    i = first_wrong(choices, right, eq)
    layers, batch, world_size = cases[i]
    j = first_wrong(choices[i], right[i], eq)
    choice, (weights, inputs) = choices[i][j], layers[j]
    if inputs == 0:
        raise Hint("A layer that takes in 0 numbers, as the first one, has nothing to send by neurons.")
    raise Hint(
        f"A layer of {weights:,} weights that takes in {inputs:,} numbers, batch {batch}, {world_size} ranks: by data "
        f"{by_data(weights, world_size):,.0f} bytes, by neurons {by_neurons(inputs, batch, world_size):,.0f}; "
        f"you chose {choice}."
    )


@exercise(
    "a rank is in two groups: its model group holds one replica; its data group has the same part of each replica",
    deeper="Draw the mesh of 2 x 3: ranks 0 1 2 are its first row, 3 4 5 its second. Rank 4 has the row 3 4 5 and the "
    "column 1 4. Which of the two holds one replica?",
)
def groups(answer: Answer) -> None:
    """`answer(rank, data, model)`: the ranks of its data group and of its model group, itself among them."""
    meshes = [(3, 2), (2, 2), (2, 4), (1, 3), (4, 1), (3, 5)]
    cases = [(rank, *mesh) for mesh in meshes for rank in range(mesh[0] * mesh[1])]
    for rank, data, model in cases:
        answered = _two_groups(answer(rank, data, model))
        right = groups_of(rank, data, model)
        if answered != right:
            _wrong_groups(answered, right, rank, data, model)


def _wrong_groups(
    answered: tuple[list[int], list[int]], right: tuple[list[int], list[int]], rank: int, data: int, model: int
) -> None:
    """Raise the hint for groups that are not `right`."""
    case = f"Rank {rank} of a mesh of {data} x {model}"
    if answered == right[::-1]:
        raise Hint("The two are swapped: the *model* group holds one replica together; the data group comes first.")
    if answered == tuple([other for other in group if other != rank] for group in right):
        raise Hint(f"{case}: a rank is in its own groups too.")
    for group, size, name in zip(answered, (data, model), ("data", "model"), strict=True):
        if not group or max(group) >= data * model or min(group) < 0:
            raise Hint(f"{case}: there are ranks 0 to {data * model - 1}; your {name} group is {group}.")
        if rank not in group:
            raise Hint(f"{case}: your {name} group is {group}, and it is not in it itself.")
        if len(group) != size:
            raise Hint(f"{case}: a {name} group has {size} ranks; yours has {len(group)}.")
    row, column = rank % data, rank // data
    if answered == (list(range(column * data, (column + 1) * data)), list(range(row, data * model, data))):
        raise Hint(f"{case}: you count down the columns. Neighbouring ranks hold *one* replica: count along the rows.")
    i = first_wrong(list(answered), list(right), eq)
    raise Hint(
        f"{case}: its {('data', 'model')[i]} group is not {answered[i]}. Which row is it in, and which column, if "
        f"each row has {model}?"
    )


@exercise(
    "gradients of a part of the weights, inputs of a part of the batch, and each among fewer ranks",
    deeper="A smaller case: a mesh of 2 x 2, a layer of 100 weights that takes in 10 numbers, batch 8. Gradients of 50 "
    "weights among 2 ranks: 4 * 2 * 1/2 * 50 = 200 bytes. Now its inputs: for how many images, among how many ranks?",
)
def hybrid_bytes(answer: Answer) -> None:
    """`answer(layers, batch, data, model)`: bytes that a rank of a mesh of data x model ranks sends in a step.

    `layers` are (weights, inputs); `batch` is the number of images over all ranks.
    """
    layers, small = [ALEXNET[name] for name in ("conv1", "conv2", "fc6")], [Layer(1_050, 50)]
    cases = [(layers, 128, 2, 2), (layers[1:], 60, 3, 4), (small, 35, 5, 7), (small, 12, 6, 1), (small, 12, 1, 6)]
    sizes = [number(answer(list(layers), *rest)) for layers, *rest in cases]
    right = [bytes_sent(*case) for case in cases]
    if near(sizes, right):
        return
    refuse_mistakes(sizes, over_cases(_wrong_sizes(*case) for case in cases), near)
    i = first_wrong(sizes, right)
    layers, batch, data, model = cases[i]
    if model == 1:
        raise Hint("With model=1 there is nothing to send but gradients: it is data parallelism.")
    if data == 1:
        raise Hint("With data=1 there are no gradients to add up: it is a split by neurons.")
    raise Hint(
        f"For {[tuple(layer) for layer in layers]}, batch {batch}, {data} x {model} ranks it is {right[i]:,.0f}; yours "
        f"is {sizes[i]:,.0f}. Among how many ranks is each exchange, and what do they have: which part of the weights, "
        "and which part of the batch?"
    )


def _wrong_sizes(layers: Sequence[Layer], batch: int, data: int, model: int) -> list[tuple[float, str]]:
    """The usual wrong numbers of bytes, with their hints."""
    weights, inputs, world_size = sum(w for w, _ in layers), sum(a for _, a in layers), data * model
    gradients, values = by_data(weights / model, data), by_neurons(inputs, batch / data, model)
    replica = "A replica sees a part of the batch, so that its ranks gather a part of what all would."
    part = "A rank has a part of the weights, and adds up their gradients alone."
    return [
        ((gradients + values) / 4, "Those are numbers: each has four bytes."),
        (gradients, "That is what it sends for gradients. Within a replica the ranks exchange what layers take in."),
        (values, "That is what it sends within a replica. Between replicas gradients are added up."),
        (
            gradients + 2 / 3 * values,
            "Almost: by the rules above a layer's inputs are sent three times: once forward, twice backward.",
        ),
        (gradients + by_neurons(inputs, batch, model), replica),
        (by_data(weights, data) + values, part),
        (by_data(weights, data) + by_neurons(inputs, batch, model), f"{part} And: {replica[0].lower()}{replica[1:]}"),
        (
            by_data(weights, world_size) + by_neurons(inputs, batch, world_size),
            "No exchange is among all ranks: a data group has `data` of them, a model group `model`.",
        ),
        (
            by_data(weights / model, world_size) + by_neurons(inputs, batch / data, world_size),
            "The parts are right; but no exchange is among all ranks: a data group has `data` of them.",
        ),
        (bytes_sent(layers, batch, model, data), "data and model are swapped: among how many are gradients added up?"),
        (bytes_sent(layers[:1], batch, data, model), "That is the first layer's alone: add up all layers."),
        (world_size * (gradients + values), "That is what all ranks send together: one rank's is asked for."),
    ]


def _words(answer: Any, count: int) -> list[str]:
    """The answer, if it is a word for each layer. Raises Hint if not."""
    if not isinstance(answer, list | tuple | np.ndarray):
        raise Hint(
            f'Return a list with a word for each layer, "data" or "neurons"; yours is a {type(answer).__name__}.'
        )
    if len(answer) != count:
        raise Hint(f"Return a word for each layer: {count} here; your list has {len(answer)}.")
    for word in answer:
        if not isinstance(word, str) or word.strip().lower() not in ("data", "neurons"):
            raise Hint(f'Each word is "data" or "neurons"; one of yours is {word!r}.')
    return [word.strip().lower() for word in answer]


def _two_groups(answer: Any) -> tuple[list[int], list[int]]:
    """The answer, if it is two groups of ranks, in any order. Raises Hint if not."""
    pair = listed(answer)
    if pair is None or len(pair) != 2:
        raise Hint("Return two lists of ranks: the data group, and the model group.")
    groups = []
    for group in pair:
        ranks = listed(group)
        if ranks is None:
            raise Hint(f"Return two lists of ranks; one of yours is of type {type(group).__name__}.")
        groups.append(sorted(whole(rank) for rank in ranks))
    return groups[0], groups[1]
