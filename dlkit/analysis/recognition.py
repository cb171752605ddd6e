"""Ways to read a label off a DBN, from the best to the one that a brain might use."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from dlkit.core.evaluation import logits
from dlkit.data import Split
from dlkit.models.dbn import DBN

Guess = Callable[[DBN, Tensor, torch.Generator], Tensor]


@torch.no_grad()
def by_free_energy(
    dbn: DBN, images: Float[Tensor, "images ..."], generator: torch.Generator | None = None
) -> Int64[Tensor, " images"]:
    """The label of least free energy after a mean-field way up; nothing is drawn."""
    return dbn.label_probabilities(images).argmax(1)


@torch.no_grad()
def by_sampled_features(
    dbn: DBN, images: Float[Tensor, "images ..."], generator: torch.Generator
) -> Int64[Tensor, " images"]:
    """The label of least free energy after one sampled way up."""
    return dbn.label_probabilities(images, generator).argmax(1)


@torch.no_grad()
def by_gibbs(
    dbn: DBN, images: Float[Tensor, "images ..."], generator: torch.Generator, *, steps: int = 10
) -> Int64[Tensor, " images"]:
    """The label most probable in the last of a few Gibbs steps of the label units, the features held as sampled.

    All labels are equally probable at first.
    Source: Hinton, Osindero, Teh 2006, A fast learning algorithm for deep belief nets, §6.1.
    """
    top, guesses = dbn.labelled_top(), []
    for part in images.split(1000):
        features = dbn.up(part, generator)
        labels = probabilities = torch.full((len(part), top.labels), 1 / top.labels, device=features.device)
        for _ in range(steps):
            h = top.draw_hidden(top.hidden_given(torch.cat([features, labels], dim=1)), generator)
            _, probabilities = top.split_labels(top.visible_given(h))
            drawn = torch.multinomial(probabilities.to(generator.device), 1, generator=generator)[:, 0]
            labels = F.one_hot(drawn.to(features.device), top.labels).to(features.dtype)
        guesses.append(probabilities.argmax(1))
    return torch.cat(guesses)


def by_net(net: torch.nn.Module, images: Float[Tensor, "images ..."]) -> Int64[Tensor, " images"]:
    """The largest logit of a net from images to logits, in evaluation mode; the net is left as it was."""
    return torch.cat([logits(net, part).argmax(1) for part in images.split(1000)]).to(images.device)


def error(guesses: Int64[Tensor, " images"], digits: Split) -> float:
    """How many of the digits' labels are guessed wrong, in percent. ValueError if they have none."""
    if digits.labels is None:
        raise ValueError("these images have no labels to compare with: take a Split that has.")
    return 100 * float((guesses != digits.labels).double().mean())
