"""A DBN's dreams: Gibbs steps of the top layer, each painted by a way down to the pixels."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from dlkit.models.dbn import DBN
from dlkit.models.gibbs import noise
from dlkit.models.top_rbms import LabelledRBM


class Dream(NamedTuple):
    """`images` (chains, pixels) as means, `labels` (chains, labels) as probabilities, if any; `state` of the top."""

    images: Float[Tensor, "chains pixels"]
    labels: Float[Tensor, "chains labels"] | None
    state: Float[Tensor, "chains visible"]


@torch.no_grad()
def init_dream(
    dbn: DBN,
    *,
    chains: int | None = None,
    images: Float[Tensor, "chains ..."] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "chains visible"]:
    """A state of the top's visible units to dream from: `chains` of noise, or what `images` come to on the way up."""
    if chains is not None and chains < 1:
        raise ValueError(f"{chains} chains: at least 1 is needed.")
    if (chains is None) == (images is None):
        raise ValueError("give chains=, a number of chains from noise, or images= to start from: one of the two.")
    if images is None:
        return noise(dbn.top, chains or 1, generator)
    features = dbn.up(images, generator)
    if isinstance(dbn.top, LabelledRBM):
        return torch.cat([features, dbn.top.label_probabilities(features)], dim=1)
    return features


def dream(
    dbn: DBN,
    state: Float[Tensor, "chains visible"],
    *,
    label: int | Int64[Tensor, " chains"] | None = None,
    images: Float[Tensor, "chains ..."] | None = None,
    clamped: Bool[Tensor, "..."] | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Dream]:
    """Alternate the top's hidden and visible units for ever, yielding what each step paints.

    label: hold this label's unit on (one for all chains, or one each). clamped: where True, (pixels,) or (chains,
    pixels), the pixels of `images` are held: each step then goes down, puts them in, and comes up again.
    ValueError at the first step for a label that is out of range, or on a DBN without labels.
    """
    if state.shape[1] != dbn.top.visible:
        raise ValueError(
            f"a state of {state.shape[1]} units for a top of {dbn.top.visible}: "
            "make one by `init_dream(dbn, images=...)`."
        )
    held = _one_hot(dbn, label, len(state))
    if (clamped is None) != (images is None):
        raise ValueError("images= and clamped= go together: the pixels to hold, and the mask of where.")
    if clamped is not None and images is not None and clamped.shape[-1] != dbn.sizes[0]:
        raise ValueError(
            f"clamped has shape {tuple(clamped.shape)} and an image {dbn.sizes[0]} pixels: give it as (pixels,) or "
            "(chains, pixels), by `mask.flatten()`."
        )
    top = dbn.top
    with torch.no_grad():
        state = _with_labels(dbn, state, held)
    while True:
        with torch.no_grad():
            mean = top.visible_given(top.draw_hidden(top.hidden_given(state), generator))
            state = _with_labels(dbn, top.draw_visible(mean, generator), held)
            picture = dbn.down(state[:, : top.features])
            if clamped is not None and images is not None:
                picture = torch.where(clamped, images.flatten(1), picture)
                state = torch.cat([dbn.up(picture, generator), state[:, top.features :]], dim=1)
            labels = mean[:, top.features :] if held is None else held
        yield Dream(picture, labels if dbn.labels else None, state)


def _one_hot(dbn: DBN, label: int | Tensor | None, chains: int) -> Tensor | None:
    if label is None:
        return None
    top = dbn.labelled_top()
    wanted = torch.as_tensor(label, device=top.W.device).expand(chains)
    if wanted.min() < 0 or wanted.max() >= top.labels:
        raise ValueError(f"label {label} is out of range: this DBN knows 0 to {top.labels - 1}.")
    return F.one_hot(wanted.long(), top.labels).to(top.W.dtype)


def _with_labels(dbn: DBN, state: Tensor, held: Tensor | None) -> Tensor:
    return state if held is None else torch.cat([state[:, : dbn.top.features], held], dim=1)
