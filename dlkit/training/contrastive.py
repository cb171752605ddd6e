"""Contrastive divergence: the gradient of an RBM's log-likelihood, its model half from a short Gibbs chain."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dlkit.core.random import sharded
from dlkit.core.slices import Slice, slice_of
from dlkit.data import check
from dlkit.data.batch import Batch
from dlkit.models.gibbs_chains import init_chains
from dlkit.models.rbm import RBM, GaussianRBM
from dlkit.training.learner import Learner, Metrics, check_model


@dataclass
class CD(Learner):
    """CD-k: the chain starts at the batch. Fills .grad with <∂E/∂θ>_data - <∂E/∂θ>_chain.

    Hidden units are always sampled on the way, and their probabilities used at both ends; visible units are
    sampled if `sample_visible`, else their means stand in for them (Hinton's recipe: less noise, more bias), save
    where their variance is learned: means vary less than samples, and the variance would grow without end.
    Reports `loss`, the squared error of the first reconstruction per image.

    `centred`: the gradient of the centred RBM, carried back to W, a, b; offsets follow the data with rate 0.01.
    `sparsity_target`: the hidden units' wanted mean activity p; `sparsity_cost` weighs the pull towards it, q - p,
    the gradient of the cross-entropy between p and the batch's activity q.
    `visible_bias_from_data`: False to leave a as it is, as an RBM needs that goes on from weights of its own.
    `products="bfloat16"`: the matrix products in bfloat16; weights, sums and sampling stay in float32.

    Sources: Hinton 2002, Training products of experts; Hinton 2010, §3 and §11; Melchior, Fischer, Wiskott 2016,
    How to center deep Boltzmann machines, algorithm 1.
    """

    k: int = 1
    centred: bool = False
    sample_visible: bool = False
    sparsity_target: float | None = None
    sparsity_cost: float = 0.1
    visible_bias_from_data: bool = True
    products: str = "float32"

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f"CD-{self.k}: k must be at least 1.")
        if self.products not in ("float32", "bfloat16"):
            raise ValueError(f'products="{self.products}": "float32" (the weights\' own) or "bfloat16".')
        if self.sparsity_target is not None and not 0 < self.sparsity_target < 1:
            raise ValueError(f"a sparsity target of {self.sparsity_target}: 0.01 to 0.1 is usual.")

    @torch.no_grad()
    def start(self, model: RBM, data: Batch, batch_size: int, generator: torch.Generator) -> None:
        """Set the visible bias from the data, and the offsets and activities that averages are kept of."""
        check_model(model, RBM, "contrastive divergence")
        if self.products == "bfloat16" and data.images.dtype == torch.float64:
            raise ValueError('products="bfloat16" are of float32 numbers: leave it out, or dtype=torch.float64.')
        labels = data.labels if model.labels else None
        check(data.images, labels, shape=(model.features,), values=model.pixel_range, classes=model.labels)
        images = model.encode_visible(data.images, data.labels)
        if self.visible_bias_from_data:
            model.set_visible_bias(images)
        first = images[:1000]
        if self.centred:
            self.state["visible_offset"] = model.scaled(images.mean(0, keepdim=True))[0]
            self.state["hidden_mean"] = model.hidden_given(first).mean(0)

    @torch.no_grad()
    def fill_grad(self, model: RBM, batch: Batch, generator: torch.Generator) -> Metrics:
        """Set .grad of W, a, b (and of a learned variance) from one batch; images and chains have their own weights."""
        x = model.encode_visible(batch.images, batch.labels)
        bf16 = self.products == "bfloat16"
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            input_x = model.hidden_input(x)
            positive = model.hidden_mean(input_x)
            v, reconstruction = self.chain(model, positive, generator)
            chain_weight = self.chain_weight(batch)
            input_v = model.hidden_input(v)
            negative = model.hidden_mean(input_v)
            # One call for both halves: one product twice as deep, which bfloat16 rounds once, after the difference.
            halves = torch.cat([x, v]), torch.cat([positive, negative])
            weight = difference(batch.weight / len(x), len(x), chain_weight / len(v), len(v), x.dtype, x.device)
            gradient = model.energy_gradient(*halves, weight)
        if self.centred:
            self.state["hidden_mean"].lerp_(positive.mean(0), 0.01)
            self.state["visible_offset"].lerp_(model.scaled(x.mean(0, keepdim=True))[0], 0.01)
            self.centre(gradient)
        if self.sparsity_target is not None:
            # This batch's activity q: a running mean lags, and the pull then overshoots until units die.
            pull = self.sparsity_cost * (positive.mean(0) - self.sparsity_target)
            gradient["b"] += pull
            gradient["W"].addr_(model.scaled(x.mean(0, keepdim=True))[0], pull)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.grad = gradient[name]
        if reconstruction is not None:
            return {"loss": F.mse_loss(x, reconstruction, reduction="sum") / len(x) * batch.weight}
        of_data, of_chains = model.free_energy_given(x, input_x).mean(), model.free_energy_given(v, input_v).mean()
        return {"loss": of_data * batch.weight - of_chains * chain_weight}

    def why_not_finite(self, model: RBM, data: Batch, lr: float) -> str:
        """If variances are learned: which pixels vary too little for it, as gradients go with 1/variance."""
        if not isinstance(model, GaussianRBM) or not model.log_variance.requires_grad:
            return super().why_not_finite(model, data, lr)
        little, pixels = int((data.images.flatten(1).var(0) <= 10 * lr).sum()), model.features
        if not little:
            return super().why_not_finite(model, data, lr)
        leave_out = f"or leave them out, `images[:, images.var(0) > {10 * lr:g}]`, " if little < pixels else ""
        return (
            f"{little} of {pixels} pixels vary too little for their variance to be learned at lr={lr:g}, those whose "
            f"own is at most {10 * lr:g}: fix it, GaussianRBM(..., learn_variance=False), {leave_out}"
            "or try a smaller lr"
        )

    def fill_weighted_grad(self, model: RBM, batch: Batch, generator: torch.Generator) -> Metrics:
        """The same: persistent chains may be split otherwise than the batch, so `fill_grad` applies both weights."""
        return self.fill_grad(model, batch, generator)

    def split(self, rank: int, world_size: int) -> dict[str, Slice]:
        """ValueError where means over the whole batch enter by products, which no sum over its parts gives."""
        for wanted, name in ((self.centred, "centred=True"), (self.sparsity_target is not None, "a sparsity target")):
            if wanted:
                raise ValueError(f"{name} needs the means of a whole batch, and a rank sees a part: leave it out.")
        return {}

    def chain_weight(self, batch: Batch) -> float:
        """The part of all chains that is on this rank: they start at the batch, and are split as it is."""
        return batch.weight

    def chain(
        self, model: RBM, positive: Float[Tensor, "batch hidden"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "chains visible"], Float[Tensor, "batch visible"] | None]:
        """The end of k Gibbs steps from the batch, and the batch's first reconstruction where there is one."""
        reconstruction = mean = model.visible_given(model.draw_hidden(positive, generator))
        v = self.visible_state(model, mean, generator)
        for _ in range(self.k - 1):
            mean = model.visible_given(model.draw_hidden(model.hidden_given(v), generator))
            v = self.visible_state(model, mean, generator)
        return v, reconstruction

    def visible_state(self, model: RBM, mean: Tensor, generator: torch.Generator) -> Tensor:
        spread_learned = isinstance(model, GaussianRBM) and model.log_variance.requires_grad
        return model.draw_visible(mean, generator) if self.sample_visible or spread_learned else mean

    def centre(self, gradient: dict[str, Tensor]) -> None:
        """From the gradient of the RBM to the centred one's, expressed in the RBM's own parameters."""
        mu, lam = self.state["visible_offset"], self.state["hidden_mean"]
        W = gradient["W"].addr_(mu, gradient["b"], alpha=-1).addr_(gradient["a"], lam, alpha=-1)
        gradient["a"] -= W @ lam
        gradient["b"] -= mu @ W


@cache
def difference(
    positive: float, images: int, negative: float, chains: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, " both"]:
    """`positive` for each image, and less `negative` for each chain."""
    parts = [(images, positive), (chains, -negative)]
    return torch.cat([torch.full((count,), value, dtype=dtype, device=device) for count, value in parts])


@dataclass
class PCD(CD):
    """Persistent CD: the chains go on from step to step, `chains` of them (as many as the batch by default).

    Visible and hidden units are both sampled. Reports `loss`, the mean free energy of the batch less that of the
    chains, in nats: near 0 while the chains keep up with the model.
    Source: Tieleman 2008, Training restricted Boltzmann machines using approximations to the likelihood gradient.
    """

    sample_visible: bool = True
    chains: int | None = None
    part: Slice | None = field(default=None, init=False, repr=False)

    def __post_init__(self):
        super().__post_init__()
        if self.chains is not None and self.chains < 1:
            raise ValueError(f"{self.chains} chains: at least 1 is needed, or None for as many as the batch.")

    @torch.no_grad()
    def start(self, model: RBM, data: Batch, batch_size: int, generator: torch.Generator) -> None:
        """As for CD; the chains start from the visible bias alone."""
        super().start(model, data, batch_size, generator)
        self.state["chains"] = init_chains(model, self.chains or batch_size, generator)

    def chain(
        self, model: RBM, positive: Float[Tensor, "batch hidden"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "chains visible"], None]:
        """k more Gibbs steps of the persistent chains."""
        v = self.state["chains"]
        with sharded(generator, self.part):
            for _ in range(self.k):
                mean = model.visible_given(model.draw_hidden(model.hidden_given(v), generator))
                v = self.visible_state(model, mean, generator)
        self.state["chains"].copy_(v)
        return v, None

    def split(self, rank: int, world_size: int) -> dict[str, Slice]:
        """Each rank keeps its slice of the chains. ValueError if there are fewer chains than ranks."""
        return super().split(rank, world_size) | keep_chains(self, rank, world_size)

    def chain_weight(self, batch: Batch) -> float:
        """The part of all chains that is on this rank: they were split once, at the start."""
        return 1.0 if self.part is None else self.part.count / self.part.whole


def keep_chains(learner: Any, rank: int, world_size: int) -> dict[str, Slice]:
    """Leave this rank its slice of the persistent chains in `learner.state`, and set `learner.part` to it."""
    chains = learner.state["chains"]
    if len(chains) < world_size:
        raise ValueError(f"{len(chains)} chains for {world_size} ranks: give each at least one.")
    learner.part = slice_of(len(chains), rank, world_size)
    learner.state["chains"] = chains[learner.part.start : learner.part.stop].clone()
    return {"chains": learner.part}
