"""The exercises of notebook 00: means, a classifier made of them, pixels drawn at random, and thirty prototypes."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlkit import data
from dlkit.exercises import Answer, Hint, Points, exercise, given, task
from dlkit.exercises.answers import close, floats, number, refuse_fixed_draws, refuse_mistakes, seeded, tensor
from dlkit.exercises.students_code import Raised

MOST_PROTOTYPES, GIVEN_DIGITS = 30, 10_000


@cache
def _mnist() -> data.Dataset:
    return data.load("mnist")


def _labels(split: data.Split) -> Tensor:
    assert split.labels is not None  # MNIST has them
    return split.labels


def _means(split: data.Split) -> Tensor:
    """The mean image of each class, (10, 28, 28)."""
    return torch.stack([split.images[torch.eq(_labels(split), c)].mean(0) for c in range(10)])


@cache
def _wrong_means() -> list[tuple[Tensor, str]]:
    """What is handed in for the mean three, and is not, with its hint."""
    train, whole = _mnist().train, _mnist().full_train
    images = train.images
    means, threes = _means(train), images[torch.eq(_labels(train), 3)]
    mean = means[3]
    return [
        (images.mean(0), "That is the mean of all digits: pick the images whose label is 3 first."),
        (threes.sum(0), "That is the sum of the threes, with pixels far above 1: divide by how many there are."),
        (threes.sum(0) / len(images), "You divided by the number of all images: divide by the number of threes."),
        (255 * mean, "That is from 0 to 255, as in the file: leave the pixels as they are, from 0 to 1."),
        (threes[0], "That is the first three, one image: average over all of them."),
        (images[3], "That is the image of index 3: the images of *label* 3 are `images[labels == 3]`."),
        (threes.median(0).values, "That is the median of each pixel; the mean is the sum divided by the count."),
        ((mean > 0.5).float(), "Yours is black and white only: leave the means as they come, without a threshold."),
        (mean.T, "Rows and columns are exchanged: leave the image as it is."),
        (
            _means(whole)[3],
            "That is the mean over training and validation digits: what we validate on must not be learnt from.",
        ),
        (_means(_mnist().validation)[3], "That is the mean three of the validation digits: take the training digits."),
        *((means[c], f"That is the mean {c}: the question is about the threes.") for c in range(10) if c != 3),
    ]


@exercise(
    "the mean of a class is an image too, grey where the writers disagree",
    deeper="Of two images of one row, (0, 1) and (1, 1), the mean is (0.5, 1): pixel by pixel, over the images, which "
    "are dimension 0. `images[labels == 3]` keeps the images for which the condition is true.",
)
def mean_image(answer: Any) -> None:
    """`answer` is the mean (28, 28) of the training images of class 3."""
    image = tensor(answer)
    threes = int(torch.eq(_labels(_mnist().train), 3).sum())
    if image.numel() == 1:
        raise Hint("That is one number, the mean over all pixels too: take the mean over the images only, `dim=0`.")
    if image.shape == (threes,):
        raise Hint("That is one number an image: the mean of its pixels. Average over the other dimension, `dim=0`.")
    if image.shape == (1, 28, 28):
        image = image[0]
    if image.shape != (28, 28):
        raise Hint(f"The shape should be (28, 28), one image; yours is {tuple(image.shape)}.")
    refuse_mistakes(image, _wrong_means())
    if not close(image, _means(_mnist().train)[3]):
        raise Hint("The shape is right, the values are not: `images[labels == 3]` are the threes; what is their mean?")


def _share(split: data.Split, score: Callable[[Tensor], Tensor]) -> float:
    """The share of the digits whose own class has the highest score; `score` gives (digits, 10)."""
    return float(_is_right(split, score).mean())


def _is_right(split: data.Split, score: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.eq(score(split.images.flatten(1)).argmax(1), _labels(split)).float()


def _nearness(means: Tensor, power: float = 2) -> Callable[[Tensor], Tensor]:
    """Minus the distance of each digit to each mean."""
    return lambda x: -torch.cdist(x, means.flatten(1), p=power)


@cache
def _accuracies() -> tuple[float, list[tuple[float, str]]]:
    """The accuracy of the nearest mean, and of the usual mistakes, each with its hint."""
    train, validation, test = _mnist().train, _mnist().validation, _mnist().test
    means = _means(train)
    right = _share(validation, _nearness(means))
    labels, is_right = _labels(validation), _is_right(validation, _nearness(means))
    by_class = float(torch.stack([is_right[torch.eq(labels, c)].mean() for c in range(10)]).mean())
    return right, [
        (100 * right, "You are right in per cent: give it as a share, from 0 to 1."),
        (1 - right, "That is the share that it gets wrong: the accuracy is what is left of 1."),
        (right * len(labels), "That is how many it gets right: divide by how many there are."),
        (
            _share(train, _nearness(means)),
            "That is the accuracy on the training digits, of which the means were made: ask for the validation digits.",
        ),
        (
            _share(test, _nearness(means)),
            "That is the accuracy on the test digits: keep those for the end, and use the validation digits.",
        ),
        (
            _share(validation, _nearness(_means(validation))),
            "Your means are of the validation digits: make them of the training digits, and judge on validation.",
        ),
        (
            _share(validation, _nearness(_means(_mnist().full_train))),
            "Your means are of training and validation digits: what you judge on must not be learnt from.",
        ),
        (by_class, "That is the mean of the ten classes' accuracies: count all digits alike, whatever their class."),
        (
            _share(validation, lambda x: x @ means.flatten(1).T),
            "You chose the mean with the largest dot product, which favours bright means: take the smallest distance.",
        ),
        (
            _share(validation, lambda x: -_nearness(means)(x)),
            "That is the mean that is *farthest* away: argmin, not argmax.",
        ),
        (
            _share(validation, _nearness(means, 1)),
            "That is by the sum of absolute differences: square them (the Euclidean distance).",
        ),
    ]


@exercise(
    "ten means are a classifier: no training, and already far better than guessing",
    deeper="Three steps: the distances, (10,000, 10); for each row the index of the smallest, (10,000,); and the mean "
    "of `that == labels`, which torch takes of `.float()`. With one digit of class 4 and distances 9, 8, 8, 7, 6, 8, "
    "... the nearest is 4, so that it counts 1.",
)
def accuracy(answer: Any) -> None:
    """`answer` is the share, from 0 to 1, of the validation digits that are nearest to the mean of their own class."""
    if isinstance(given(answer), Tensor | np.ndarray | list | tuple) and (count := tensor(answer).numel()) != 1:
        raise Hint(f"This should be one number; you hand in {count:,}: take the mean of yes (1) and no (0).")
    value = number(answer)
    right, mistakes = _accuracies()
    for mistake, hint in mistakes:
        if abs(value - mistake) < 1e-5 * max(1, mistake):
            raise Hint(hint)
    if not 0 <= value <= 1:
        raise Hint(f"An accuracy is from 0 to 1; yours is {value:.4g}.")
    if value in [round(right, digits) for digits in (1, 2, 3)] and value != right:
        raise Hint("Right when it is rounded: hand in the number itself.")
    if abs(value - right) > 2e-4:
        raise Hint(
            f"Not {value:.4f}: for each validation digit, which of the ten means is nearest, and is that its label? "
            "The accuracy is the mean of that yes or no."
        )


@exercise(
    "each pixel is drawn with its own intensity as the probability, so the mean of many draws is the image",
    deeper="For one pixel of 0.3: a uniform random number is below 0.3 in three of ten draws. So draw one number for "
    "each pixel of each image, in the images' own shape, compare, and make 1. and 0. of True and False.",
)
def sample(answer: Answer) -> None:
    """`answer(images, generator)`: the images with each pixel 1 or 0; its intensity is the probability of a 1."""
    grey = torch.linspace(0, 1, 5).repeat(4000, 1)  # 4,000 images of five pixels: black, three greys and white
    drawn = _drawn(answer, grey, seeded(0)).double()
    if torch.equal(drawn, grey.double()):
        raise Hint("That gives the grey images back: each pixel should be 0 or 1.")
    if not ((drawn == 0) | (drawn == 1)).all():
        raise Hint("Some pixels are neither 0 nor 1: a draw is on or off.")
    _refuse_wrong_probabilities(answer, drawn, grey[0].double())
    refuse_fixed_draws(lambda generator: _drawn(answer, grey, generator), drawn)
    for shape in ((2, 3, 4), (28, 28), (3, 1, 5, 5)):
        image = torch.rand(shape, generator=seeded(1))
        try:
            _drawn(answer, image, seeded(0))
        except Raised as raised:
            raise Hint(f"Images may have any shape, such as {shape}; there, y{str(raised)[1:]}") from raised


def _drawn(answer: Answer, images: Tensor, generator: torch.Generator) -> Tensor:
    """What the answer draws of the images, if it has their shape and can enter a product. Raises Hint if not."""
    drawn = tensor(answer(images, generator))
    if drawn.shape != images.shape:
        raise Hint(
            f"For images of shape {tuple(images.shape)} the answer should have that shape too; yours is "
            f"{tuple(drawn.shape)}."
        )
    if drawn.dtype == torch.bool:
        raise Hint("The right idea, but a tensor of True and False cannot enter a matrix product: add `.float()`.")
    return floats(drawn)


def _refuse_wrong_probabilities(answer: Answer, drawn: Tensor, expected: Tensor) -> None:
    """Raise Hint if the pixels of `drawn` (images, pixels) are not on as often as `expected`, each by itself."""
    mean = drawn.mean(0)
    if (drawn == drawn[0]).all():
        again = [_drawn(answer, expected[None].float(), seeded(seed)) for seed in range(1, 20)]
        if all(torch.equal(image[0].double(), drawn[0]) for image in again):
            raise Hint("Each grey comes out the same every time: that is a threshold. Compare with random numbers.")
        raise Hint("Every image is drawn alike: draw new random numbers for each, `torch.rand(images.shape)`.")
    off = (mean - expected).abs().max()
    if (mean - (1 - expected)).abs().max() < 0.05:
        raise Hint("White pixels go off and black ones on: turn the comparison round.")
    if (mean - 0.5).abs().max() < 0.05:
        raise Hint("Every pixel is on half of the time: compare with its intensity, not with 1/2.")
    pairs = (drawn[:, 1] * drawn[:, 2]).mean()  # 1/8 if each has its own random number, 1/4 if they share one
    if off < 0.05 and pairs > 0.19:
        raise Hint("All pixels of an image share one random number: draw one a pixel, `torch.rand(images.shape)`.")
    if drawn[:, 0].any() or not drawn[:, -1].all():
        raise Hint("A black pixel must never go on, and a white one always: is it the intensity that you compare with?")
    if off > 0.05:
        shares = ", ".join(f"{m:.2f}" for m in mean)
        raise Hint(f"Pixels of intensity 0, 0.25, 0.5, 0.75 and 1 should be on that often; yours are: {shares}.")


@task
def prototypes(answer: Answer) -> Iterator[Points]:
    """`answer(images, labels)`: at most 30 images (n, 28, 28) and their classes (n,), made from the training digits."""
    train, validation = _mnist().train[:GIVEN_DIGITS], _mnist().validation
    images, classes = _prototypes(answer(train.images, train.labels))
    missing = sorted(set(range(10)) - set(classes.tolist()))
    named = f"no image of {', '.join(map(str, missing))}" if missing else "each class has one"
    yield Points(0 if missing else 2, 2, f"{len(images)} images of at most {MOST_PROTOTYPES}, and {named}")

    floor = _share(validation, _nearness(_means(train)))
    nearest = classes[torch.cdist(validation.images.flatten(1), images).argmin(1)]
    share = float(torch.eq(nearest, _labels(validation)).float().mean())
    measured = f"{share:.2%} of the validation digits are nearest to an image of their own class"
    yield Points(3 * (share > floor), 3, f"{measured}; with the ten means, {floor:.2%}")
    yield Points(3 * (share >= 0.86), 3, "86 % or more")
    yield Points(2 * (share >= 0.88), 2, "88 % or more")


def _prototypes(answer: Any) -> tuple[Tensor, Tensor]:
    """Images (n, 784) and their classes (n,). Raises Hint if they are none, or too many."""
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise Hint("Return two things: the images, and the class of each, `return images, classes`.")
    images, classes = (tensor(part) for part in answer)
    if images.shape[1:] not in ((28, 28), (784,), (1, 28, 28)):
        raise Hint(f"The images should be of shape (n, 28, 28); yours is {tuple(images.shape)}.")
    if classes.shape != (len(images),):
        raise Hint(f"Each of the {len(images)} images has one class: {len(images)} numbers; yours is of shape "
                   f"{tuple(classes.shape)}.")  # fmt: skip
    if len(images) > MOST_PROTOTYPES:
        raise Hint(f"You hand in {len(images)} images, and the limit is {MOST_PROTOTYPES}: choose, or take means.")
    if not torch.isfinite(images.double()).all():
        raise Hint("Some pixels are not numbers (NaN or infinity): is one of your groups empty?")
    if not torch.isin(classes, torch.arange(10)).all():
        raise Hint("A class is a whole number from 0 to 9, the digit that the image stands for.")
    return images.flatten(1).float(), classes.long()
