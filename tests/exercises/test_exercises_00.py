"""Notebook 00: the solutions are right, each usual mistake has a hint of its own, and no answer is an error message."""

import pytest
import torch
from answers import solutions, verdict

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
@pytest.mark.parametrize("nonsense", ["three", torch.zeros(2, 2), [1, 2]])
def test_nonsense_is_answered_in_a_line(capsys, exercise, nonsense):
    assert verdict(capsys, exercise, nonsense).startswith("✗")


def test_the_solution_of_the_mean_image_is_right(capsys, mnist):
    answer = SOLUTIONS["mean_image"](mnist.train.images, mnist.train.labels)
    assert verdict(capsys, check.mean_image, answer).startswith("✓")


MEANS = {
    "one number, the mean over all pixels": lambda images, labels: images[labels == 3].mean(),
    "one number an image": lambda images, labels: images[labels == 3].mean((1, 2)),
    "The shape should be": lambda images, labels: images[labels == 3].flatten(1).mean(0),
    "the mean of all digits": lambda images, labels: images.mean(0),
    "the sum rather than the mean": lambda images, labels: images[labels == 3].sum(0),
    "the first three": lambda images, labels: images[labels == 3][0],
    "That is the mean 8": lambda images, labels: images[labels == 8].mean(0),
    "the values are not": lambda images, labels: images[labels == 3].median(0).values,
    "of type str": lambda images, labels: "a three",
}


@pytest.mark.parametrize("hint", MEANS)
def test_a_wrong_mean_image_gets_its_hint(capsys, mnist, hint):
    answer = MEANS[hint](mnist.train.images, mnist.train.labels)
    assert hint in verdict(capsys, check.mean_image, answer)


def test_a_mean_image_that_saw_the_validation_digits_gets_its_hint(capsys, mnist):
    split = mnist.full_train
    assert "training and validation" in verdict(capsys, check.mean_image, split.images[split.labels == 3].mean(0))


def test_the_solution_of_the_accuracy_is_right_as_a_tensor_and_as_a_number(capsys, mnist, means):
    answer = SOLUTIONS["accuracy"](means, mnist.validation.images, mnist.validation.labels)
    assert verdict(capsys, check.accuracy, answer).startswith("✓")
    assert verdict(capsys, check.accuracy, float(answer)).startswith("✓")


ACCURACIES = {
    "in per cent": lambda right, split, means: 100 * right(split.validation),
    "gets wrong": lambda right, split, means: 1 - right(split.validation),
    "how many it gets right": lambda right, split, means: round(10_000 * right(split.validation)),
    "on the training digits": lambda right, split, means: right(split.train),
    "on the test digits": lambda right, split, means: right(split.test),
    "largest dot product": lambda right, split, means: right(split.validation, lambda x, m: x @ m.T),
    "farthest": lambda right, split, means: right(split.validation, torch.cdist),
    "absolute differences": lambda right, split, means: right(split.validation, lambda x, m: -torch.cdist(x, m, p=1)),
    "from 0 to 1; yours is -0.5": lambda right, split, means: -0.5,
    "not a rounded one": lambda right, split, means: round(right(split.validation), 2),
    "Not 0.1234": lambda right, split, means: 0.1234,
    "one number; yours is a tensor of shape (3,)": lambda right, split, means: torch.ones(3),
}


@pytest.mark.parametrize("hint", ACCURACIES)
def test_a_wrong_accuracy_gets_its_hint(capsys, mnist, means, hint):
    def right(split, score=lambda x, m: -torch.cdist(x, m)):
        chosen = score(split.images.flatten(1), means.flatten(1)).argmax(1)
        return float((chosen == split.labels).float().mean())

    assert hint in verdict(capsys, check.accuracy, ACCURACIES[hint](right, mnist, means))


def test_the_solution_of_sampling_is_right(capsys):
    assert verdict(capsys, check.sample, SOLUTIONS["sample"]).startswith("✓")


def test_bernoulli_is_right_too(capsys):
    assert verdict(capsys, check.sample, lambda x, g: torch.bernoulli(x, generator=g)).startswith("✓")


def uniform(shape, generator):
    return torch.rand(shape, generator=generator)


SAMPLES = {
    "gives the grey images back": lambda x, g: x,
    "neither 0 nor 1": lambda x, g: uniform(x.shape, g) * x,
    "that is a threshold": lambda x, g: (x > 0.5).float(),
    "Every image is drawn alike": lambda x, g: (uniform(x.shape[1], g) < x).float(),
    "turn the comparison round": lambda x, g: (uniform(x.shape, g) > x).float(),
    "compare with its intensity": lambda x, g: (uniform(x.shape, g) < 0.5).float(),
    "share one random number": lambda x, g: (uniform((len(x), 1), g) < x).float(),
    "A black pixel must never go on": lambda x, g: (uniform(x.shape, g) < 0.8 * x + 0.1).float(),
    "yours are: 0.00, 0.06": lambda x, g: (uniform(x.shape, g) < x**2).float(),
    "Two calls with the same seed differ": lambda x, g: (torch.rand(x.shape) < x).float(),
    "add `.float()`": lambda x, g: uniform(x.shape, g) < x,
    "that shape too; yours is (4000,)": lambda x, g: x.mean(1),
    "that shape too; yours is list": lambda x, g: x.tolist(),
}


@pytest.mark.parametrize("hint", SAMPLES)
def test_wrong_sampling_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.sample, SAMPLES[hint])


def test_a_function_without_an_answer_is_not_answered_yet(capsys):
    assert verdict(capsys, check.sample, lambda x, g: None).startswith("○")


def test_what_the_students_code_raises_is_told_in_a_line(capsys):
    assert "Your code raised ZeroDivisionError" in verdict(capsys, check.sample, lambda x, g: 1 / 0)
