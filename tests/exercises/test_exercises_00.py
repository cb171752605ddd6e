"""Notebook 00: right answers pass in whatever form, each usual mistake has a hint of its own, the task gives points."""

import numpy as np
import pytest
import torch
from answers import points, solutions, verdict

from dlkit import data
from dlkit.exercises import start_here as check

SOLUTIONS = solutions("00_start_here")


@pytest.fixture(scope="module")
def mnist():
    return data.load("mnist")


@pytest.fixture(scope="module")
def means(mnist):
    images, labels = mnist.train.images, mnist.train.labels
    return torch.stack([images[labels == c].mean(0) for c in range(10)])


EXERCISES = [check.mean_image, check.accuracy, check.sample]


@pytest.mark.parametrize("exercise", EXERCISES)
@pytest.mark.parametrize("stub", [None, ...])
def test_an_untouched_stub_is_not_answered_yet(capsys, exercise, stub):
    assert verdict(capsys, exercise, stub).startswith("○")


@pytest.mark.parametrize("exercise", EXERCISES)
@pytest.mark.parametrize("nonsense", ["three", torch.zeros(2, 2), [1, 2], [[1], [2, 3]], {}, float("nan"), True, 1j])
def test_nonsense_is_answered_in_a_line(capsys, exercise, nonsense):
    assert verdict(capsys, exercise, nonsense).startswith("✗")


# Exercise 1

RIGHT_MEANS = {
    "the solution": SOLUTIONS["mean_image"],
    "an array": lambda images, labels: images.numpy()[labels.numpy() == 3].mean(0),
    "float64": lambda images, labels: images[labels == 3].double().mean(0),
    "nested lists": lambda images, labels: images[labels == 3].mean(0).tolist(),
    "a sum, divided": lambda images, labels: sum(images[labels == 3]) / (labels == 3).sum(),
    "a product": lambda images, labels: ((labels == 3).float() @ images.flatten(1) / 5101).view(28, 28),
    "the images' dimension kept": lambda images, labels: images[labels == 3].mean(0, keepdim=True),
}


@pytest.mark.parametrize("name", RIGHT_MEANS)
def test_a_right_mean_image_passes(capsys, mnist, name):
    answer = RIGHT_MEANS[name](mnist.train.images, mnist.train.labels)
    assert verdict(capsys, check.mean_image, answer).startswith("✓")


MEANS = {
    "one number, the mean over all pixels": lambda images, labels: images[labels == 3].mean(),
    "one number an image": lambda images, labels: images[labels == 3].mean((1, 2)),
    "The shape should be": lambda images, labels: images[labels == 3].flatten(1).mean(0),
    "the mean of all digits": lambda images, labels: images.mean(0),
    "the sum of the threes": lambda images, labels: images[labels == 3].sum(0),
    "the number of all images": lambda images, labels: images[labels == 3].sum(0) / len(images),
    "from 0 to 255": lambda images, labels: (255 * images[labels == 3]).mean(0),
    "the first three": lambda images, labels: images[labels == 3][0],
    "the image of index 3": lambda images, labels: images[3],
    "That is the mean 8": lambda images, labels: images[labels == 8].mean(0),
    "the median": lambda images, labels: images[labels == 3].median(0).values,
    "without a threshold": lambda images, labels: images[labels == 3].mean(0) > 0.5,
    "exchanged": lambda images, labels: images[labels == 3].mean(0).T,
    "the values are not": lambda images, labels: images[labels == 3][:100].mean(0),
    "of type str": lambda images, labels: "a three",
}


@pytest.mark.parametrize("hint", MEANS)
def test_a_wrong_mean_image_gets_its_hint(capsys, mnist, hint):
    answer = MEANS[hint](mnist.train.images, mnist.train.labels)
    assert hint in verdict(capsys, check.mean_image, answer)


@pytest.mark.parametrize(
    ("part", "hint"), [("full_train", "training and validation"), ("validation", "mean three of the validation")]
)
def test_a_mean_image_that_saw_the_validation_digits_gets_its_hint(capsys, mnist, part, hint):
    split = getattr(mnist, part)
    assert hint in verdict(capsys, check.mean_image, split.images[split.labels == 3].mean(0))


# Exercise 2


@pytest.fixture(scope="module")
def is_right(mnist, means):
    """Whether each validation digit is nearest to the mean of its class."""
    validation = mnist.validation
    return torch.cdist(validation.images.flatten(1), means.flatten(1)).argmin(1) == validation.labels


RIGHT_ACCURACIES = {
    "a tensor": lambda is_right: is_right.float().mean(),
    "a number": lambda is_right: float(is_right.float().mean()),
    "numpy's number": lambda is_right: is_right.numpy().mean(),
    "numpy's float32": lambda is_right: np.float32(is_right.numpy().mean()),
    "a tensor of one": lambda is_right: is_right.double().mean()[None],
    "a count, divided": lambda is_right: sum(is_right.tolist()) / len(is_right),
}


@pytest.mark.parametrize("name", RIGHT_ACCURACIES)
def test_a_right_accuracy_passes(capsys, is_right, name):
    assert verdict(capsys, check.accuracy, RIGHT_ACCURACIES[name](is_right)).startswith("✓")


def test_the_solution_of_the_accuracy_is_right(capsys, mnist, means):
    answer = SOLUTIONS["accuracy"](means, mnist.validation.images, mnist.validation.labels)
    assert verdict(capsys, check.accuracy, answer).startswith("✓")


def test_an_accuracy_by_squared_distances_in_a_loop_is_right(capsys, mnist, means):
    right = 0
    for image, label in zip(mnist.validation.images, mnist.validation.labels.tolist(), strict=True):
        right += ((means - image) ** 2).sum((1, 2)).argmin().item() == label
    assert verdict(capsys, check.accuracy, right / 10_000).startswith("✓")


ACCURACIES = {
    "in per cent": lambda right, mnist, means: 100 * right(mnist.validation),
    "gets wrong": lambda right, mnist, means: 1 - right(mnist.validation),
    "how many it gets right": lambda right, mnist, means: round(10_000 * right(mnist.validation)),
    "on the training digits": lambda right, mnist, means: right(mnist.train),
    "on the test digits": lambda right, mnist, means: right(mnist.test),
    "largest dot product": lambda right, mnist, means: right(mnist.validation, lambda x, m: x @ m.T),
    "farthest": lambda right, mnist, means: right(mnist.validation, torch.cdist),
    "absolute differences": lambda right, mnist, means: right(mnist.validation, lambda x, m: -torch.cdist(x, m, p=1)),
    "from 0 to 1; yours is -0.5": lambda right, mnist, means: -0.5,
    "when it is rounded": lambda right, mnist, means: round(right(mnist.validation), 2),
    "Right when it is rounded": lambda right, mnist, means: round(right(mnist.validation), 3),
    "Not 0.1234": lambda right, mnist, means: 0.1234,
    "one number; you hand in 3": lambda right, mnist, means: torch.ones(3),
    "one number; you hand in 10,000": lambda right, mnist, means: (mnist.validation.labels == 3).numpy(),
    "of type str": lambda right, mnist, means: "83 %",
    "not a finite number": lambda right, mnist, means: torch.tensor(float("nan")),
    "of type bool": lambda right, mnist, means: True,
}


@pytest.mark.parametrize("hint", ACCURACIES)
def test_a_wrong_accuracy_gets_its_hint(capsys, mnist, means, hint):
    def right(split, score=lambda x, m: -torch.cdist(x, m)):
        chosen = score(split.images.flatten(1), means.flatten(1)).argmax(1)
        return float((chosen == split.labels).float().mean())

    assert hint in verdict(capsys, check.accuracy, ACCURACIES[hint](right, mnist, means))


@pytest.mark.parametrize(
    ("part", "hint"), [("validation", "means are of the validation"), ("full_train", "of training and validation")]
)
def test_means_that_saw_the_validation_digits_get_their_hint(capsys, mnist, part, hint):
    split, validation = getattr(mnist, part), mnist.validation
    means = torch.stack([split.images[split.labels == c].mean(0) for c in range(10)])
    nearest = torch.cdist(validation.images.flatten(1), means.flatten(1)).argmin(1)
    assert hint in verdict(capsys, check.accuracy, (nearest == validation.labels).float().mean())


def test_the_mean_of_the_classes_accuracies_gets_its_hint(capsys, mnist, is_right):
    each = [is_right[mnist.validation.labels == c].float().mean() for c in range(10)]
    assert "all digits alike" in verdict(capsys, check.accuracy, torch.stack(each).mean())


# Exercise 3


def uniform(shape, generator):
    return torch.rand(shape, generator=generator)


def by_loops(images, generator):
    flat = [1.0 if u < p else 0.0 for u, p in zip(uniform(images.numel(), generator), images.flatten(), strict=True)]
    return torch.tensor(flat).view(images.shape)


RIGHT_SAMPLES = {
    "the solution": SOLUTIONS["sample"],
    "bernoulli": lambda x, g: torch.bernoulli(x, generator=g),
    "as an array": lambda x, g: (uniform(x.shape, g) < x).float().numpy(),
    "in float64": lambda x, g: (uniform(x.shape, g) < x).double(),
    "by where": lambda x, g: torch.where(uniform(x.shape, g) >= x, 0.0, 1.0),
    "by ceil": lambda x, g: torch.ceil(x - uniform(x.shape, g)).clamp(0, 1),
    "into an empty tensor": lambda x, g: torch.empty_like(x).bernoulli_(x, generator=g),
    "by loops": by_loops,
}


@pytest.mark.parametrize("name", RIGHT_SAMPLES)
def test_right_sampling_passes(capsys, name):
    assert verdict(capsys, check.sample, RIGHT_SAMPLES[name]).startswith("✓")


def seeds_all(x, g):
    torch.manual_seed(0)
    return (torch.rand(x.shape) < x).float()


SAMPLES = {
    "gives the grey images back": lambda x, g: x,
    "neither 0 nor 1": lambda x, g: uniform(x.shape, g) * x,
    "that is a threshold": lambda x, g: (x > 0.5).float(),
    "Every image is drawn alike": lambda x, g: (uniform(x.shape[-1], g) < x).float(),
    "turn the comparison round": lambda x, g: (uniform(x.shape, g) > x).float(),
    "compare with its intensity": lambda x, g: (uniform(x.shape, g) < 0.5).float(),
    "share one random number": lambda x, g: (uniform((*x.shape[:-1], 1), g) < x).float(),
    "A black pixel must never go on": lambda x, g: (uniform(x.shape, g) < 0.8 * x + 0.1).float(),
    "yours are: 0.00, 0.06": lambda x, g: (uniform(x.shape, g) < x**2).float(),
    "Two calls with the same seed differ": lambda x, g: (torch.rand(x.shape) < x).float(),
    "you set a seed of your own": seeds_all,
    "do not set its seed": lambda x, g: (uniform(x.shape, g.manual_seed(g.initial_seed())) < x).float(),
    "add `.float()`": lambda x, g: uniform(x.shape, g) < x,
    "cannot be multiplied by weights": lambda x, g: torch.where(uniform(x.shape, g) < x, 1, 0),
    "of dtype int32": lambda x, g: (uniform(x.shape, g) < x).int(),
    "Images may have any shape, such as (2, 3, 4)": lambda x, g: (uniform((len(x), x.shape[1]), g) < x).float(),
    "that shape too; yours is (4000,)": lambda x, g: x.mean(1),
    "has changed `x`": lambda x, g: x.bernoulli_(x, generator=g),
    "Your code raised ZeroDivisionError": lambda x, g: 1 / 0,
    "returns nothing": lambda x, g: print(end=""),
}


@pytest.mark.parametrize("hint", SAMPLES)
def test_wrong_sampling_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.sample, SAMPLES[hint])


# The open task


def class_means(images, labels):
    return torch.stack([images[labels == c].mean(0) for c in range(10)]), torch.arange(10)


def by_slant(images, labels, parts=3):
    """The images of a class in parts along its first principal component, and the mean of each."""
    found = []
    for c in range(10):
        x = images[labels == c].flatten(1)
        along = (x - x.mean(0)) @ torch.linalg.svd(x[:300] - x.mean(0), full_matrices=False)[2][0]
        found += [x[part].mean(0) for part in along.argsort().chunk(parts)]
    return torch.stack(found), np.repeat(np.arange(10), parts)


HANDED_IN = {
    "the solution": (SOLUTIONS["prototypes"], 10, "88 % or more"),
    "three parts of a class": (by_slant, 10, "88 % or more"),
    "two parts of a class": (lambda x, y: by_slant(x, y, 2), 8, "20 images of at most 30"),
    "the ten means": (class_means, 2, "10 images of at most 30, and each class has one"),
    "the first thirty": (lambda x, y: (x[:30], y[:30]), 2, "30 images"),
    "the first ten, as lists": (lambda x, y: (x[:10].tolist(), y[:10].tolist()), 0, "no image of 6, 7, 8"),
    "half of the means": (lambda x, y: [part[:5] for part in class_means(x, y)], 0, "no image of 5, 6, 7, 8, 9"),
}
NO_POINTS = {
    "You hand in 31 images, and the limit is 30": lambda x, y: (x[:31], y[:31]),
    "Return two things": lambda x, y: x[:30],
    "of shape (n, 28, 28); yours is (28, 28)": lambda x, y: (x[0], y[:1]),
    "has one class: 30 numbers; yours is of shape (29,)": lambda x, y: (x[:30], y[:29]),
    "of shape (30, 10)": lambda x, y: (x[:30], torch.eye(10)[y[:30]]),
    "whole number from 0 to 9": lambda x, y: (x[:30], y[:30] + 0.5),
    "is one of your groups empty": lambda x, y: (x[:30] / 0, y[:30]),
    "Your code raised": lambda x, y: 1 / 0,
    "returns nothing": lambda x, y: print(end=""),
    "has changed `x`": lambda x, y: (x[:30].zero_(), y[:30]),
    "Hand in the function": (torch.zeros(30, 28, 28), torch.zeros(30)),
    "Not answered yet": ...,
}


@pytest.mark.parametrize("name", HANDED_IN)
def test_prototypes_get_their_points(capsys, name):
    handed_in, most, said = HANDED_IN[name]
    given, printed = points(capsys, check.prototypes, handed_in)
    assert (given, printed.startswith(f"● {most} of 10 points")) == (most, True)
    assert said in printed


@pytest.mark.parametrize("hint", NO_POINTS)
def test_what_cannot_be_measured_gets_no_points_and_a_hint(capsys, hint):
    given, printed = points(capsys, check.prototypes, NO_POINTS[hint])
    assert given == 0
    assert hint in printed
