"""The exercises of notebook 00: means, a classifier made of them, and pixels drawn at random."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dlkit import data
from dlkit.exercises import Hint, exercise, given
from dlkit.exercises.answers import close, seeded


@exercise("the mean of a class is an image too, grey where the writers disagree")
def mean_image(answer: Any) -> None:
    """`answer` is the mean (28, 28) of the training images of class 3."""
    mnist = data.load("mnist")
    images, labels = mnist.train.images, mnist.train.labels
    threes = images[labels == 3]
    if not isinstance(answer, Tensor):
        raise Hint(f"This should be a tensor of shape (28, 28); yours is of type {type(answer).__name__}.")
    if answer.ndim == 0:
        raise Hint("That is one number, the mean over all pixels too: take the mean over the images only, `dim=0`.")
    if answer.shape == (len(threes),):
        raise Hint("That is one number an image: the mean of its pixels. Average over the other dimension, `dim=0`.")
    if answer.shape != (28, 28):
        raise Hint(f"The shape should be (28, 28), one image; yours is {tuple(answer.shape)}.")
    if close(answer, images.mean(0)):
        raise Hint("That is the mean of all digits: pick the images whose label is 3 first.")
    if answer.max() > 1.001:
        raise Hint(f"Your brightest pixel is {answer.max():.0f}, above 1: is this the sum rather than the mean?")
    if close(answer, threes[0]):
        raise Hint("That is the first three, one image: average over all of them.")
    if close(answer, mnist.full_train.images[mnist.full_train.labels == 3].mean(0)):
        raise Hint("That is the mean over training and validation digits: what we validate on must not be learnt from.")
    for digit in (c for c in range(10) if c != 3):
        if close(answer, images[labels == digit].mean(0)):
            raise Hint(f"That is the mean {digit}: the question is about the threes.")
    if not close(answer, threes.mean(0)):
        raise Hint("The shape is right, the values are not: `images[labels == 3]` are the threes; what is their mean?")


@exercise("ten means are a classifier: no training, and already far better than guessing")
def accuracy(answer: Any) -> None:
    """`answer` is the share, from 0 to 1, of the validation digits that are nearest to the mean of their own class."""
    mnist = data.load("mnist")
    train, validation = mnist.train, mnist.validation
    means = torch.stack([train.images[train.labels == c].mean(0) for c in range(10)]).flatten(1)
    if isinstance(answer, Tensor) and answer.numel() != 1:
        raise Hint(f"This should be one number; yours is a tensor of shape {tuple(answer.shape)}: take its mean.")
    value = float(answer)

    def share(split: data.Split, score: Callable[[Tensor], Tensor]) -> float:
        """The share of the digits whose own class has the highest score; `score` gives (digits, 10)."""
        chosen = score(split.images.flatten(1)).argmax(1)
        return float(torch.eq(chosen, given(split.labels)).float().mean())

    def nearness(x: Tensor) -> Tensor:
        """Minus the distance of each digit to each mean, (digits, 10)."""
        return -torch.cdist(x, means)

    right = share(validation, nearness)
    mistakes = [
        (100 * right, "You are right in per cent: give it as a share, from 0 to 1."),
        (1 - right, "That is the share that it gets wrong: the accuracy is what is left of 1."),
        (right * len(validation), "That is how many it gets right: divide by how many there are."),
        (
            share(train, nearness),
            "That is the accuracy on the training digits, of which the means were made: ask for the validation digits.",
        ),
        (
            share(mnist.test, nearness),
            "That is the accuracy on the test digits: keep those for the end, and use the validation digits.",
        ),
        (
            share(validation, lambda x: x @ means.T),
            "You chose the mean with the largest dot product, which favours bright means: take the smallest distance.",
        ),
        (
            share(validation, lambda x: -nearness(x)),
            "That is the mean that is *farthest* away: argmin, not argmax.",
        ),
        (
            share(validation, lambda x: -torch.cdist(x, means, p=1)),
            "That is by the sum of absolute differences: square them (the Euclidean distance).",
        ),
    ]
    for mistake, hint in mistakes:
        if abs(value - mistake) < 2e-4:
            raise Hint(hint)
    if not 0 <= value <= 1:
        raise Hint(f"An accuracy is from 0 to 1; yours is {value:.4g}.")
    if value == round(right, 2):
        raise Hint("Right to two decimals: hand in the number itself, not a rounded one.")
    if abs(value - right) > 2e-4:
        raise Hint(
            f"Not {value:.4f}: for each validation digit, which of the ten means is nearest, and is that its label? "
            "The accuracy is the mean of that yes or no."
        )


@exercise("each pixel is drawn with its own intensity as the probability, so the mean of many draws is the image")
def sample(answer: Any) -> None:
    """`answer(images, generator)`: the images with each pixel 1 or 0; its intensity is the probability of a 1."""
    grey = torch.linspace(0, 1, 5).repeat(4000, 1)  # 4,000 images of five pixels: black, three greys and white
    drawn = given(answer(grey.clone(), seeded(0)))
    if not isinstance(drawn, Tensor) or drawn.shape != grey.shape:
        shape = tuple(drawn.shape) if isinstance(drawn, Tensor) else type(drawn).__name__
        raise Hint(f"For images of shape {tuple(grey.shape)} the answer should have that shape too; yours is {shape}.")
    if drawn.dtype == torch.bool:
        raise Hint("The right idea, but a tensor of True and False cannot enter a matrix product: add `.float()`.")
    drawn = drawn.double()
    if torch.equal(drawn, grey.double()):
        raise Hint("That gives the grey images back: each pixel should be 0 or 1.")
    if not ((drawn == 0) | (drawn == 1)).all():
        raise Hint("Some pixels are neither 0 nor 1: a draw is on or off.")
    mean, expected = drawn.mean(0), grey[0].double()
    if (drawn == drawn[0]).all():
        redrawn = [answer(grey[:1].clone(), seeded(seed)).double() for seed in range(1, 20)]
        if all(torch.equal(image[0], drawn[0]) for image in redrawn):
            raise Hint("Each grey comes out the same every time: that is a threshold. Compare with random numbers.")
        raise Hint("Every image is drawn alike: draw new random numbers for each, `torch.rand(images.shape)`.")
    if (mean - (1 - expected)).abs().max() < 0.05:
        raise Hint("White pixels go off and black ones on: turn the comparison round.")
    if (mean - 0.5).abs().max() < 0.05:
        raise Hint("Every pixel is on half of the time: compare with its intensity, not with 1/2.")
    pairs = (drawn[:, 1] * drawn[:, 2]).mean()  # 1/8 if each has its own random number, 1/4 if they share one
    if (mean - expected).abs().max() < 0.05 and pairs > 0.19:
        raise Hint("All pixels of an image share one random number: draw one a pixel, `torch.rand(images.shape)`.")
    if drawn[:, 0].any() or not drawn[:, -1].all():
        raise Hint("A black pixel must never go on, and a white one always: is it the intensity that you compare with?")
    if (mean - expected).abs().max() > 0.05:
        shares = ", ".join(f"{m:.2f}" for m in mean)
        raise Hint(f"Pixels of intensity 0, 0.25, 0.5, 0.75 and 1 should be on that often; yours are: {shares}.")
    again = answer(grey.clone(), seeded(0))
    if not torch.equal(again.double(), drawn):
        raise Hint("Two calls with the same seed differ: `torch.rand(..., generator=generator)` makes them agree.")
