"""Greedy layer-wise pre-training: a list of experiments, one a layer."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from dlkit.core.evaluation import on_device_of
from dlkit.core.random import bernoulli
from dlkit.data.batch import Batch
from dlkit.data.sources import resolve
from dlkit.models.unrolled import check_stack
from dlkit.training.experiment import Experiment
from dlkit.training.run import Callback


def pretrain(
    layers: Sequence[Experiment],
    *,
    run: Callable[..., Any] = Experiment.run,
    stochastic: bool = False,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    device: str | torch.device | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> list[Any]:
    """Train each layer on what the one below makes of the images, from the bottom up; return the runs.

    `layers[0].data` are the images; of the others `data` is replaced (write None), and each layer's model must have
    `hidden_given`. Each layer's features are computed once: their means or, if `stochastic`, one sample of them.
    `checkpoint` is a folder, with a folder in it for each layer; the rest is as for `Experiment.run`.
    `run` is what trains each: partial(cluster.run, strategy=DataParallel()) does it on a cluster.
    An interrupt ends the layer it meets and the layers above are not begun: `runs[-1].stopped` says so.
    ValueError if there are no layers, if they do not chain, or if one has label units and the data have no labels.
    Source: Bengio, Lamblin, Popovici, Larochelle 2007, Greedy layer-wise training of deep networks.
    """
    if not layers:
        raise ValueError("an empty stack: give one experiment at least, that of the layer next to the images.")
    data = resolve(layers[0].data)
    _check(layers, data)
    runs: list[Any] = []
    for number, layer in enumerate(layers, 1):
        folder = Path(checkpoint) / f"layer-{number}" if checkpoint is not None else None
        if runs:
            generator = torch.Generator().manual_seed(layer.seed) if stochastic else None
            data = Batch(features(runs[-1].model, data.images, generator, progress), data.labels)
        trained = run(
            replace(layer, data=data),
            checkpoint=folder,
            checkpoint_every=checkpoint_every,
            resume=resume,
            device=device,
            callbacks=callbacks,
            progress=progress,
        )
        runs.append(trained)
        if trained.stopped == "interrupted":
            break
    return runs


def _check(layers: Sequence[Experiment], data: Batch) -> None:
    """Refuse a stack that would only fail when its lower layers have been trained."""
    with torch.random.fork_rng(devices=[]):
        models: list[Any] = [layer.model() for layer in layers]
    for number, model in enumerate(models, 1):
        if number < len(models) and not hasattr(model, "hidden_given"):
            kind = type(model).__name__
            raise ValueError(f"layer {number}, a {kind}, has no hidden_given: the next layer would have no inputs.")
        if getattr(model, "labels", None) and data.labels is None:
            raise ValueError(
                f"layer {number} has {model.labels} label units, but the data have no labels: give (images, labels)."
            )
    if all(hasattr(model, "features") and hasattr(model, "hidden") for model in models):
        check_stack([(model.features, model.hidden) for model in models])


def layer_experiments(sizes: Sequence[int], kind: Callable[..., nn.Module], like: Experiment) -> list[Experiment]:
    """Experiments for `pretrain`: `kind(visible, hidden)` for each pair of sizes, all else as in `like`."""
    lowest, *others = (replace(like, model=partial(kind, *pair)) for pair in pairwise(sizes))
    return [lowest, *(replace(layer, data=None) for layer in others)]


@torch.no_grad()
def features(
    layer: nn.Module,
    images: Float[Tensor, "batch ..."],
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> Float[Tensor, "batch *hidden"]:
    """What a layer makes of many images, a thousand at a time: the means of its units, with a generator samples.

    The images may be on any device; the features are on the layer's.
    """
    up: Callable[[Tensor], Tensor] = layer.hidden_given  # type: ignore[assignment]
    parts = []
    for part in tqdm(images.split(1000), disable=not progress, unit="thousand images", delay=2, leave=False):
        h = up(on_device_of(layer, part.flatten(1)))
        parts.append(h if generator is None else bernoulli(h, generator))
    return torch.cat(parts)
