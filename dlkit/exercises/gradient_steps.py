"""Two exercises of notebook 06 that take many gradients: integrated gradients, and the image that a unit likes best."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dlkit.exercises import Hint, exercise
from dlkit.exercises.answers import close, refuse_mistakes, seeded, shaped

HEIGHT, WIDTH = 6, 9  # pixels of the images in these checks


def describe(value: Any) -> str:
    """What a function was given, for a hint: its shape or its type."""
    return f"it got {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"


def one_image(image: Any) -> Tensor:
    """What an answer gives to `gradient`, if that is one image. Raises Hint if not."""
    if not isinstance(image, Tensor) or image.shape != (HEIGHT, WIDTH):
        raise Hint(f"`gradient` takes one image, ({HEIGHT}, {WIDTH}) here; {describe(image)}.")
    return image


@exercise("the parts add up to the score's whole change from the baseline to the image: nothing is left unexplained")
def integrated_gradients(answer: Any) -> None:
    """`answer(gradient, image, baseline, steps)`: each pixel's part of the score's change, (height, width).

    That is (image - baseline) times the mean gradient on the straight path between them, at the middle of each step.
    """
    g = seeded(4)
    image, baseline, cubic, plane = (torch.randn(HEIGHT, WIDTH, generator=g) for _ in range(4))
    steps, calls = 4, 0

    def slope(x: Tensor) -> Tensor:
        """The gradient of the score."""
        return 3 * cubic * x**2 + 2 * (plane * x).sum() * plane / 9

    def score(x: Tensor) -> float:
        return float((cubic * x**3).sum() + (plane * x).sum() ** 2 / 9)

    def gradient(x: Any) -> Tensor:
        """What the answer is given: the gradient of one image, which counts its calls."""
        nonlocal calls
        calls += 1
        return slope(one_image(x))

    given_images = image.clone(), baseline.clone()
    parts = answer(gradient, *given_images, steps)
    if isinstance(parts, Tensor) and parts.shape == (steps, HEIGHT, WIDTH):
        raise Hint("That is a row for each step: take the mean over the steps.")
    if isinstance(parts, Tensor) and parts.numel() == 1:
        raise Hint("That is one number: each pixel has a part of its own. (All parts together make one number.)")
    parts = shaped(parts, (HEIGHT, WIDTH), "a part for each pixel")
    if not (torch.equal(given_images[0], image) and torch.equal(given_images[1], baseline)):
        raise Hint("The image or the baseline itself has changed: `x += ...` works in place, `x = x + ...` does not.")
    apart, ends = image - baseline, torch.linspace(0, 1, steps + 1)
    middles = (ends[1:] + ends[:-1]) / 2

    def along(shares: Tensor, begin: Tensor = baseline, way: Tensor = apart) -> Tensor:
        """The mean gradient at these shares, from 0 to 1, of the way from `begin`."""
        return torch.stack([slope(begin + share * way) for share in shares]).mean(0)

    right, black = apart * along(middles), torch.zeros_like(image)
    if close(parts, right):
        return
    from_black = along(middles, black, image)
    factor = "The mean gradient is multiplied by (image - baseline)"
    trapezoid = (along(ends[1:]) + along(ends[:-1])) / 2
    rest = "Take the middles of the steps, (k - 1/2) / steps for k = 1 to steps."
    begins = "The path begins at the *baseline*: baseline + α·(image - baseline)."
    variants = [
        (-right, "Right but for the sign: image *less* baseline."),
        (steps * right, "That is the sum over the steps: take the mean."),
        (right.abs(), "Parts may be below 0, and must be, to add up: no absolute value."),
        (along(middles), f"{factor}, pixel by pixel."),
        (steps * along(middles), f"That is the sum of the gradients. {factor}; and it is the mean."),
        (image * along(middles), f"{factor}: not by the image alone."),
        (apart * slope(image), "That is the gradient at the image alone: go along the path, and take the mean."),
        (image * slope(image), "That is gradient times image: go along the path from the baseline."),
        (apart * slope(baseline), "That is the gradient at the baseline alone: go along the path."),
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
    refuse_mistakes(parts, variants)
    if calls != steps:
        raise Hint(f"steps={steps}, and you asked for {calls} gradients: one at the middle of each step.")
    raise Hint(
        f"Here score(image) - score(baseline) is {score(image) - score(baseline):.1f}: the right parts add up to "
        f"{right.sum():.1f} in {steps} steps, yours to {parts.sum():.1f}. (image - baseline) times the mean gradient."
    )


@exercise("a net run backwards: uphill in the space of images, with a decay and a clamp to keep it an image")
def ascend(answer: Any) -> None:
    """`answer(gradient, start, steps, rate, decay)`: the image after so many steps uphill from `start`.

    A step is x = clamp((1 - decay)(x + rate g / |g|), 0, 1), where g = gradient(x).
    """
    g = seeded(5)
    start, weight, plane = (torch.rand(HEIGHT, WIDTH, generator=g) - shift for shift in (0, 0.5, 0.5))
    steps, rate, decay = 5, 1.5, 0.2

    def slope(x: Tensor) -> Tensor:
        """The gradient of the score weight · sin(4x) + (plane · x)²."""
        return 4 * weight * (4 * x).cos() + 2 * (plane * x).sum() * plane

    def climbed(step: Callable[[Tensor], Tensor], steps: int = steps) -> Tensor:
        """The image after so many steps from `start`."""
        x = start
        for _ in range(steps):
            x = step(x)
        return x

    def unit(x: Tensor) -> Tensor:
        """The gradient, divided by its length."""
        return slope(x) / slope(x).norm()

    def free(x: Tensor) -> Tensor:
        """A step that does not clamp."""
        return (1 - decay) * (x + rate * unit(x))

    def clamped(change: Callable[[Tensor], Tensor], keep: float = 1 - decay, steps: int = steps) -> Tensor:
        """The image after steps that add `rate` times `change(x)`, keep the share `keep`, and clamp."""
        return climbed(lambda x: (keep * (x + rate * change(x))).clamp(0, 1), steps)

    given_start = start.clone()
    result = shaped(answer(lambda x: slope(one_image(x)), given_start, steps, rate, decay), (HEIGHT, WIDTH), "an image")
    if not torch.equal(given_start, start):
        raise Hint("`start` itself has changed: work on a copy, or write `x = x + ...` and not `x += ...`.")
    if close(result, clamped(unit)):
        return
    length = "Divide the gradient by its length, the root of the sum of *all* its squares: `gradient.norm()`."
    early = climbed(lambda x: ((1 - decay) * x + rate * unit(x)).clamp(0, 1))
    variants = [
        (start, "That is where you started: return what the steps made of it."),
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
        (clamped(lambda x: unit(start)), "Take the gradient anew at each step: at x, not at the start."),
        (clamped(unit, steps=1), f"That is one step: steps={steps}."),
        (clamped(unit, steps=steps - 1), f"One step too few: steps={steps}."),
        (clamped(unit, steps=steps + 1), f"One step too many: steps={steps}."),
    ]
    refuse_mistakes(result, variants)
    if result.min() < 0 or result.max() > 1:
        raise Hint(f"Your pixels are from {result.min():.2f} to {result.max():.2f}: clamp to [0, 1] after each step.")
    raise Hint("Each step: x + rate·g / |g|, all times (1 - decay), all clamped to [0, 1]. Then g anew, at the new x.")
