"""Gibbs chains of an RBM: started from data or from noise, all units free or some visible units clamped."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlkit.core.evaluation import on_device_of
from dlkit.models.rbm import RBM


@torch.no_grad()
def init_chains(
    rbm: RBM, chains: int, generator: torch.Generator | None = None, *, a: Float[Tensor, " visible"] | None = None
) -> Float[Tensor, "chains visible"]:
    """Starting states for Gibbs chains: each visible unit is sampled from its bias (or `a`) alone, as if W were 0."""
    a = rbm.a if a is None else on_device_of(rbm, a)
    return rbm.draw_visible(rbm.visible_mean(a.new_zeros(chains, rbm.visible), a), generator)


def chain(
    rbm: RBM,
    v: Float[Tensor, "chains visible"],
    *,
    generator: torch.Generator | None = None,
    clamped: Bool[Tensor, "..."] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Sample h ~ p(h|v), then v ~ p(v|h), without end; yields (v, mean of v given h), both (chains, visible).

    Where the mask `clamped`, (visible,) or (chains, visible), is True, v keeps its first value: the rest is inpainted.
    States and mask may be on any device: the chains are on the RBM's.
    """
    start = v = on_device_of(rbm, v).clone()
    clamped = None if clamped is None else on_device_of(rbm, clamped)
    while True:
        with torch.no_grad():
            h = rbm.draw_hidden(rbm.hidden_given(v), generator)
            mean = rbm.visible_given(h)
            v = rbm.draw_visible(mean, generator)
            if clamped is not None:
                v, mean = torch.where(clamped, start, v), torch.where(clamped, start, mean)
        yield v, mean


def gibbs(
    rbm: RBM,
    v: Float[Tensor, "chains visible"],
    *,
    steps: int,
    generator: torch.Generator | None = None,
    clamped: Bool[Tensor, "..."] | None = None,
) -> tuple[Float[Tensor, "chains visible"], Float[Tensor, "chains visible"]]:
    """State of the chains after `steps` Gibbs steps from `v`: a sample of v, and its mean given the hidden units."""
    if steps < 1:
        raise ValueError(f"{steps} Gibbs steps: at least 1 is needed.")
    states = chain(rbm, v, generator=generator, clamped=clamped)
    for _ in range(steps - 1):
        next(states)
    return next(states)
