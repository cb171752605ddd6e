"""The exercises of notebook 06: occlusion and saliency; `gradient_steps` has the other two."""

from typing import Any

import torch
from torch import Tensor, nn

from dlkit.exercises import Hint, exercise
from dlkit.exercises.answers import close, largest_error, refuse_mistakes, seeded, shaped, windowed
from dlkit.exercises.gradient_steps import HEIGHT, WIDTH, ascend, describe, integrated_gradients

__all__ = ["ascend", "integrated_gradients", "occlude", "saliency"]

GREY_SQUARE = "Your square is grey: set it to 0."


@exercise("what a net looks at is what its score falls without: that takes no gradient, and no look inside")
def occlude(answer: Any) -> None:
    """`answer(score, image, size)`: how much lower the score is with a black square of size x size at each position.

    The positions of the square's upper left corner make a tensor (height - size + 1, width - size + 1).
    """
    g = seeded(1)
    image, weight, squared_weight = (torch.rand(HEIGHT, WIDTH, generator=g) - shift for shift in (0, 0.5, 0.5))

    def score(batch: Any) -> Tensor:
        """A score that is not linear, of each image in (batch, height, width)."""
        if not isinstance(batch, Tensor) or batch.ndim != 3:
            raise Hint(
                f"`score` takes a batch, (batch, {HEIGHT}, {WIDTH}) here, such as `image[None]`; {describe(batch)}."
            )
        if batch.shape[1:] != (HEIGHT, WIDTH):
            raise Hint(f"`score` takes whole images; {describe(batch)}. Copy the image, and set the square in it to 0.")
        return 1 + (batch * weight).sum((1, 2)) + (batch * squared_weight).sum((1, 2)) ** 2 / 9

    for size in (3, 2):
        high, wide = HEIGHT - size + 1, WIDTH - size + 1

        def squares(size: int, first: int = 0, high: int = high, wide: int = wide) -> Tensor:
            """Masks (high, wide, height, width): for each position, True at the pixels of its square."""
            rows = torch.arange(HEIGHT) - torch.arange(high)[:, None] - first
            columns = torch.arange(WIDTH) - torch.arange(wide)[:, None] - first
            rows, columns = ((offset >= 0) & (offset < size) for offset in (rows, columns))
            return rows[:, None, :, None] & columns[:, None]

        def painted(mask: Tensor, value: float = 0.0) -> Tensor:
            """The score of the image with the pixels of each mask set to `value`: (high, wide)."""
            return score(image.where(~mask.flatten(0, 1), value)).view(mask.shape[:2])

        given_image = image.clone()
        losses = windowed(answer(score, given_image, size), (HEIGHT, WIDTH), size)
        if not torch.equal(given_image, image):
            raise Hint("The image itself has changed: paint a copy, `image.clone()`, a new one for each place.")
        whole, covered = score(image[None]), painted(squares(size))
        if close(losses, whole - covered):
            continue
        added_up = squares(size).flatten(0, 1).cumsum(0).bool().view(high, wide, HEIGHT, WIDTH)
        alone = painted(~squares(size))
        variants = [
            (whole - covered, "Right but for the sign: the score of the image *less* that with the square."),
            ((whole - covered).abs(), "Without the square a score may rise, too: no absolute value."),
            ((whole - covered).relu(), "Without the square a score may rise, too: keep what is below 0."),
            (covered, "Those are the scores with the square: how much of the image's score is lost?"),
            (whole - painted(added_up), "The squares add up: start from a *new* copy of the image at each place."),
            (whole - alone, "That blacks out all but the square: it is the square that is to be black."),
            (alone, "That is the score of the square alone: how much is lost *without* it?"),
            (whole - painted(squares(size), 1.0), "Your square is white: set it to 0."),
            *((whole - painted(squares(size), value), GREY_SQUARE) for value in (float(image.mean()), 0.5)),
            (whole - painted(squares(size, -1)), "The place is the *upper left corner* of the square, not its centre."),
            *((whole - painted(squares(n)), f"Your square is {n}x{n}, and size={size}.") for n in (1, 2, 3, 4, 5)),
        ]
        refuse_mistakes(losses, [(sign * value, hint) for value, hint in variants for sign in (-1, 1)])
        row, column = largest_error(losses, whole - covered)
        raise Hint(
            f"At [{row}, {column}] the score falls from {float(whole):.2f} to {covered[row, column]:.2f}; yours says "
            f"by {losses[row, column]:.2f}. Is `[{row}:{row + size}, {column}:{column + size}]` black, and no more?"
        )


class _Net(nn.Module):
    """A small net: images (batch, height, width) to four logits each."""

    def __init__(self) -> None:
        super().__init__()
        g = seeded(2)
        self.W = nn.Parameter(torch.randn(HEIGHT * WIDTH, 5, generator=g) / 4)
        self.V = nn.Parameter(torch.randn(5, 4, generator=g))

    def forward(self, images: Any) -> Tensor:
        if not isinstance(images, Tensor) or images[:1].numel() != HEIGHT * WIDTH:
            raise Hint(f"`net` takes a batch, such as `image[None]`; {describe(images)}.")
        return (images.flatten(1) @ self.W).tanh() @ self.V


@exercise("one backward pass, to the pixels instead of the weights: which of them move this class's logit most")
def saliency(answer: Any) -> None:
    """`answer(net, image, label)`: |∂ logit of the label / ∂ pixel| for each pixel, (height, width).

    The net and the image must be left as they were.
    """
    net, image, label = _Net(), torch.rand(HEIGHT, WIDTH, generator=seeded(3)), 2
    given_image = image.clone()
    result = answer(net, given_image, label)
    if isinstance(result, Tensor) and result.shape == (1, HEIGHT, WIDTH):
        raise Hint("Yours is a batch of one, (1, height, width): take the image out, `[0]`.")
    result = shaped(result, (HEIGHT, WIDTH), "a value for each pixel")
    with torch.no_grad():
        h = (image.flatten() @ net.W).tanh()
        slopes = ((net.W * (1 - h**2)) @ net.V).T.view(4, HEIGHT, WIDTH)  # of each logit, by hand
        logits = h @ net.V
    slope, p = slopes[label], logits.softmax(0)
    if not close(result, slope.abs()):
        log_p = slope - torch.einsum("c,chw->hw", p, slopes)
        signs_and_factors = [
            (slope, "Right but for the sign: a pixel that lowers the logit matters too. Take the absolute value."),
            (-slope, "That is minus the gradient: take the absolute value of it."),
            (slope.relu(), "Yours leaves out the pixels that lower the logit: take the absolute value."),
            (slope**2, "That is the square of the gradient: take the absolute value."),
            (slope.abs() / slope.abs().max(), "Right but for a factor: leave the gradient at its own size."),
        ]
        refuse_mistakes(result, signs_and_factors)
        variants = [
            (p[label] * log_p, "That is the gradient of the *probability*: take the logit, before the softmax."),
            (log_p, "That is the gradient of log p, the loss: the other classes are in it. Take the logit alone."),
            (slopes.sum(0), "That is the gradient of the sum of all logits: pick the label's, `net(...)[0, label]`."),
            (slope * image, "That is gradient times pixel: a black pixel would never matter. The gradient alone."),
            (slopes[logits.argmax()], "That is the gradient of the *largest* logit: take that of the label given."),
            *((slopes[c], f"That is the gradient of logit {c}: the label given is {label}.") for c in range(4)),
        ]
        for value, hint in variants:  # with the absolute value or without
            if close(result.abs(), value.abs()):
                raise Hint(hint)
        row, column = largest_error(result, slope.abs())
        there = f"At [{row}, {column}] it should be {slope[row, column].abs():.3f}; yours is {result[row, column]:.3f}."
        raise Hint(f"{there} How much does the label's logit change if this pixel does?")
    if not torch.equal(given_image.detach(), image):
        raise Hint("Right, but the image has changed.")
    if given_image.requires_grad:
        raise Hint("Right, but the image that was given now requires gradients: `image.clone().requires_grad_()`.")
    if not all(value.requires_grad for value in net.parameters()):
        raise Hint("Right, but the net can no longer learn: its parameters do not require gradients any more.")
    if any(value.grad is not None for value in net.parameters()):
        raise Hint("Right, but .grad of the net's parameters is filled too: `torch.autograd.grad` fills no .grad.")
