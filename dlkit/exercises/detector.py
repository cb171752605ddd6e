"""The open task of notebook 12, measured: a detector of digits that has never seen a label, in 200 steps."""

import copy
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.analysis.single_units import best_units
from dlkit.data import load
from dlkit.exercises import Answer, Hint, Points, task
from dlkit.exercises.answers import floats, number, results
from dlkit.training import Experiment, OwnCost

STEPS, BATCH, DIGITS = 200, 50, 4_000
MOST_PARAMETERS, MOST_UNITS = 150_000, 400
ACCURACIES = (74.0, 77.0, 79.0, 81.0)  # percent, at each of which there is a point
GAIN = 1.5  # percent: above random filters


@task
def detector(answer: Answer) -> Iterator[Points]:
    """`answer()`: (net, values, lr): a net whose output is its own cost, (batch,), for images of 28x28, less the mean
    digit; values(net, images) gives (images, units); lr for SGD with momentum 0.9.
    """
    net, values, lr = _read(answer())
    train, chosen, tried = digits()
    random = _accuracy(net, values, chosen, tried)
    units, size = random[1], sum(parameter.numel() for parameter in net.parameters())
    fits = size <= MOST_PARAMETERS and units <= MOST_UNITS
    yield Points(
        2 * fits, 2, f"{size:,} parameters and {units} units: {MOST_PARAMETERS:,} and {MOST_UNITS} are allowed"
    )
    experiment = Experiment(
        partial(copy.deepcopy, net), train, OwnCost(), batch_size=BATCH, lr=lr, momentum=0.9, row_every=STEPS // 4
    )
    try:
        run = experiment.run(steps=STEPS, device="cpu")
    except FloatingPointError as error:
        yield Points(0, 2, str(error))
        return
    costs = [float(loss) for loss in run.history["loss"] if loss is not None]
    yield Points(
        2 * (costs[-1] < costs[0]), 2, f"the cost went from {costs[0]:.4g}, in the first quarter, to {costs[-1]:.4g}"
    )
    trained = _accuracy(run.model, values, chosen, tried)[0]
    reached = sum(trained >= least for least in ACCURACIES) if fits else 0
    said = f"its best units tell digits from the rest with {trained:.1f} %"
    yield Points(reached, len(ACCURACIES), said if fits else f"{said}, which counts only for a net that fits")
    gained = trained - random[0]
    yield Points(2 * (gained >= GAIN), 2, f"that is {gained:+.1f} % against the same net with random weights")


@cache
def digits() -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Digits to train with, without labels; labelled ones to choose units by; and others to try them on."""
    mnist = load("mnist")
    mean, deviation = mnist.train.images.mean(0), mnist.train.images.std()
    held_out = mnist.validation[:4_000]
    images, labels = (held_out.images - mean) / deviation, held_out.labels
    assert labels is not None  # MNIST has them
    train = (mnist.train.images[:DIGITS] - mean) / deviation
    return train, (images[:2_000], labels[:2_000]), (images[2_000:], labels[2_000:])


def _read(answer: Any) -> tuple[nn.Module, Any, float]:
    """What was handed in. Raises Hint for what cannot be trained or looked at."""
    net, values, lr = results(
        answer, 3, "three things: the net, a function (net, images) for its units' values, and lr"
    )
    lr = number(lr)
    if not isinstance(net, nn.Module):
        raise Hint(f"The first is the net, an nn.Module; yours is of type {type(net).__name__}.")
    if not callable(values):
        raise Hint("The second is a function: values(net, images) gives (images, units).")
    if lr <= 0:
        raise Hint("lr is more than 0.")
    images = digits()[0][:3]
    with torch.no_grad():
        cost = net(images)
    if not isinstance(cost, Tensor) or tuple(cost.shape) != (3,):
        raise Hint("As a net yours should give a cost for each image, (batch,), as RICAStage does.")
    return net, values, lr


@torch.no_grad()
def _accuracy(net: nn.Module, values: Any, chosen: Any, tried: Any) -> tuple[float, int]:
    """The mean over digits, in percent, of units that were chosen on some images and tried on others; their number."""
    found = []
    for images, _ in (chosen, tried):
        x = floats(values(net, images))
        if x.ndim != 2 or len(x) != len(images):
            raise Hint(
                f"values(net, images) gives {tuple(x.shape)} for {len(images)} images: (images, units) is wanted."
            )
        found.append(x)
    best = best_units(found[0], chosen[1])
    return float(best.on(found[1], tried[1]).mean()), found[0].shape[1]
