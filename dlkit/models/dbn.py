"""Deep belief network: a stack of RBMs. Upwards it recognises images, downwards it generates them."""

import copy
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.core import storage
from dlkit.core.random import bernoulli
from dlkit.models.directed import DirectedLayer
from dlkit.models.rbm import RBM, GaussianRBM
from dlkit.models.top_rbms import CodeRBM, LabelledRBM
from dlkit.models.unrolled import autoencoder, check_stack, classifier

D = TypeVar("D", bound="DBN")


class DBN(nn.Module):
    """Deep belief network: p(v, h¹, …) = p(v|h¹) … p(hˡ⁻¹, hˡ), where the last factor is the top RBM.

    The layers below the top are directed downwards; the way up is approximate inference. Each lower layer is the RBM
    that it was trained as, so both directions share W; `untied()` gives them weights of their own. With a LabelledRBM
    on top the network classifies, and generates images of a given label.
    ValueError if the stack is empty or the sizes of neighbouring layers do not match.
    Source: Hinton, Osindero, Teh 2006, A fast learning algorithm for deep belief nets.
    """

    def __init__(self, layers: Sequence[RBM | DirectedLayer]):
        super().__init__()
        for layer in layers:
            if not isinstance(layer, RBM | DirectedLayer):
                mend = (
                    "[run.model for run in runs]" if hasattr(layer, "model") else "RBMs, and untied layers below them"
                )
                raise ValueError(f"a DBN of {type(layer).__name__}s: give {mend}.")
        check_stack([(layer.features, layer.hidden) for layer in layers])
        for number, (below, above) in enumerate(pairwise(layers), 1):
            if isinstance(below, LabelledRBM):
                raise ValueError(f"layer {number} of {len(layers)} has labels: only the top layer may.")
            if isinstance(below, CodeRBM):
                raise ValueError(f"layer {number} of {len(layers)} has linear hidden units: only the top layer may.")
            if isinstance(above, GaussianRBM):
                raise ValueError(f"layer {number + 1} has real-valued visible units: only the lowest layer may.")
        if not isinstance(layers[-1], RBM):
            raise ValueError(f"the top layer is a {type(layers[-1]).__name__}: it must be an RBM.")
        self.layers = nn.ModuleList(layers)

    @classmethod
    def of(
        cls: type[D],
        sizes: Sequence[int],
        *,
        labels: int | None = None,
        untied: bool = False,
        std: float = 0.01,
        generator: torch.Generator | None = None,
    ) -> D:
        """An untrained stack, such as DBN.of([784, 500, 500, 2000], labels=10): units of each layer, pixels first.

        `untied`: DirectedLayers below the top. Weights start at N(0, std²).
        """
        if len(sizes) < 2:
            raise ValueError(f"an empty stack: {list(sizes)} has {len(sizes)} sizes, and an RBM takes two.")
        kind = DirectedLayer if untied else RBM
        layers: list[RBM | DirectedLayer] = [kind(*pair, std=std, generator=generator) for pair in pairwise(sizes[:-1])]
        if labels is None:
            return cls([*layers, RBM(*sizes[-2:], std=std, generator=generator)])
        return cls([*layers, LabelledRBM(*sizes[-2:], labels=labels, std=std, generator=generator)])

    @property
    def lower(self) -> list[RBM | DirectedLayer]:
        """The layers below the top RBM, from the bottom up."""
        return list(self.layers)[:-1]  # type: ignore[arg-type]

    @property
    def top(self) -> RBM:
        return self.layers[-1]  # type: ignore[return-value]

    @property
    def sizes(self) -> list[int]:
        """Number of units in each layer, from the pixels up, without label units."""
        return [layer.features for layer in self.layers] + [self.top.hidden]  # type: ignore[misc]

    @property
    def labels(self) -> int | None:
        """Number of label units in the top layer, or None."""
        return self.top.labels

    def up(
        self,
        images: Float[Tensor, "batch ..."],
        generator: torch.Generator | None = None,
        layers: int | None = None,
    ) -> Float[Tensor, "batch features"]:
        """Features of the images: means of the units below the top RBM or, with a generator, samples.

        `layers`: how many layers to go up, by default all but the top one.
        """
        h = images.flatten(1)
        for layer in self.lower if layers is None else [*self.lower, self.top][:layers]:
            h = layer.hidden_given(h)
            if generator is not None:
                h = bernoulli(h, generator)
        return h

    def down(
        self, features: Float[Tensor, "batch features"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch pixels"]:
        """Mean of each pixel given the features below the top RBM; with a generator, layers in between are sampled."""
        if features.shape[1:] != (self.top.features,):
            raise ValueError(
                f"features of shape {tuple(features.shape)} for a top RBM of {self.top.features}: `dbn.up(images)` or "
                "the first columns of a dream's state are of that size."
            )
        h = features
        for layer in reversed(self.lower):
            mean = layer.visible_given(h)
            h = mean if generator is None or layer is self.layers[0] else bernoulli(mean, generator)
        return h

    def label_probabilities(
        self, images: Float[Tensor, "batch ..."], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch labels"]:
        """p(label | features), exact given the features: their means or, with a generator, a sample."""
        top = self.labelled_top()
        return torch.cat([top.label_probabilities(self.up(rows, generator)) for rows in images.split(1000)])

    def labelled_top(self) -> LabelledRBM:
        """The top RBM. ValueError if it has no label units."""
        if not isinstance(self.top, LabelledRBM):
            raise ValueError("this DBN has no label units: stack a LabelledRBM on top, DBN.of(sizes, labels=10).")
        return self.top

    def untied(self: D) -> D:
        """A copy whose lower layers have separate weights for the way up and the way down, equal at first."""
        lower = [layer if isinstance(layer, DirectedLayer) else DirectedLayer.like(layer) for layer in self.lower]
        return copy.deepcopy(type(self)([*lower, self.top]))

    def classifier(self, classes: int | None = None, *, generator: torch.Generator | None = None) -> nn.Sequential:
        """The way up as a feed-forward net that ends in logits: see `unrolled.classifier`."""
        return classifier(list(self.layers), classes, generator=generator)  # type: ignore[arg-type]

    def autoencoder(self) -> nn.Sequential:
        """Sequential(encoder, decoder) with a linear code: see `unrolled.autoencoder`."""
        return autoencoder(list(self.layers))  # type: ignore[arg-type]

    def config(self) -> dict:
        """The arguments of `of` that make a model of this shape. ValueError for a stack that `of` does not make."""
        for layer in self.layers:
            if type(layer) not in (RBM, LabelledRBM, DirectedLayer):
                raise ValueError(f"a stack with a {type(layer).__name__} is not saved whole: save each of its layers.")
        untied = any(isinstance(layer, DirectedLayer) for layer in self.lower)
        if untied and not all(isinstance(layer, DirectedLayer) for layer in self.lower):
            raise ValueError("a stack of which some layers are untied is not saved whole: save `dbn.untied()`.")
        return {"sizes": self.sizes, "labels": self.labels, "untied": untied}

    def save(self, path: str | Path) -> None:
        """Write the parameters to a safetensors file, atomically."""
        storage.save(self, path)

    @classmethod
    def load(cls: type[D], path: str | Path) -> D:
        """Read a DBN that `save` wrote. ValueError if the file holds another kind of model."""
        return storage.load(cls, path, make=cls.of)
