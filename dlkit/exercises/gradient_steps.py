"""Two exercises of notebook 06 that take many gradients: integrated gradients, and the image that a unit likes best."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dlkit.exercises import Answer, Hint, exercise
from dlkit.exercises.answers import close, refuse_mistakes, seeded, shaped

Shape = tuple[int, ...]


def describe(value: Any) -> str:
    """What a function was given, for a hint: its shape or its type."""
    return f"it got {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"


def _one_image(image: Any, shape: Shape) -> Tensor:
    """What an answer gives to `gradient`, if that is one image. Raises Hint if not."""
    if not isinstance(image, Tensor) or image.shape != shape:
        raise Hint(f"`gradient` takes one image, {shape} here; {describe(image)}.")
    return image


@exercise(
    "the parts add up to the score's whole change from the baseline to the image: nothing is left unexplained",
    deeper="A single pixel, 2 in the baseline and 6 in the image, and two steps: their middles are at 3 and at 5. With "
    "the score x**2 the gradients there are 6 and 10, their mean is 8, and the part is (6 - 2) * 8 = 32 = 6**2 - 2**2.",
)
def integrated_gradients(answer: Answer) -> None:
    """`answer(gradient, image, baseline, steps)`: each pixel's part of the score's change, (height, width).

    That is (image - baseline) times the mean gradient on the straight path between them, at the middle of each step.
    """
    for shape, steps in (((6, 9), 4), ((5, 7), 3), ((8, 8), 1)):
        path = _Path(shape, steps, seed=steps)
        parts = answer(path.gradient, path.image, path.baseline, steps)
        if isinstance(parts, Tensor) and parts.shape == (steps, *shape):
            raise Hint("That is a row for each step: take the mean over the steps.")
        if isinstance(parts, float) or (isinstance(parts, Tensor) and parts.numel() == 1):
            raise Hint("That is one number: each pixel has a part of its own. (All parts together make one number.)")
        parts = shaped(parts, shape, "a part for each pixel")
        right = path.right()
        if close(parts, right):
            continue
        refuse_mistakes(parts, path.mistakes())
        if path.calls != steps:
            raise Hint(f"steps={steps}, and you asked for {path.calls} gradients: one at the middle of each step.")
        change = path.score(path.image) - path.score(path.baseline)
        raise Hint(
            f"Here score(image) - score(baseline) is {change:.1f}: the right parts add up to {right.sum():.1f} in "
            f"{steps} steps, yours to {parts.sum():.1f}. (image - baseline) times the mean gradient."
        )


class _Path:
    """A score, and the way from a baseline to an image in so many steps."""

    def __init__(self, shape: Shape, steps: int, seed: int):
        g = seeded(seed)
        self.image, self.baseline, self.cubic, self.plane = (torch.randn(shape, generator=g) for _ in range(4))
        self.steps, self.calls = steps, 0

    def score(self, x: Tensor) -> float:
        return float((self.cubic * x**3).sum() + (self.plane * x).sum() ** 2 / 9)

    def slope(self, x: Tensor) -> Tensor:
        """The gradient of the score."""
        return 3 * self.cubic * x**2 + 2 * (self.plane * x).sum() * self.plane / 9

    def gradient(self, x: Any) -> Tensor:
        """What the answer is given: the gradient of one image, which counts its calls."""
        self.calls += 1
        return self.slope(_one_image(x, tuple(self.image.shape)))

    def along(self, shares: Tensor, begin: Tensor | None = None, way: Tensor | None = None) -> Tensor:
        """The mean gradient at these shares, from 0 to 1, of the way from `begin`."""
        begin = self.baseline if begin is None else begin
        way = self.image - self.baseline if way is None else way
        return torch.stack([self.slope(begin + share * way) for share in shares]).mean(0)

    def middles(self) -> Tensor:
        return (torch.arange(self.steps) + 0.5) / self.steps

    def right(self) -> Tensor:
        return (self.image - self.baseline) * self.along(self.middles())

    def mistakes(self) -> list[tuple[Tensor, str]]:
        """The usual wrong parts, with their hints."""
        image, baseline, steps, along = self.image, self.baseline, self.steps, self.along
        apart, right, middles, ends = image - baseline, self.right(), self.middles(), torch.linspace(0, 1, steps + 1)
        black = torch.zeros_like(image)
        from_black = along(middles, black, image)
        factor = "The mean gradient is multiplied by (image - baseline)"
        trapezoid = (along(ends[1:]) + along(ends[:-1])) / 2
        rest = "Take the middles of the steps, (k - 1/2) / steps for k = 1 to steps."
        begins = "The path begins at the *baseline*: baseline + α·(image - baseline)."
        return [
            (-right, "Right but for the sign: image *less* baseline."),
            (right.abs(), "Parts may be below 0, and must be, to add up: no absolute value."),
            (steps * right, "That is the sum over the steps: take the mean."),
            (along(middles), f"{factor}, pixel by pixel."),
            (steps * along(middles), f"That is the sum of the gradients. {factor}; and it is the mean."),
            (image * along(middles), f"{factor}: not by the image alone."),
            (
                apart * self.slope(image),
                "That is the gradient at the image alone: go along the path, and take the mean.",
            ),
            (image * self.slope(image), "That is gradient times image: go along the path from the baseline."),
            (apart * self.slope(baseline), "That is the gradient at the baseline alone: go along the path."),
            (apart * from_black, begins),
            (image * from_black, begins),
            (apart * along(middles, black), begins),
            (apart * along(middles, baseline, image), "Your path ends beyond the image: at α = 1 it should be there."),
            (apart * along(middles - 1 / steps), "Counted from 0, the middle of step k is at (k + 1/2) / steps."),
            (apart * along(ends[:-1]), f"Those are the *first* points of each step, from α = 0 on. {rest}"),
            (apart * along(ends[1:]), f"Those are the *last* points of each step, up to α = 1. {rest}"),
            (apart * along(torch.linspace(0, 1, steps)), f"Your points include both ends, 0 and 1. {rest}"),
            (apart * trapezoid, f"That is the trapezoid rule, a good one too, but not the one asked for. {rest}"),
        ]


@exercise(
    "a net run backwards: uphill in the space of images, with a decay and a clamp to keep it an image",
    deeper="A single step of two pixels: x = [0.5, 0.9], g = [3, 4], rate 1, decay 0.1. The length of g is 5, so x + "
    "g / 5 = [1.1, 1.7]; times 0.9 that is [0.99, 1.53]; clamped, [0.99, 1]. The next step begins with a new g.",
)
def ascend(answer: Answer) -> None:
    """`answer(gradient, start, steps, rate, decay)`: the image after so many steps uphill from `start`.

    A step is x = clamp((1 - decay)(x + rate g / |g|), 0, 1), where g = gradient(x).
    """
    for shape, steps, rate, decay in (((6, 9), 5, 1.5, 0.2), ((5, 7), 3, 0.7, 0.05), ((8, 8), 2, 2.0, 0.0)):
        climb = _Climb(shape, steps, rate, decay, seed=steps)
        gradient = climb.gradient
        result = shaped(answer(gradient, climb.start, steps, rate, decay), shape, "an image")
        if close(result, climb.clamped(climb.unit)):
            continue
        refuse_mistakes(result, climb.mistakes())
        if result.min() < 0 or result.max() > 1:
            raise Hint(
                f"Your pixels are from {result.min():.2f} to {result.max():.2f}: clamp to [0, 1] after each step."
            )
        raise Hint(
            "Each step: x + rate·g / |g|, all times (1 - decay), all clamped to [0, 1]. Then g anew, at the new x."
        )


class _Climb:
    """A score, and steps uphill on it."""

    def __init__(self, shape: Shape, steps: int, rate: float, decay: float, seed: int):
        g = seeded(seed)
        self.start, self.weight, self.plane = (torch.rand(shape, generator=g) - shift for shift in (0, 0.5, 0.5))
        self.steps, self.rate, self.decay = steps, rate, decay

    def slope(self, x: Tensor) -> Tensor:
        """The gradient of the score weight · sin(4x) + (plane · x)²."""
        return 4 * self.weight * (4 * x).cos() + 2 * (self.plane * x).sum() * self.plane

    def gradient(self, x: Any) -> Tensor:
        """What the answer is given: the gradient of one image."""
        return self.slope(_one_image(x, tuple(self.start.shape)))

    def climbed(self, step: Callable[[Tensor], Tensor], steps: int | None = None) -> Tensor:
        """The image after so many steps from `start`."""
        x = self.start
        for _ in range(self.steps if steps is None else steps):
            x = step(x)
        return x

    def unit(self, x: Tensor) -> Tensor:
        """The gradient, divided by its length."""
        return self.slope(x) / self.slope(x).norm()

    def free(self, x: Tensor) -> Tensor:
        """A step that does not clamp."""
        return (1 - self.decay) * (x + self.rate * self.unit(x))

    def clamped(
        self, change: Callable[[Tensor], Tensor], keep: float | None = None, steps: int | None = None
    ) -> Tensor:
        """The image after steps that add `rate` times `change(x)`, keep the share `keep`, and clamp."""
        keep = 1 - self.decay if keep is None else keep
        return self.climbed(lambda x: (keep * (x + self.rate * change(x))).clamp(0, 1), steps)

    def mistakes(self) -> list[tuple[Tensor, str]]:
        """The usual wrong images, with their hints."""
        climbed, clamped, slope, unit, free = self.climbed, self.clamped, self.slope, self.unit, self.free
        steps, rate, decay = self.steps, self.rate, self.decay
        length = "Divide the gradient by its length, the root of the sum of *all* its squares: `gradient.norm()`."
        early = climbed(lambda x: ((1 - decay) * x + rate * unit(x)).clamp(0, 1))
        return [
            (self.start, "That is where you started: return what the steps made of it."),
            (clamped(lambda x: -unit(x)), "That goes downhill: the gradient is added."),
            (clamped(slope), length),
            (clamped(lambda x: slope(x) / slope(x).norm(dim=1, keepdim=True)), length),
            (clamped(lambda x: slope(x) / slope(x).abs().max()), length),
            (clamped(lambda x: slope(x).sign()), length),
            (clamped(lambda x: slope(x) / slope(x).abs().sum()), length),
            (clamped(lambda x: slope(x) / slope(x).square().sum()), length),
            (clamped(lambda x: slope(x) / slope(x).square().mean().sqrt()), length),
            (clamped(lambda x: slope(x) / torch.linalg.matrix_norm(slope(x), 2)), length),
            (climbed(lambda x: (x + rate * unit(x) - decay).clamp(0, 1)), "The decay is a share: times (1 - decay)."),
            (clamped(lambda x: unit(x) / rate), "The rate is missing: how long is a step?"),
            (clamped(unit, 1.0), "The decay is missing: after each step all pixels are multiplied by (1 - decay)."),
            (clamped(unit, decay), "You keep the share `decay`: keep (1 - decay)."),
            (early, "The decay comes *after* the step, and shrinks that too: (1 - decay)·(x + step)."),
            (climbed(free), "A pixel is from 0 to 1: clamp after each step."),
            (climbed(free).clamp(0, 1), "Clamp after *each* step: else the gradient is taken where no image is."),
            (climbed(lambda x: free(x).relu()), "Pixels above 1 are no pixels either: clamp to [0, 1]."),
            (climbed(lambda x: (x + rate * unit(x)).clamp(0, 1) * (1 - decay)), "First the decay, then the clamp."),
            (clamped(lambda x: unit(self.start)), "Take the gradient anew at each step: at x, not at the start."),
            (clamped(unit, steps=1), f"That is one step: steps={steps}."),
            (clamped(unit, steps=steps - 1), f"One step too few: steps={steps}."),
            (clamped(unit, steps=steps + 1), f"One step too many: steps={steps}."),
            *(
                (clamped(unit, steps=n), f"Those are {n} steps, and steps={steps}.")
                for n in (2, 3, 4, 5, 6, 7, 8, 9, 10)
            ),
        ]
