"""The exercises of notebook 11: a stale gradient on a server, a rate for each value, the two loops of L-BFGS."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlkit.exercises import Answer, Hint, exercise
from dlkit.exercises.answers import close, refuse_mistakes, results, seeded, shaped, whole
from dlkit.exercises.uneven_workers import plan

__all__ = ["adagrad", "apply_push", "direction", "plan"]

Parts = list[Tensor]  # of a vector, one on each server


@exercise(
    "how old a gradient is, is how many others were applied between the fetch and the push",
    deeper="The values were fetched at version 3. Meanwhile three gradients came, and the version is 6: the one that "
    "comes now has an age of 3. It is applied all the same, and the version is 7.",
)
def apply_push(answer: Answer) -> None:
    """`answer(values, version, gradient, computed_at, lr)`: (values, version, age) once a gradient is applied by SGD.

    computed_at: the version of the values that the gradient was computed at.
    """
    g = seeded(0)
    for version, computed_at in ((0, 0), (6, 3), (40, 21), (7, 7)):
        values, gradient = (torch.randn(5, generator=g) for _ in range(2))
        found = results(
            answer(values.clone(), version, gradient.clone(), computed_at, 0.3), 3, "values, version and age"
        )
        _check_push(found, values, version, gradient, computed_at)


def _check_push(found: list[Any], values: Tensor, version: int, gradient: Tensor, computed_at: int) -> None:
    age, after = version - computed_at, values - 0.3 * gradient
    said = f"With version {version}, and a gradient computed at version {computed_at},"
    new_values = shaped(found[0], (5,), "the values after the step")
    mistakes = [
        (values, "The values have not moved: a stale gradient is applied all the same."),
        (values + 0.3 * gradient, "That goes uphill: take the gradient away, times lr."),
        (values - gradient, "The step is lr times the gradient."),
        (gradient, "That is the gradient: the values after the step are wanted."),
    ]
    if age:
        damped = values - 0.3 * gradient / (age + 1)
        mistakes.append((damped, "You divide by the age: that mends staleness, and comes later. Here it is plain SGD."))
    if not close(new_values, after):
        refuse_mistakes(new_values, mistakes)
        raise Hint(f"{said} the values should be values - lr * gradient.")
    new_version, new_age = whole(found[1]), whole(found[2])
    if (new_version, new_age) == (age, version + 1):
        raise Hint("Version and age are exchanged: return values, version, age.")
    if new_version == version:
        raise Hint("The version is still the same: it counts the gradients that were applied, and one more was.")
    if new_version != version + 1:
        raise Hint(f"{said} the version is then {version + 1}; yours is {new_version}.")
    if new_age == age + 1:
        raise Hint("One too old: you counted the gradient itself. Its age is how many *others* came in between.")
    if new_age == -age and age:
        raise Hint("A negative age: take the version of the fetch from the server's.")
    if new_age != age:
        raise Hint(f"{said} the age is {age}; yours is {new_age}.")


@exercise(
    "the sums are of squares, since the beginning, and hold this gradient's too before they are used",
    deeper="One value, its gradients 3 and then 4. After the first the sum is 9, and the step lr * 3 / 3 = lr: the "
    "first step is lr, however large the gradient. After the second it is 9 + 16 = 25, and the step lr * 4 / 5.",
)
def adagrad(answer: Answer) -> None:
    """`answer(values, sums, gradient, lr)`: (values, sums) after a step by Adagrad; the sums are of squares."""
    g = seeded(1)
    right = torch.randn(4, generator=g), torch.rand(4, generator=g) + 0.5
    for step in range(5):
        if step == 4:  # the first step of all
            right = torch.randn(4, generator=g), torch.zeros(4)
        gradient = torch.randn(4, generator=g) * 10.0**step
        before = right
        found = results(answer(right[0].clone(), right[1].clone(), gradient.clone(), 0.1), 2, "values and sums")
        new = right[1] + gradient**2
        right = (right[0] - 0.1 * gradient / new.sqrt(), new)
        _check_adagrad(found, before, gradient, right)


def _check_adagrad(
    found: list[Any], before: tuple[Tensor, Tensor], gradient: Tensor, right: tuple[Tensor, Tensor]
) -> None:
    values, sums = (shaped(part, (4,), what) for part, what in zip(found, ("the values", "the sums"), strict=True))
    if close(values, right[1]) and close(sums, right[0]):
        raise Hint("Values and sums are exchanged: return values, sums.")
    if not close(sums, right[1]):
        mistakes = [
            (before[1], "The sums are as they were: add the squares of this gradient."),
            (before[1] + gradient, "Those are sums of gradients, of which plus and minus would cancel: of squares."),
            (before[1] + gradient.abs(), "Those are sums of absolute values: of squares."),
            (gradient**2, "Those are this gradient's squares alone: the sum is of all gradients so far."),
            (right[1].sqrt(), "Keep the sums themselves, and take the root only for the step."),
        ]
        refuse_mistakes(sums, mistakes)
        raise Hint("The sums should be the old ones plus the squares of the gradient, value by value.")
    if close(values, right[0]):
        return
    mistakes = [
        (before[0] - 0.1 * gradient / right[1], "You divide by the sums: by their square root."),
        (before[0] - 0.1 * gradient, "That is plain SGD: divide the gradient by the root of its sum."),
        (before[0] + 0.1 * gradient / right[1].sqrt(), "That goes uphill."),
        (
            before[0] - 0.1 * gradient / right[1].sum().sqrt(),
            "You divide all by one number: each value has a rate of its own.",
        ),
    ]
    old = before[0] - 0.1 * gradient / before[1].sqrt()
    mistakes.append((old, "You divide by the sums from before this gradient."))
    refuse_mistakes(values, mistakes)
    raise Hint("The values should be values - lr * gradient / sqrt(sums), with this gradient in the sums.")


@exercise(
    "the first loop goes from the newest pair to the oldest, the second from the oldest to the newest",
    deeper="With no pair the direction is -scale * gradient. With one: q = -gradient; alpha = dot(s, q) / dot(y, s); "
    "q = q - alpha * y; r = scale * q; beta = dot(y, r) / dot(y, s); r = r + (alpha - beta) * s. With more pairs the "
    "second part waits until the first is done for all.",
)
def direction(answer: Answer) -> None:
    """`answer(gradient, pairs, scale, dot)`: L-BFGS' direction, a list of parts as the gradient is, one on each server.

    pairs: (y, s), the oldest first, each a list of parts. dot(u, v): the sum of the servers' dot products.
    """
    g = seeded(2)
    for count, sizes in ((0, (3,)), (1, (2, 3)), (2, (4,)), (5, (3, 1, 4))):
        gradient = _cut(torch.randn(sum(sizes), generator=g, dtype=torch.double), sizes)
        pairs = []
        for _ in range(count):
            y, s = (torch.randn(sum(sizes), generator=g, dtype=torch.double) for _ in range(2))
            pairs.append((_cut(y if y.dot(s) > 0 else -y, sizes), _cut(s, sizes)))
        copies = [([part.clone() for part in y], [part.clone() for part in s]) for y, s in pairs]
        found = results(answer([part.clone() for part in gradient], copies, 0.6, _dot), len(sizes), "a list of parts")
        parts = [
            shaped(part, (size,), f"part {n} of the direction")
            for n, (part, size) in enumerate(zip(found, sizes, strict=True))
        ]
        _check_direction(torch.cat(parts), gradient, pairs)


def _cut(values: Tensor, sizes: Sequence[int]) -> Parts:
    return list(values.split(list(sizes)))


def _dot(u: Parts, v: Parts) -> float:
    """The sum of what the servers give."""
    return sum(float(a.dot(b)) for a, b in zip(u, v, strict=True))


def _check_direction(found: Tensor, gradient: Parts, pairs: list[tuple[Parts, Parts]]) -> None:
    g, whole_pairs = torch.cat(gradient), [(torch.cat(y), torch.cat(s)) for y, s in pairs]
    right = -_inverse(whole_pairs, 0.6) @ g
    if close(found, right):
        return
    said = f"With {len(pairs)} pairs" if len(pairs) != 1 else "With one pair"
    mistakes = [
        (-right, f"{said} yours points uphill: it should go against the gradient."),
        (-_inverse(whole_pairs[::-1], 0.6) @ g, f"{said} yours takes them in the wrong order: the newest comes first."),
        (-0.6 * g, f"{said} yours is minus the gradient, times the scale: the pairs have done nothing."),
        (-_inverse(whole_pairs, 1.0) @ g, f"{said} the scale is missing, between the two loops."),
        (right / 0.6, f"{said} the scale is at the wrong place: it goes between the two loops."),
    ]
    refuse_mistakes(found, mistakes)
    raise Hint(f"{said} the direction is not the one that the pairs give.")


def _inverse(pairs: list[tuple[Tensor, Tensor]], scale: float) -> Tensor:
    """The inverse Hessian of BFGS, as a matrix. Source: Nocedal, Wright 2006, Numerical optimization, (6.17)."""
    size = len(pairs[0][0]) if pairs else 3
    inverse, eye = scale * torch.eye(size, dtype=torch.double), torch.eye(size, dtype=torch.double)
    for y, s in pairs:
        rho = 1 / y.dot(s)
        inverse = (eye - rho * s.outer(y)) @ inverse @ (eye - rho * y.outer(s)) + rho * s.outer(s)
    return inverse
