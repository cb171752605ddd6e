"""Whether an optimizer's step on parts of parameters is a part of its step on the whole, found by trial."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.core.global_generators import seeded

STEPS = 12  # some clip, or go on otherwise, after the first few
SCALES = (1e-3, 1.0, 1e4)  # of gradients: clipping may bite on large ones only
SHAPES = ((6, 4), (8, 2), (4,))

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def works_on_parts(make: Make, *, whole_parameters: bool = False) -> bool:
    """Is a step on some rows, or some columns, of each parameter what it is for them in a step on the whole?

    whole_parameters: ask instead whether a step on one parameter is the same without the others. `make(parameters)`
    makes the optimizer. False, too, for one that asks for the gradient more than once a step, as line searches do.
    """
    for scale in SCALES:
        try:
            whole = _steps(make, scale, lambda tensors: tensors)
        except _AsksAgain:
            return False
        for part in _others(whole_parameters):
            if not _same(_steps(make, scale, part), part(whole)):
                return False
    return True


class _AsksAgain(Exception):
    pass


def _others(whole_parameters: bool) -> list[Callable[[list[Tensor]], list[Tensor]]]:
    if whole_parameters:
        return [lambda tensors: tensors[:1], lambda tensors: tensors[1:]]
    return [
        lambda tensors, dim=dim, half=half: [tensor.chunk(2, dim)[half].contiguous() for tensor in tensors]
        for dim in (0, -1)
        for half in (0, 1)
    ]


def _drawn(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in SHAPES]


def _steps(make: Make, scale: float, part: Callable[[list[Tensor]], list[Tensor]]) -> list[Tensor]:
    """What is left of the parameters, or of a part of each, after a few steps."""
    parameters = [nn.Parameter(value.clone()) for value in part(_drawn(0))]
    optimizer = make(parameters)
    for step in range(1, STEPS + 1):
        asked: list[Any] = []

        def fill(gradients: list[Tensor] = part(_drawn(step))) -> None:  # noqa: B008
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient * scale + parameter.detach()

        fill()
        versions = [parameter._version for parameter in parameters]

        def closure(asked: list[Any] = asked, versions: list[int] = versions, fill: Any = fill) -> Any:
            if asked:
                raise _AsksAgain
            asked.append(True)
            if [parameter._version for parameter in parameters] != versions:  # at other weights, another gradient
                fill()
            return torch.tensor(1.0, dtype=torch.float64)

        with seeded(0, names=("torch",)):
            optimizer.step(closure)
    return [parameter.detach() for parameter in parameters]


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(one, other, strict=True))
