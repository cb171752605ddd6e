"""The exercises of notebook 09: gather or reduce, a free energy in parts, how wide a halo is, how many microbatches.

`skips` has the sum of two branches, `four_workers` the open task.
"""

from collections.abc import Callable
from math import ceil, prod
from operator import eq

import torch
import torch.nn.functional as F
from torch import Tensor

from dlkit.exercises import Answer, Hint, NotAnswered, ReturnsNothing, exercise
from dlkit.exercises.answers import close, first_wrong, floats, refuse_mistakes, seeded, shaped, whole
from dlkit.exercises.cnn_feature_maps import Layers, field
from dlkit.exercises.four_workers import design
from dlkit.exercises.skips import add_split

__all__ = ["add_split", "design", "free_energy_part", "halo", "microbatches", "put_together"]


@exercise(
    "columns give different outputs, which are gathered; rows give parts of the same ones, which are summed",
    deeper="Two inputs, two outputs, two ranks. By columns rank 0 has x0 W00 + x1 W10, which is output 0, and rank 1 "
    "has output 1. By rows rank 0 has (x0 W00, x0 W01), and rank 1 (x1 W10, x1 W11): how do they make output 0?",
)
def put_together(answer: Answer) -> None:
    """`answer(parts, split)`: x @ W (batch, outputs) from the products of all ranks.

    `split` says how W is split over the ranks, by "columns" or by "rows"; `parts` has each rank's product.
    """
    g = seeded(1)
    for world_size, batch, inputs, outputs in ((2, 5, 12, 6), (3, 5, 11, 7), (1, 3, 5, 4), (5, 1, 12, 10)):
        x, W = torch.randn(batch, inputs, generator=g), torch.randn(inputs, outputs, generator=g)
        columns = [x @ part for part in W.tensor_split(world_size, dim=1)]
        split_rows = zip(x.tensor_split(world_size, dim=1), W.tensor_split(world_size, dim=0), strict=True)
        rows = [x_part @ W_part for x_part, W_part in split_rows]
        for split, parts in (("columns", columns), ("rows", rows)):
            try:
                product = floats(answer(parts, split))
            except (NotAnswered, ReturnsNothing):
                if split == "rows":
                    raise Hint('split="rows" gives nothing yet: "columns" does.') from None
                raise
            _check_product(product, parts, split, x @ W)


def _check_product(product: Tensor, parts: list[Tensor], split: str, right: Tensor) -> None:
    """Raise the hint for a product that is not `right`."""
    if close(product, right):
        return
    shapes = f"Split by {split}, each rank has {tuple(parts[0].shape)} of {tuple(right.shape)}."
    if len({part.shape for part in parts}) == 1 and close(product, torch.cat(parts)):
        raise Hint(f"{shapes} Yours are on top of each other, as if they were of different images.")
    if split == "columns" and product.shape == parts[0].shape != right.shape:
        what = "added up" if close(product, sum(parts)) else "of one rank's shape"  # pyrefly: ignore[bad-argument-type]
        raise Hint(f"{shapes} Yours is {what}: but those are different units, and none may get lost.")
    if split == "rows" and product.shape != right.shape:
        raise Hint(f"{shapes} Each rank has a number for every unit already: what does each of them lack?")
    if split == "rows":
        total = torch.stack(parts).sum(0)
        refuse_mistakes(
            product, [(total / len(parts), "That is the mean: a product is the *sum* over all of the inputs.")]
        )
        one_rank = f"{shapes} That is one rank's part: the other inputs count too."
        refuse_mistakes(product, [(part, one_rank) for part in parts])
    if split == "columns":
        swapped = "The ranks are in the wrong order: rank 0 has the first columns."
        refuse_mistakes(product, [(torch.cat(parts[::-1], 1), swapped)])
    raise Hint(f"{shapes} What comes out is not x @ W: are they parts of a sum, or different units?")


@exercise(
    "a free energy is a sum over hidden units: each rank adds its own, and one adds the visible biases",
    deeper="Two ranks with one hidden unit each: F(v) = -a·v - log(1 + exp(x0)) - log(1 + exp(x1)). Which term belongs "
    "to rank 0's unit, which to rank 1's, and which to neither? Who is to add the last one?",
)
def free_energy_part(answer: Answer) -> None:
    """`answer(v, a, W, b, rank)`: this rank's part (batch,) of the free energies; all ranks' parts add up to F(v).

    v (batch, visible) and a (visible,) are whole; W and b are the columns and biases of the rank's own hidden units.
    """
    g = seeded(2)
    for world_size, batch, units in ((1, 4, 9), (3, 4, 9), (4, 1, 10)):
        v, a = torch.rand(batch, 6, generator=g), torch.randn(6, generator=g)
        W, b = torch.randn(6, units, generator=g), torch.randn(units, generator=g)
        visible, inputs = v @ a, v @ W + b
        right = -visible - F.softplus(inputs).sum(1)
        parts = enumerate(zip(W.tensor_split(world_size, dim=1), b.tensor_split(world_size), strict=True))
        of_ranks = [answer(v, a, W_part, b_part, rank) for rank, (W_part, b_part) in parts]
        numbers = [shaped(floats(of_rank), (batch,), "a number for each image") for of_rank in of_ranks]
        free_energies = torch.stack([of_rank.double() for of_rank in numbers]).sum(0)
        if close(free_energies, right):
            continue
        refuse_mistakes(free_energies, _wrong_energies(visible, inputs, right, world_size))
        where = "one rank" if world_size == 1 else f"{world_size} ranks"
        raise Hint(
            f"On {where} your parts add up to {free_energies[0]:.3f} for the first image, and F is {right[0]:.3f}. "
            "F(v) = -a·v - Σ log(1 + exp(b + v·W)), the sum being over hidden units: whose are they?"
        )


def _wrong_energies(visible: Tensor, inputs: Tensor, right: Tensor, world_size: int) -> list[tuple[Tensor, str]]:
    """The usual wrong free energies (batch,), added up over the ranks, with their hints."""
    hidden = F.softplus(inputs).sum(1)
    mistakes = [
        (-hidden, "The visible biases are missing: every image has its -a·v, once."),
        (-right, "The sign: the free energy is *minus* both terms."),
        (visible - hidden, "The sign of a·v: it lowers the energy, as the hidden units do."),
        (-visible + hidden, "The sign of the hidden units' part: they lower the energy."),
        (-visible - inputs.sigmoid().sum(1), "That sums probabilities: the units summed out give log(1 + exp(x))."),
        (-visible - inputs.sum(1), "log(1 + exp(x)) is not x: the unit may also be off."),
    ]
    if world_size > 1:
        again = "Every rank has counted -a·v, and all have all visible units: it counts once in the sum."
        others = "All ranks but one have counted -a·v: it counts once in the sum."
        mistakes += [(-world_size * visible - hidden, again), ((1 - world_size) * visible - hidden, others)]
    return mistakes


@exercise(
    "each layer adds kernel less stride, in steps of the strides below: pooling side by side adds nothing",
    deeper="Layers (3, 2) and (3, 1): m rows of the last see m + 2 of the one below, and n rows of that see 2 (n - 1) "
    "+ 3 rows of the image. With n = m + 2 that is 2 m + 5, and 2 m are the rank's own: 5.",
)
def halo(answer: Answer) -> None:
    """`answer(layers)`: how many rows of the image a rank must borrow, from above and below its band together.

    `layers` are (kernel, stride), the lowest first.
    """
    cases: list[Layers] = [
        [(3, 1)],
        [(7, 1)],
        [(3, 1)] * 3,
        [(2, 2)],
        [(5, 1), (2, 2), (5, 1), (2, 2)],
        [(4, 2), (3, 1)],
        [(5, 1), (2, 2), (5, 1), (2, 2), (5, 1)],
        [(11, 4), (3, 2), (5, 1), (3, 2)],
        [(3, 3), (1, 1)],
    ]
    rows = [whole(answer(layers)) for layers in cases]
    right = [_halo(layers) for layers in cases]
    if rows == right:
        return
    mistakes: list[tuple[Callable[[Layers], int], str]] = [
        (field, "That is how many rows *one* row of the last layer sees: of those the rank has some itself."),
        (
            lambda x: field(x) - 1,
            "That is right if all strides are 1. A band of m rows stands for m x strides rows of the image.",
        ),
        (
            lambda x: sum(k - 1 for k, _ in x),
            "That forgets the strides: a row of a higher layer stands for several rows of the image.",
        ),
        (
            lambda x: sum(k - s for k, s in x),
            "Each layer adds that in rows of *its* input: how many rows of the image are they?",
        ),
        (
            lambda x: sum((k - s) * prod(stride for _, stride in x[: i + 1]) for i, (k, s) in enumerate(x)),
            "You multiply by the layer's own stride too: how far its input's rows are apart, the strides *below* say.",
        ),
        (lambda x: _halo(x[::-1]), "You begin at the highest layer: the list begins at the lowest."),
        (lambda x: sum(k // 2 for k, _ in x), "That is one side: a band has an upper and a lower edge."),
        (lambda x: 2 * _halo(x), "That is twice as much: above and below *together*."),
        (
            lambda x: x[-1][0] - x[-1][1],
            "That is the last layer's alone: the layers below must make the rows that it borrows.",
        ),
        (lambda x: sum(k for k, _ in x), "Of the rows that a kernel needs the rank has one itself."),
    ]
    refuse_mistakes(rows, [([mistake(layers) for layers in cases], hint) for mistake, hint in mistakes], eq)
    i = first_wrong(rows, right, eq)
    raise Hint(
        f"For {cases[i]} it is {right[i]}; yours is {rows[i]}. m rows of the last layer: how many rows of "
        "the image do they see, and how many of those would the rank have if every layer had kernel = stride?"
    )


def _halo(layers: Layers) -> int:
    """The right answer: rows of the image that a band's m rows of the last layer see, less the band's own rows.

    They see (m - 1) strides and a field; the band has m strides, where a stride is the product of all layers' strides.
    """
    return field(layers) - prod(stride for _, stride in layers)


@exercise(
    "stages cost a filling and an emptying, K - 1 microbatches long: with many microbatches it is a small part",
    deeper="3 stages, and less than 1/3: for M = 1, 2, 3, 4, 5 the bubble is 2/3, 2/4, 2/5, 2/6, 2/7. Which is the "
    "first that is *less* than 1/3, and what of the one that is equal to it?",
)
def microbatches(answer: Answer) -> None:
    """`answer(stages, most)`: the fewest microbatches with which the bubble is below `most`, a share from 0 to 1."""
    cases = [(2, 0.15), (4, 0.125), (8, 0.25), (3, 0.6), (5, 0.3), (16, 0.07), (1, 0.5), (2, 0.9)]
    counts = [whole(answer(stages, most)) for stages, most in cases]
    right = [_fewest(stages, most) for stages, most in cases]
    if counts == right:
        return
    mistakes: list[tuple[Callable[[int, float], int], str]] = [
        (lambda k, p: _fewest(k, p) - 1, "One too few: with yours the bubble is not *below* the limit."),
        (
            _fewest_at_limit,
            "Right, unless the bubble is exactly at the limit, as with K = 8, M = 21 and 0.25: *less* is wanted.",
        ),
        (
            lambda k, p: round((k - 1) / p - (k - 1)),
            "Rounded to the nearest number: which way must it be rounded, so that the bubble is below the limit?",
        ),
        (
            lambda k, p: ceil(k / p - k),
            "That is k/(M+k) for k stages: K stages lose K - 1 turns.",
        ),
        (lambda k, p: ceil((k - 1) / p), "That is (K-1)/M: the whole time is M + K - 1 turns."),
        (lambda k, p: _fewest(k, p) + 1, "One too many: are there fewer that do?"),
        (lambda k, p: _fewest(k + 1, p), "That is for one stage more: K stages are K - 1 steps from end to end."),
        (lambda k, p: _fewest(k, p) + k - 1, "That counts the filling in: yours is M + K - 1, and M is asked for."),
    ]
    refuse_mistakes(counts, [([mistake(*case) for case in cases], hint) for mistake, hint in mistakes], eq)
    i = first_wrong(counts, right, eq)
    stages, most = cases[i]
    effect = "is no number of microbatches"
    if counts[i] > 0:
        effect = f"gives a bubble of {(stages - 1) / (counts[i] + stages - 1):.1%}"
    raise Hint(
        f"{stages} stages, a bubble below {most:.0%}: yours, {counts[i]}, {effect}. Make M larger until "
        "(K-1)/(M+K-1) is small enough."
    )


def _fewest_at_limit(stages: int, most: float) -> int:
    """By a formula that takes a bubble of exactly `most` for small enough."""
    return max(1, ceil((stages - 1) / most - (stages - 1)))


def _fewest(stages: int, most: float) -> int:
    """By trying 1, 2, 3, ... microbatches."""
    count = 1
    while (stages - 1) / (count + stages - 1) >= most:
        count += 1
    return count
