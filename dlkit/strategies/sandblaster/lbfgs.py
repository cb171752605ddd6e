"""L-BFGS by commands: the algorithm of torch's LBFGS with strong Wolfe, on vectors that it never sees."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim.lbfgs import _strong_wolfe

from dlkit.strategies.sandblaster.vectors import Vector


@dataclass(frozen=True)
class Settings:
    """As torch.optim.LBFGS has them. forgets: whether each step begins without a history, as `LineSearches` does."""

    lr: float = 1.0
    max_iter: int = 20
    max_eval: int = 25
    tolerance_grad: float = 1e-7
    tolerance_change: float = 1e-9
    history_size: int = 100
    forgets: bool = False


class Pair(NamedTuple):
    """What one iteration has taught of the curvature: the change of the gradient, the step, 1 / (y s)."""

    y: Vector
    s: Vector
    rho: Tensor


Evaluate = Callable[[Vector], tuple[float, Vector]]  # the loss and the gradient at a point


class LBFGS:
    """Minimises, from `x`. `step` takes up to `max_iter` iterations on one batch.

    Source: Nocedal, Wright 2006, Numerical optimization, Algorithms 7.4 (the two loops) and 7.5; Dean and others 2012,
    Large scale distributed deep networks, §4.2 and the supplement's algorithm.
    """

    def __init__(self, x: Vector, evaluate: Evaluate, settings: Settings):
        self.x, self.evaluate, self.settings = x, evaluate, settings
        self.evaluations = self.iterations = 0
        self._forget()

    def __repr__(self) -> str:
        return f"LBFGS({self.iterations} iterations, {self.evaluations} evaluations, {len(self.history)} pairs)"

    def _forget(self) -> None:
        self.history: deque[Pair] = deque(maxlen=self.settings.history_size)
        self.scale: Any = 1.0  # of the first guess of the inverse Hessian
        self.direction: Vector | None = None
        self.before: Vector | None = None  # the gradient at the last iteration
        self.t: Any = 0.0

    def step(self) -> float:
        """The loss before the step, which is of another batch than the last."""
        settings = self.settings
        loss, gradient = self._evaluated(self.x)
        first, evaluations = loss, 1
        if gradient.largest() <= settings.tolerance_grad:
            return first
        for iteration in range(1, settings.max_iter + 1):
            self.iterations += 1
            direction = self.direction = self._next_direction(gradient)
            first_ever = self.before is None
            self.before, loss_before = gradient, loss
            self.t = min(1.0, 1.0 / gradient.length()) * settings.lr if first_ever else settings.lr
            slope = gradient.dot(direction)
            if slope > -settings.tolerance_change:
                break

            def along(x: Vector, t: Any, d: Vector) -> tuple[float, Vector]:
                return self._evaluated(x.plus(d, float(t)))

            loss, gradient, self.t, taken = _strong_wolfe(
                along, self.x, self.t, direction, loss, gradient, slope, max_ls=settings.max_eval - evaluations
            )
            self.x.add_(direction, float(self.t))
            evaluations += taken
            if (
                iteration == settings.max_iter
                or evaluations >= settings.max_eval
                or gradient.largest() <= settings.tolerance_grad
                or direction.largest() * abs(self.t) <= settings.tolerance_change
                or abs(loss - loss_before) < settings.tolerance_change
            ):
                break
        if settings.forgets:
            self._forget()
        return first

    def _evaluated(self, point: Vector) -> tuple[float, Vector]:
        self.evaluations += 1
        return self.evaluate(point)

    def _next_direction(self, gradient: Vector) -> Vector:
        """Minus the gradient, times what the history tells of the inverse Hessian."""
        if self.before is None or self.direction is None:
            return gradient.scaled(-1.0)
        y, s = gradient.plus(self.before, -1.0), self.direction.scaled(float(self.t))
        ys = y.dot(s)
        if ys > 1e-10:
            self.history.append(Pair(y, s, 1.0 / ys))
            self.scale = ys / y.dot(y)
        return two_loops(gradient, self.history, float(self.scale))


def two_loops(gradient: Vector, history: "deque[Pair]", scale: float) -> Vector:
    """The direction from a gradient and pairs, the oldest first: by dot products, sums and one scaling."""
    q = gradient.scaled(-1.0)
    alphas = []
    for pair in reversed(history):
        alpha = pair.s.dot(q) * pair.rho
        q.add_(pair.y, -float(alpha))
        alphas.append(alpha)
    r = q.scaled(scale)
    for pair, alpha in zip(history, reversed(alphas), strict=True):
        beta = pair.y.dot(r) * pair.rho
        r.add_(pair.s, float(alpha - beta))
    return r
