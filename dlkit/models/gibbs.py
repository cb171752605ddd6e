"""Gibbs chains of an RBM: from data, from noise, or with part of the image held."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlkit.models.rbm import RBM


@torch.no_grad()
def noise(
    rbm: RBM, chains: int, generator: torch.Generator | None = None, *, a: Float[Tensor, " visible"] | None = None
) -> Float[Tensor, "chains visible"]:
    """A start for `chains` chains that knows nothing of W: each visible unit drawn from its bias (or `a`) alone."""
    a = rbm.a if a is None else a
    return rbm.draw_visible(rbm.visible_mean(a.new_zeros(chains, rbm.visible), a), generator)


def chain(
    rbm: RBM,
    v: Float[Tensor, "chains visible"],
    *,
    generator: torch.Generator | None = None,
    clamped: Bool[Tensor, "..."] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Alternate h ~ p(h|v), v ~ p(v|h) for ever, yielding (v, mean of v given h), both (chains, visible).

    Where `clamped` (visible,) or (chains, visible) is True the first v is held: the rest is inpainted.
    """
    held = v.clone()
    while True:
        with torch.no_grad():
            h = rbm.draw_hidden(rbm.hidden_given(v), generator)
            mean = rbm.visible_given(h)
            v = rbm.draw_visible(mean, generator)
            if clamped is not None:
                v, mean = torch.where(clamped, held, v), torch.where(clamped, held, mean)
        yield v, mean


def gibbs(
    rbm: RBM,
    v: Float[Tensor, "chains visible"],
    *,
    steps: int,
    generator: torch.Generator | None = None,
    clamped: Bool[Tensor, "..."] | None = None,
) -> tuple[Float[Tensor, "chains visible"], Float[Tensor, "chains visible"]]:
    """The state after `steps` Gibbs steps from `v`: a sample, and its mean given the hidden units before it."""
    if steps < 1:
        raise ValueError(f"{steps} Gibbs steps: at least 1 is needed.")
    states = chain(rbm, v, generator=generator, clamped=clamped)
    for _ in range(steps - 1):
        next(states)
    return next(states)
