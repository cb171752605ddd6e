"""The exercises of notebook 06: occlusion, saliency, integrated gradients, and the image that a unit likes best."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.exercises import Hint, exercise
from dlkit.exercises.answers import close, seeded, shaped, windowed, worst, wrong

HEIGHT, WIDTH = 6, 9  # of the images here
GREY_SQUARE = "Your square is grey: set it to 0."


def _got(value: Any) -> str:
    return f"it got {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"


def _one(image: Any) -> Tensor:
    """What an answer gives to `gradient`, if that is one image."""
    if not isinstance(image, Tensor) or image.shape != (HEIGHT, WIDTH):
        raise Hint(f"`gradient` takes one image, ({HEIGHT}, {WIDTH}) here; {_got(image)}.")
    return image


@exercise("what a net looks at is what its score falls without: that takes no gradient, and no look inside")
def occlude(answer: Any) -> None:
    """`answer(score, image, size)`: what the score loses by a black square at each place, (H-size+1, W-size+1)."""
    g = seeded(1)
    image, weight, other = (torch.rand(HEIGHT, WIDTH, generator=g) - at for at in (0, 0.5, 0.5))

    def score(batch: Any) -> Tensor:
        """Of images (batch, height, width), and not linear."""
        if not isinstance(batch, Tensor) or batch.ndim != 3:
            raise Hint(f"`score` takes a batch, (batch, {HEIGHT}, {WIDTH}) here, such as `image[None]`; {_got(batch)}.")
        if batch.shape[1:] != (HEIGHT, WIDTH):
            raise Hint(f"`score` takes whole images; {_got(batch)}. Copy the image, and set the square in it to 0.")
        return 1 + (batch * weight).sum((1, 2)) + (batch * other).sum((1, 2)) ** 2 / 9

    for size in (3, 2):
        high, wide = HEIGHT - size + 1, WIDTH - size + 1

        def squares(size: int, first: int = 0, high: int = high, wide: int = wide) -> Tensor:
            """Masks (high, wide, height, width): for each place, the pixels of its square."""
            rows = torch.arange(HEIGHT) - torch.arange(high)[:, None] - first
            columns = torch.arange(WIDTH) - torch.arange(wide)[:, None] - first
            rows, columns = ((d >= 0) & (d < size) for d in (rows, columns))
            return rows[:, None, :, None] & columns[:, None]

        def painted(mask: Tensor, value: float = 0.0) -> Tensor:
            """The score of the image with each mask painted over."""
            return score(image.where(~mask.flatten(0, 1), value)).view(mask.shape[:2])

        mine = image.clone()
        found = windowed(answer(score, mine, size), (HEIGHT, WIDTH), size)
        if not torch.equal(mine, image):
            raise Hint("The image itself has changed: paint a copy, `image.clone()`, a new one for each place.")
        whole, left = score(image[None]), painted(squares(size))
        if close(found, whole - left):
            continue
        added_up = squares(size).flatten(0, 1).cumsum(0).bool().view(high, wide, HEIGHT, WIDTH)
        alone = painted(~squares(size))
        variants = [
            (whole - left, "Right but for the sign: the score of the image *less* that with the square."),
            ((whole - left).abs(), "Without the square a score may rise, too: no absolute value."),
            ((whole - left).relu(), "Without the square a score may rise, too: keep what is below 0."),
            (left, "Those are the scores with the square: how much of the image's score is lost?"),
            (whole - painted(added_up), "The squares add up: start from a *new* copy of the image at each place."),
            (whole - alone, "That blacks out all but the square: it is the square that is to be black."),
            (alone, "That is the score of the square alone: how much is lost *without* it?"),
            (whole - painted(squares(size), 1.0), "Your square is white: set it to 0."),
            *((whole - painted(squares(size), value), GREY_SQUARE) for value in (float(image.mean()), 0.5)),
            (whole - painted(squares(size, -1)), "The place is the *upper left corner* of the square, not its centre."),
            *((whole - painted(squares(n)), f"Your square is {n}x{n}, and size={size}.") for n in (1, 2, 3, 4, 5)),
        ]
        wrong(found, [(sign * value, hint) for value, hint in variants for sign in (-1, 1)])
        row, column = worst(found, whole - left)
        raise Hint(
            f"At [{row}, {column}] the score falls from {float(whole):.2f} to {left[row, column]:.2f}; yours says by "
            f"{found[row, column]:.2f}. Is `[{row}:{row + size}, {column}:{column + size}]` black, and nothing else?"
        )


class _Net(nn.Module):
    """Images (batch, height, width) to four logits."""

    def __init__(self) -> None:
        super().__init__()
        g = seeded(2)
        self.W = nn.Parameter(torch.randn(HEIGHT * WIDTH, 5, generator=g) / 4)
        self.V = nn.Parameter(torch.randn(5, 4, generator=g))

    def forward(self, images: Any) -> Tensor:
        if not isinstance(images, Tensor) or images[:1].numel() != HEIGHT * WIDTH:
            raise Hint(f"`net` takes a batch, such as `image[None]`; {_got(images)}.")
        return (images.flatten(1) @ self.W).tanh() @ self.V


@exercise("one backward pass, to the pixels instead of the weights: which of them move this class's logit most")
def saliency(answer: Any) -> None:
    """`answer(net, image, label)`: |∂ logit of the label / ∂ pixel|, (H, W); net and image are left as they were."""
    net, image, label = _Net(), torch.rand(HEIGHT, WIDTH, generator=seeded(3)), 2
    mine = image.clone()
    found = answer(net, mine, label)
    if isinstance(found, Tensor) and found.shape == (1, HEIGHT, WIDTH):
        raise Hint("Yours is a batch of one, (1, height, width): take the image out, `[0]`.")
    found = shaped(found, (HEIGHT, WIDTH), "a value for each pixel")
    with torch.no_grad():
        h = (image.flatten() @ net.W).tanh()
        slopes = ((net.W * (1 - h**2)) @ net.V).T.view(4, HEIGHT, WIDTH)  # of each logit, by hand
        logits = h @ net.V
    slope, p = slopes[label], logits.softmax(0)
    if not close(found, slope.abs()):
        log_p = slope - torch.einsum("c,chw->hw", p, slopes)
        own = [
            (slope, "Right but for the sign: a pixel that lowers the logit matters too. Take the absolute value."),
            (-slope, "That is minus the gradient: take the absolute value of it."),
            (slope.relu(), "Yours leaves out the pixels that lower the logit: take the absolute value."),
            (slope**2, "That is the square of the gradient: take the absolute value."),
            (slope.abs() / slope.abs().max(), "Right but for a factor: leave the gradient at its own size."),
        ]
        wrong(found, own)
        variants = [
            (p[label] * log_p, "That is the gradient of the *probability*: take the logit, before the softmax."),
            (log_p, "That is the gradient of log p, the loss: the other classes are in it. Take the logit alone."),
            (slopes.sum(0), "That is the gradient of the sum of all logits: pick the label's, `net(...)[0, label]`."),
            (slope * image, "That is gradient times pixel: a black pixel would never matter. The gradient alone."),
            (slopes[logits.argmax()], "That is the gradient of the *largest* logit: take that of the label given."),
            *((slopes[c], f"That is the gradient of logit {c}: the label given is {label}.") for c in range(4)),
        ]
        for value, hint in variants:  # with the absolute value or without
            if close(found.abs(), value.abs()):
                raise Hint(hint)
        row, column = worst(found, slope.abs())
        there = f"At [{row}, {column}] it should be {slope[row, column].abs():.3f}; yours is {found[row, column]:.3f}."
        raise Hint(f"{there} How much does the label's logit change if this pixel does?")
    if not torch.equal(mine.detach(), image):
        raise Hint("Right, but the image has changed.")
    if mine.requires_grad:
        raise Hint("Right, but the image that was given now requires gradients: `image.clone().requires_grad_()`.")
    if not all(value.requires_grad for value in net.parameters()):
        raise Hint("Right, but the net can no longer learn: its parameters do not require gradients any more.")
    if any(value.grad is not None for value in net.parameters()):
        raise Hint("Right, but .grad of the net's parameters is filled too: `torch.autograd.grad` fills no .grad.")


@exercise("the parts add up to the score's whole change from the baseline to the image: nothing is left unexplained")
def integrated_gradients(answer: Any) -> None:
    """`answer(gradient, image, baseline, steps)`: (image - baseline) times the mean gradient at the steps' middles."""
    g = seeded(4)
    image, baseline, cubic, plane = (torch.randn(HEIGHT, WIDTH, generator=g) for _ in range(4))
    steps, calls = 4, 0

    def slope(x: Tensor) -> Tensor:
        return 3 * cubic * x**2 + 2 * (plane * x).sum() * plane / 9

    def score(x: Tensor) -> float:
        return float((cubic * x**3).sum() + (plane * x).sum() ** 2 / 9)

    def gradient(x: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return slope(_one(x))

    mine = image.clone(), baseline.clone()
    found = answer(gradient, *mine, steps)
    if isinstance(found, Tensor) and found.shape == (steps, HEIGHT, WIDTH):
        raise Hint("That is a row for each step: take the mean over the steps.")
    if isinstance(found, Tensor) and found.numel() == 1:
        raise Hint("That is one number: each pixel has a part of its own. (All parts together make one number.)")
    found = shaped(found, (HEIGHT, WIDTH), "a part for each pixel")
    if not (torch.equal(mine[0], image) and torch.equal(mine[1], baseline)):
        raise Hint("The image or the baseline itself has changed: `x += ...` works in place, `x = x + ...` does not.")
    apart, ends = image - baseline, torch.linspace(0, 1, steps + 1)
    middles = (ends[1:] + ends[:-1]) / 2

    def along(shares: Tensor, begin: Tensor = baseline, way: Tensor = apart) -> Tensor:
        """The mean gradient at these shares of the way."""
        return torch.stack([slope(begin + share * way) for share in shares]).mean(0)

    right, black = apart * along(middles), torch.zeros_like(image)
    if close(found, right):
        return
    from_black, factor = along(middles, black, image), "The mean gradient is multiplied by (image - baseline)"
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
    wrong(found, variants)
    if calls != steps:
        raise Hint(f"steps={steps}, and you asked for {calls} gradients: one at the middle of each step.")
    raise Hint(
        f"Here score(image) - score(baseline) is {score(image) - score(baseline):.1f}: the right parts add up to "
        f"{right.sum():.1f} in {steps} steps, yours to {found.sum():.1f}. (image - baseline) times the mean gradient."
    )


@exercise("a net run backwards: uphill in the space of images, with a decay and a clamp to keep it an image")
def ascend(answer: Any) -> None:
    """`answer(gradient, start, steps, rate, decay)`: steps times x = clamp((1 - decay)(x + rate g / |g|), 0, 1)."""
    g = seeded(5)
    start, weight, plane = (torch.rand(HEIGHT, WIDTH, generator=g) - at for at in (0, 0.5, 0.5))
    steps, rate, decay = 5, 1.5, 0.2

    def slope(x: Tensor) -> Tensor:
        """Of weight · sin(4x) + (plane · x)²."""
        return 4 * weight * (4 * x).cos() + 2 * (plane * x).sum() * plane

    def climbed(step: Callable[[Tensor], Tensor], steps: int = steps) -> Tensor:
        x = start
        for _ in range(steps):
            x = step(x)
        return x

    def unit(x: Tensor) -> Tensor:
        return slope(x) / slope(x).norm()

    def free(x: Tensor) -> Tensor:
        return (1 - decay) * (x + rate * unit(x))

    def clamped(change: Callable[[Tensor], Tensor], keep: float = 1 - decay, steps: int = steps) -> Tensor:
        return climbed(lambda x: (keep * (x + rate * change(x))).clamp(0, 1), steps)

    mine = start.clone()
    found = shaped(answer(lambda x: slope(_one(x)), mine, steps, rate, decay), (HEIGHT, WIDTH), "an image")
    if not torch.equal(mine, start):
        raise Hint("`start` itself has changed: work on a copy, or write `x = x + ...` and not `x += ...`.")
    if close(found, clamped(unit)):
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
    wrong(found, variants)
    if found.min() < 0 or found.max() > 1:
        raise Hint(f"Your pixels are from {found.min():.2f} to {found.max():.2f}: clamp to [0, 1] after each step.")
    raise Hint("Each step: x + rate·g / |g|, all times (1 - decay), all clamped to [0, 1]. Then g anew, at the new x.")
