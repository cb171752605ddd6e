"""Ways to classify images with a DBN, or with a net, and the error."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from dlkit.analysis.examining import examines
from dlkit.core.apple import off_apple
from dlkit.core.evaluation import logits, on_device_of
from dlkit.data import Split
from dlkit.models.dbn import DBN

Guess = Callable[[DBN, Tensor, torch.Generator], Tensor]


@examines
@torch.no_grad()
def by_free_energy(
    dbn: DBN, images: Float[Tensor, "images ..."], generator: torch.Generator | None = None
) -> Int64[Tensor, " images"]:
    """The label of lowest free energy given the means of the features; nothing is sampled."""
    return dbn.label_probabilities(on_device_of(dbn, images)).argmax(1)


@examines
@torch.no_grad()
def by_sampled_features(
    dbn: DBN, images: Float[Tensor, "images ..."], generator: torch.Generator
) -> Int64[Tensor, " images"]:
    """The label of lowest free energy given one sample of the features."""
    return dbn.label_probabilities(on_device_of(dbn, images), generator).argmax(1)


@examines
@torch.no_grad()
def by_gibbs(
    dbn: DBN, images: Float[Tensor, "images ..."], generator: torch.Generator, *, steps: int = 10
) -> Int64[Tensor, " images"]:
    """The most probable label after some Gibbs steps of the label units, with a sample of the features kept fixed.

    All labels are equally probable at the start.
    Source: Hinton, Osindero, Teh 2006, A fast learning algorithm for deep belief nets, §6.1.
    """
    top, guesses = dbn.labelled_top(), []
    for batch in images.split(1000):
        features = dbn.up(on_device_of(dbn, batch), generator)
        labels = probabilities = torch.full((len(batch), top.labels), 1 / top.labels, device=features.device)
        for _ in range(steps):
            h = top.draw_hidden(top.hidden_given(torch.cat([features, labels], dim=1)), generator)
            _, probabilities = top.split_labels(top.visible_given(h))
            drawn = torch.multinomial(probabilities.to(generator.device), 1, generator=generator)[:, 0]
            labels = F.one_hot(drawn.to(features.device), top.labels).to(features.dtype)
        guesses.append(probabilities.argmax(1))
    return torch.cat(guesses)


@examines
def by_net(net: torch.nn.Module, images: Float[Tensor, "images ..."]) -> Int64[Tensor, " images"]:
    """The class of the largest logit of a net, in evaluation mode."""
    return torch.cat([logits(net, batch).argmax(1) for batch in images.split(1000)])


def error(guesses: Int64[Tensor, " images"], digits: Split) -> float:
    """The fraction of wrong guesses, in percent. ValueError if the digits have no labels."""
    if digits.labels is None:
        raise ValueError("these images have no labels to compare with: take a Split that has.")
    return 100 * float(off_apple(guesses != digits.labels.to(guesses.device)).double().mean())
