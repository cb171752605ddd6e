"""The exercises of notebook 06: occlusion and saliency; `gradient_steps` has two more, `explanations` the open task."""

from typing import Any

import torch
from torch import Tensor, nn

from dlkit.exercises import Answer, Hint, exercise
from dlkit.exercises.answers import close, largest_error, refuse_mistakes, seeded, shaped, windowed
from dlkit.exercises.explanations import explain
from dlkit.exercises.gradient_steps import ascend, describe, integrated_gradients

__all__ = ["ascend", "explain", "integrated_gradients", "occlude", "saliency"]

GREY_SQUARE = "Your square is grey: set it to 0."
COVERED = [((6, 9), 3), ((6, 9), 2), ((7, 5), 4), ((5, 5), 1), ((4, 6), 4)]  # images (height, width), and squares


@exercise(
    "what a net looks at is what its score falls without: that takes no gradient, and no look inside",
    deeper="An image of 1x2 and a square of 1x1 have two places. With the square at the first, the score of [5, 7] is "
    "that of [0, 7]; at the second, that of [5, 0], not of [0, 0]. What is lost is score([5, 7]) less each of these.",
)
def occlude(answer: Answer) -> None:
    """`answer(score, image, size)`: how much lower the score is with a black square of size x size at each position.

    The positions of the square's upper left corner make a tensor (height - size + 1, width - size + 1).
    """
    for case, ((height, width), size) in enumerate(COVERED):
        g = seeded(1 + case)
        image, weight, squared_weight = (torch.rand(height, width, generator=g) - shift for shift in (0, 0.5, 0.5))

        def score(batch: Any, image: Tensor = image, w: Tensor = weight, u: Tensor = squared_weight) -> Tensor:
            """A score that is not linear, of each image in (batch, height, width)."""
            if not isinstance(batch, Tensor) or batch.ndim != 3:
                shape = tuple(image.shape)
                raise Hint(f"`score` takes a batch, (batch, {shape[0]}, {shape[1]}) here, such as `image[None]`; "
                           f"{describe(batch)}.")  # fmt: skip
            if batch.shape[1:] != image.shape:
                raise Hint(
                    f"`score` takes whole images; {describe(batch)}. Copy the image, and set the square in it to 0."
                )
            return 1 + (batch * w).sum((1, 2)) + (batch * u).sum((1, 2)) ** 2 / 9

        losses = answer(score, image, size)
        of_the_first = tuple(length - size + 1 for length in COVERED[0][0])
        if (height, width) != COVERED[0][0] and getattr(losses, "shape", None) == of_the_first:
            raise Hint(f"Right for 6x9 pixels; this image has {height}x{width}: take the sizes from `image.shape`.")
        losses = windowed(losses, (height, width), size)
        whole, covered = score(image[None]), score(image * ~_squares(image, size).flatten(0, 1)).view(losses.shape)
        if close(losses, whole - covered):
            continue
        if not losses.is_floating_point():
            raise Hint("Your tensor holds whole numbers, and loses what is behind the point: make it one of floats.")
        refuse_mistakes(losses, _wrong_losses(score, image, size))
        row, column = largest_error(losses, whole - covered)
        raise Hint(
            f"At [{row}, {column}] the score falls from {float(whole):.2f} to {covered[row, column]:.2f}; yours says "
            f"by {losses[row, column]:.2f}. Is `[{row}:{row + size}, {column}:{column + size}]` black, and no more?"
        )


def _squares(image: Tensor, size: int, place: int | None = None, first: int = 0) -> Tensor:
    """Masks (places down, places across, height, width): True at the pixels of a square of size x size at each place.

    place: the size whose places these are, by default the square's own; first: where the square begins at a place.
    """
    rows, columns = (
        torch.arange(length) - torch.arange(length - (place or size) + 1)[:, None] - first for length in image.shape
    )
    rows, columns = ((offset >= 0) & (offset < size) for offset in (rows, columns))
    return rows[:, None, :, None] & columns[:, None]


def _wrong_losses(score: Any, image: Tensor, size: int) -> list[tuple[Tensor, str]]:
    """The usual wrong answers to `occlude`, with their hints; each with its sign and without."""
    places = _squares(image, size)

    def painted(mask: Tensor, value: float = 0.0) -> Tensor:
        """The score of the image with the pixels of each mask set to `value`."""
        return score(image.where(~mask.flatten(0, 1), value)).view(mask.shape[:2])

    whole, covered = score(image[None]), painted(places)
    added_up = places.flatten(0, 1).cumsum(0).bool().view(places.shape)
    alone = painted(~places)
    variants = [
        (whole - covered, "Right but for the sign: the score of the image *less* that with the square."),
        ((whole - covered).abs(), "Without the square a score may rise, too: no absolute value."),
        ((whole - covered).relu(), "Without the square a score may rise, too: keep what is below 0."),
        (covered, "Those are the scores with the square: how much of the image's score is lost?"),
        ((whole - covered) / whole, "That is the share of the score that is lost: give the loss itself."),
        (whole - painted(added_up), "The squares add up: start from a *new* copy of the image at each place."),
        (whole - alone, "That blacks out all but the square: it is the square that is to be black."),
        (alone, "That is the score of the square alone: how much is lost *without* it?"),
        (whole - painted(places, 1.0), "Your square is white: set it to 0."),
        *((whole - painted(places, value), GREY_SQUARE) for value in (float(image.mean()), 0.5)),
        (
            whole - painted(_squares(image, size, first=-(size // 2))),
            "The place is the *upper left corner* of the square, not its centre.",
        ),
        *(
            (whole - painted(_squares(image, n, size)), f"Your square is {n}x{n}, and size={size}.")
            for n in (1, 2, 3, 4, 5)
            if n != size
        ),
    ]
    return [(sign * value, hint) for value, hint in variants for sign in (-1, 1)]


class _Net(nn.Module):
    """A small net: images (batch, height, width) to so many logits each."""

    def __init__(self, height: int, width: int, classes: int, seed: int) -> None:
        super().__init__()
        g = seeded(seed)
        self.shape = height, width
        self.W = nn.Parameter(torch.randn(height * width, 5, generator=g) / 4)
        self.V = nn.Parameter(torch.randn(5, classes, generator=g))

    def forward(self, images: Any) -> Tensor:
        if not isinstance(images, Tensor) or images[:1].numel() != self.W.shape[0]:
            raise Hint(f"`net` takes a batch, such as `image[None]`; {describe(images)}.")
        return (images.flatten(1) @ self.W).tanh() @ self.V

    def slopes(self, image: Tensor) -> Tensor:
        """The gradient of each logit (classes, height, width), by hand."""
        with torch.no_grad():
            h = (image.flatten() @ self.W).tanh()
            return ((self.W * (1 - h**2)) @ self.V).T.unflatten(1, self.shape)


@exercise(
    "one backward pass, to the pixels instead of the weights: which of them move this class's logit most",
    deeper="Four lines: a copy of the image that requires gradients; the logit, one number, by the net from a batch of "
    "this one image; its gradient with respect to the copy; the absolute value. Print the shape after each line.",
    changes=(0,),  # what is left in its .grad is looked at below; a copy would not have it
)
def saliency(answer: Answer) -> None:
    """`answer(net, image, label)`: |∂ logit of the label / ∂ pixel| for each pixel, (height, width).

    The net and the image must be left as they were.
    """
    for seed, height, width, classes, label in ((2, 6, 9, 4, 2), (3, 5, 7, 3, 0), (4, 8, 8, 10, 9)):
        net, image = _Net(height, width, classes, seed), torch.rand(height, width, generator=seeded(seed + 1))
        if seed == 3:  # gradients of a training that goes on
            for parameter in net.parameters():
                parameter.grad = torch.ones_like(parameter)
        weights = [parameter.detach().clone() for parameter in net.parameters()]
        grads = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
        slopes, logits = net.slopes(image), net(image[None])[0].detach()
        result = answer(net, image, label)
        if result is None:
            raise Hint("Your function returns nothing here, None: `return` the absolute value of the gradient.")
        if isinstance(result, Tensor) and result.shape == (1, height, width):
            raise Hint("Yours is a batch of one, (1, height, width): take the image out, `[0]`.")
        result = shaped(result, (height, width), "a value for each pixel")
        _hold_saliency(result, slopes, logits, image, label)
        if answer.lent[1].requires_grad:
            raise Hint("Right, but the image that was given now requires gradients: `image.clone().requires_grad_()`.")
        if not all(value.requires_grad for value in net.parameters()):
            raise Hint("Right, but the net can no longer learn: its parameters do not require gradients any more.")
        if not all(torch.equal(now, before) for now, before in zip(net.parameters(), weights, strict=True)):
            raise Hint("Right, but the net has changed: its weights are not what they were.")
        for now, before in zip((parameter.grad for parameter in net.parameters()), grads, strict=True):
            if before is None and now is not None:
                raise Hint("Right, but .grad of the net's parameters is filled too: `torch.autograd.grad` fills none.")
            if before is not None and (now is None or not torch.equal(now, before)):
                raise Hint(
                    "Right, but this net had gradients in its .grad, and they have changed. `zero_grad` deletes what "
                    "somebody may need: `torch.autograd.grad` touches no .grad."
                )


def _hold_saliency(result: Tensor, slopes: Tensor, logits: Tensor, image: Tensor, label: int) -> None:
    """Raise Hint unless the result is the absolute value of the label's slope."""
    slope, p = slopes[label], logits.softmax(0)
    if close(result, slope.abs()):
        return
    log_p = slope - torch.einsum("c,chw->hw", p, slopes)
    signs_and_factors = [
        (slope, "Right but for the sign: a pixel that lowers the logit matters too. Take the absolute value."),
        (-slope, "That is minus the gradient: take the absolute value of it."),
        (-slope.abs(), "Right but for the sign: an absolute value is not below 0."),
        (slope.relu(), "Yours leaves out the pixels that lower the logit: take the absolute value."),
        (slope**2, "That is the square of the gradient: take the absolute value."),
        (slope.abs() / slope.abs().max(), "Right but for a factor: leave the gradient at its own size."),
        (slope.abs() / slope.norm(), "Right but for a factor: leave the gradient at its own size."),
    ]
    refuse_mistakes(result, signs_and_factors)
    others = [c for c in range(len(slopes)) if c != label]
    largest = int(logits.argmax())
    variants = [
        (p[label] * log_p, "That is the gradient of the *probability*: take the logit, before the softmax."),
        (log_p, "That is the gradient of log p, the loss: the other classes are in it. Take the logit alone."),
        (slopes.sum(0), "That is the gradient of the sum of all logits: pick the label's, `net(...)[0, label]`."),
        (slope * image, "That is gradient times pixel: a black pixel would never matter. The gradient alone."),
    ]
    if largest != label:
        wrong = "That is the gradient of the *largest* logit: take that of the label given."
        variants.append((slopes[largest], wrong))
    variants += [(slopes[c], f"That is the gradient of logit {c}: the label given is {label}.") for c in others]
    for value, hint in variants:  # with the absolute value or without
        if close(result.abs(), value.abs()):
            raise Hint(hint)
    row, column = largest_error(result, slope.abs())
    there = f"At [{row}, {column}] it should be {slope[row, column].abs():.3f}; yours is {result[row, column]:.3f}."
    raise Hint(f"{there} How much does the label's logit change if this pixel does?")
