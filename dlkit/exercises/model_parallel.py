"""The exercises of notebook 09: gather or reduce, a free energy in parts, how wide a halo is, how many microbatches."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlkit.exercises import Hint, NotAnswered, exercise, given
from dlkit.exercises.answers import close, seeded, shaped, tensor, whole, wrong

Layers = list[tuple[int, int]]  # (kernel, stride), from the lowest up


@exercise("columns give different outputs, which are gathered; rows give parts of the same ones, which are summed")
def put_together(answer: Any) -> None:
    """`answer(parts, split)`: x @ W (batch, outputs) from each rank's product, W split by "columns" or by "rows"."""
    g = seeded(1)
    for ranks, outputs in ((2, 6), (3, 6)):
        x, W = torch.randn(5, 12, generator=g), torch.randn(12, outputs, generator=g)
        columns = [x @ part for part in W.chunk(ranks, dim=1)]
        rows = [one @ other for one, other in zip(x.chunk(ranks, dim=1), W.chunk(ranks, dim=0), strict=True)]
        for split, parts in (("columns", columns), ("rows", rows)):
            try:
                found = answer([part.clone() for part in parts], split)
                given(found)
            except NotAnswered:
                if split == "rows":
                    raise Hint('split="rows" gives nothing yet: "columns" does.') from None
                raise
            _put_together(tensor(found), parts, split, x @ W)


def _put_together(found: Tensor, parts: list[Tensor], split: str, right: Tensor) -> None:
    if close(found, right):
        return
    shapes = f"Split by {split}, each rank has {tuple(parts[0].shape)} of {tuple(right.shape)}."
    if close(found, torch.cat(parts)):
        raise Hint(f"{shapes} Yours are on top of each other, as if they were of different images.")
    if split == "columns" and found.shape == parts[0].shape:
        what = "added up" if close(found, sum(parts)) else "of one rank's shape"  # pyrefly: ignore[bad-argument-type]
        raise Hint(f"{shapes} Yours is {what}: but those are different units, and none may get lost.")
    if split == "rows" and found.shape != right.shape:
        raise Hint(f"{shapes} Each rank has a number for every unit already: what does each of them lack?")
    if split == "rows":
        total = torch.stack(parts).sum(0)
        wrong(found, [(total / len(parts), "That is the mean: a product is the *sum* over all of the inputs.")])
        wrong(found, [(part, f"{shapes} That is one rank's part: the other inputs count too.") for part in parts])
    if split == "columns":
        wrong(found, [(torch.cat(parts[::-1], 1), "The ranks are in the wrong order: rank 0 has the first columns.")])
    raise Hint(f"{shapes} What comes out is not x @ W: are they parts of a sum, or different units?")


@exercise("a free energy is a sum over hidden units: each rank adds its own, and one adds the visible biases")
def free_energy_part(answer: Any) -> None:
    """`answer(v, a, W, b, rank)`: a rank's part (batch,), of its columns of W and its b; all parts add up to F(v)."""
    g = seeded(2)
    v, a = torch.rand(4, 6, generator=g), torch.randn(6, generator=g)
    W, b = torch.randn(6, 9, generator=g), torch.randn(9, generator=g)
    visible, inputs = v @ a, v @ W + b
    right = -visible - F.softplus(inputs).sum(1)
    for ranks in (1, 3):
        parts = zip(W.chunk(ranks, dim=1), b.chunk(ranks), strict=True)
        each = [answer(v.clone(), a.clone(), w.clone(), c.clone(), rank) for rank, (w, c) in enumerate(parts)]
        found = sum((shaped(one, (4,), "a number for each image") for one in each), torch.zeros(4))
        if close(found, right):
            continue
        wrong(found, _wrong_energies(visible, inputs, right, ranks))
        where = "one rank" if ranks == 1 else f"{ranks} ranks"
        raise Hint(
            f"On {where} your parts add up to {found[0]:.3f} for the first image, and F is {right[0]:.3f}. "
            "F(v) = -a·v - Σ log(1 + exp(b + v·W)), the sum being over hidden units: whose are they?"
        )


def _wrong_energies(visible: Tensor, inputs: Tensor, right: Tensor, ranks: int) -> list[tuple[Tensor, str]]:
    hidden = F.softplus(inputs).sum(1)
    found = [
        (-hidden, "The visible biases are missing: every image has its -a·v, once."),
        (-right, "The sign: the free energy is *minus* both terms."),
        (visible - hidden, "The sign of a·v: it lowers the energy, as the hidden units do."),
        (-visible + hidden, "The sign of the hidden units' part: they lower the energy."),
        (-visible - inputs.sigmoid().sum(1), "That sums probabilities: the units summed out give log(1 + exp(x))."),
        (-visible - inputs.sum(1), "log(1 + exp(x)) is not x: the unit may also be off."),
    ]
    if ranks > 1:
        again = "Every rank has counted -a·v, and all have all visible units: it counts once in the sum."
        found.append((-ranks * visible - hidden, again))
    return found


@exercise("each layer adds kernel less stride, in steps of the strides below: pooling side by side adds nothing")
def halo(answer: Any) -> None:
    """`answer(layers)`: rows of the image that a band lacks, above and below together; layers (kernel, stride)."""
    cases: list[Layers] = [
        [(3, 1)],
        [(7, 1)],
        [(3, 1)] * 3,
        [(2, 2)],
        [(5, 1), (2, 2), (5, 1), (2, 2)],
        [(4, 2), (3, 1)],
    ]
    found = [whole(answer(list(layers))) for layers in cases]
    right = [_halo(layers) for layers in cases]
    if found == right:
        return
    mistakes: list[tuple[Callable[[Layers], int], str]] = [
        (_field, "That is how many rows *one* row of the last layer sees: of those the rank has some itself."),
        (lambda x: _field(x) - 1, "Where the stride is 1 that is right. A band of m rows stands for m x strides rows."),
        (
            lambda x: sum(k - 1 for k, _ in x),
            "That forgets the strides: a row of a higher layer is several rows below.",
        ),
        (lambda x: sum(k - s for k, s in x), "Each layer adds that in rows of *its* input: how many of the image's?"),
        (lambda x: sum(k // 2 for k, _ in x), "That is one side: a band has an upper and a lower edge."),
        (lambda x: 2 * _halo(x), "That is twice as much: above and below *together*."),
        (lambda x: x[-1][0] - x[-1][1], "That is the last layer's alone: what it borrows, those below have to make."),
        (lambda x: sum(k for k, _ in x), "Of a kernel's rows the rank has one itself."),
    ]
    for mistake, hint in mistakes:
        if found == [mistake(layers) for layers in cases]:
            raise Hint(hint)
    place = next(i for i in range(len(cases)) if found[i] != right[i])
    raise Hint(
        f"For {cases[place]} it is {right[place]}; yours is {found[place]}. m rows of the last layer: how many rows of "
        "the image do they see, and how many of those would the rank have if every layer had kernel = stride?"
    )


def _field(layers: Layers) -> int:
    seen = 1
    for kernel, stride in reversed(layers):
        seen = (seen - 1) * stride + kernel
    return seen


def _halo(layers: Layers) -> int:
    """What m rows see, (m - 1) strides and a field, less the m strides of rows that are the band's own."""
    return _field(layers) - prod(stride for _, stride in layers)


@exercise("stages cost a filling and an emptying, K - 1 microbatches long: with many microbatches it is a small part")
def microbatches(answer: Any) -> None:
    """`answer(stages, most)`: the fewest microbatches with which the bubble is below `most`."""
    cases = [(2, 0.1), (4, 0.1), (8, 0.25), (3, 0.6)]
    found = [whole(answer(stages, most)) for stages, most in cases]
    right = [_fewest(stages, most) for stages, most in cases]
    if found == right:
        return
    mistakes: list[tuple[Callable[[int, float], int], str]] = [
        (lambda k, p: _fewest(k, p) - 1, "One too few: with yours the bubble is not *below* the limit."),
        (lambda k, p: _fewest(k, p) + 1, "One too many: are there fewer that do?"),
        (lambda k, p: _fewest(k + 1, p), "That is for one stage more: K stages are K - 1 steps from end to end."),
        (lambda k, p: _fewest(k, p) + k - 1, "That counts the filling in: it is M + K - 1, and M is asked for."),
    ]
    for mistake, hint in mistakes:
        if found == [mistake(stages, most) for stages, most in cases]:
            raise Hint(hint)
    place = next(i for i in range(len(cases)) if found[i] != right[i])
    stages, most = cases[place]
    mine = f"yours, {found[place]}, " + (
        f"gives a bubble of {(stages - 1) / (found[place] + stages - 1):.1%}"
        if found[place] > 0
        else "is no number of them"
    )
    raise Hint(
        f"{stages} stages, a bubble below {most:.0%}: {mine}. Make M larger until (K-1)/(M+K-1) is small enough."
    )


def _fewest(stages: int, most: float) -> int:
    count = 1
    while (stages - 1) / (count + stages - 1) >= most:
        count += 1
    return count
