"""Learning by backpropagation: to predict labels, or to reconstruct the input."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.core.evaluation import forward_eval, logits
from dlkit.core.matmul import fast_linear
from dlkit.core.random import bernoulli
from dlkit.core.slices import Slice
from dlkit.data import check
from dlkit.data.batch import Batch
from dlkit.models.autoencoder import Autoassociator
from dlkit.training.distortions import Distortion
from dlkit.training.learner import Backprop, Metrics


@dataclass
class CrossEntropy(Backprop):
    """Any net from images to logits (batch, classes). Reports `loss`, in nats, and `error`, in percent.

    `distortion`: what happens to the images of each batch first, such as `InputDropout()` or `Affine()`; a function
    of your own takes images and a generator, from which it draws all its random numbers.
    `rubbish`: the constant j of LeCun, Bottou, Bengio, Haffner (1998), equation 9: one more class, of logit -j, that no
    image belongs to. A net whose logits are distances (`LeNet5`) must then bring the right one below j, and not merely
    below the others.
    """

    distortion: Distortion | None = None
    rubbish: float | None = None

    @torch.no_grad()
    def start(self, model: nn.Module, data: Batch, batch_size: int, generator: torch.Generator) -> None:
        """Refuse labels that are missing or that the net has no class for."""
        if data.labels is None:
            raise ValueError("the data have no labels: give (images, labels).")
        classes = logits(model, data.images[:1]).shape[1]
        check(data.images, data.labels, values=None, classes=classes)

    def inputs(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The images, distorted if there is a distortion."""
        return batch.images if self.distortion is None else self.distortion(batch.images, generator)

    def loss(self, output: Float[Tensor, "batch classes"], batch: Batch) -> tuple[Tensor, Metrics]:
        """-log p(label | image), and the percentage of images whose label is not the most probable one."""
        assert batch.labels is not None  # `start` has seen to it
        scores = output if self.rubbish is None else F.pad(output, (0, 1), value=-self.rubbish)
        loss = F.cross_entropy(scores, batch.labels)
        wrong = output.detach().argmax(1) != batch.labels
        return loss, {"loss": loss, "error": 100 * wrong.float().mean()}


@dataclass
class OwnCost(Backprop):
    """Any net whose output is its own cost, one number for each image, such as `RICAStage`. Reports `loss`, its mean.

    TypeError or ValueError if the net gives something else.
    """

    @torch.no_grad()
    def start(self, model: nn.Module, data: Batch, batch_size: int, generator: torch.Generator) -> None:
        """Refuse a net that gives something else than a number for each image."""
        images = data.images[:TRIED]
        output = forward_eval(model, images)
        if not isinstance(output, Tensor) or tuple(output.shape) != (len(images),):
            given = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ValueError(
                f"{type(model).__name__} gives {given} for {len(images)} images: OwnCost trains nets that give a cost "
                "for each image, (batch,); for labels use CrossEntropy, for images that come back Reconstruction."
            )

    def loss(self, output: Float[Tensor, "batch"], batch: Batch) -> tuple[Tensor, Metrics]:
        """The mean of the costs."""
        loss = output.mean()
        return loss, {"loss": loss}


TRIED = 5  # images that show what a net takes: one may be taken for the maps of an image
SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "rows": lambda images: images.flatten(1),
    "as they are": lambda images: images,
    "one map": lambda images: images[:, None],
}


@dataclass
class Reconstruction(Backprop):
    """Any net that gives its input back: an autoencoder, or one layer that is to become part of a stack.

    The net is given rows of pixels if it takes them; if it takes maps, as a convolutional autoencoder does, images of
    (height, width) are given as one map each. It may give rows or maps back.
    `corruption`: the part of the inputs that is set to 0 before the net sees them; it has to fill them in.
    `sparsity_target`, `sparsity_cost`: for an Autoassociator, the wanted mean activity of the hidden units, and the
    weight of the cross-entropy between it and the batch's.
    Reports `loss`: by `cost` the cross-entropy of pixels in [0, 1], in nats, or the squared error, both an image.
    Sources: Vincent, Larochelle, Bengio, Manzagol 2008, Extracting and composing robust features with denoising
    autoencoders, §2; Ng 2011, Sparse autoencoder, §3.
    """

    cost: str = "cross-entropy"
    corruption: float = 0.0
    sparsity_target: float | None = None
    sparsity_cost: float = 0.1

    _shape = "rows"  # one of SHAPES: `start` finds out which

    def __post_init__(self):
        if self.cost not in ("cross-entropy", "squared"):
            raise ValueError(f'cost="{self.cost}": "cross-entropy" for pixels in [0, 1], or "squared".')
        if not 0 <= self.corruption < 1:
            raise ValueError(f"a corruption of {self.corruption}: from 0 up to, but not, 1; 0.25 is usual.")
        if self.sparsity_target is not None and not 0 < self.sparsity_target < 1:
            raise ValueError(f"a sparsity target of {self.sparsity_target}: 0.01 to 0.1 is usual.")

    @torch.no_grad()
    def start(self, model: nn.Module, data: Batch, batch_size: int, generator: torch.Generator) -> None:
        """Refuse images outside of the range of this cost, and a net whose output is not of the size of its input."""
        if self.sparsity_target is not None and not isinstance(model, Autoassociator):
            raise TypeError(f"a sparsity target is for an Autoassociator, and this is a {type(model).__name__}.")
        check(data.images, values=(0.0, 1.0) if self.cost == "cross-entropy" else None)
        self._shape = self._shape_taken(model, data.images[:TRIED])

    def _shape_taken(self, model: nn.Module, images: Tensor) -> str:
        """How the net takes images, of SHAPES, by trial; where rows do as well as images, rows."""
        refusal: ValueError | None = None
        for name in ("as they are", "one map") if images.ndim == 3 else ("as they are",):
            x = SHAPES[name](images)
            try:
                output = forward_eval(model, x)
            except ValueError as error:
                refusal = refusal or error
                continue
            given = tuple(output.shape[1:]) if isinstance(output, Tensor) else f"a {type(output).__name__}"
            if given in (tuple(x.shape[1:]), tuple(images.shape[1:])):
                return name
            if given == (images[0].numel(),):
                return "rows" if self._takes_rows(model, images, output) else name
            if isinstance(given, tuple) and len(given) == 1:
                pixels = images[0].numel()
                refusal = ValueError(
                    f"the net gives {given[0]} values for images of {pixels} pixels: it must give as many back."
                )
            else:
                shape = tuple(x.shape[1:])
                refusal = ValueError(f"the net gives {given} for images of {shape}: it must give this shape back.")
        assert refusal is not None  # each shape was refused
        raise refusal

    def _takes_rows(self, model: nn.Module, images: Tensor, output: Tensor) -> bool:
        """Whether the net gives the same for rows of pixels."""
        try:
            return torch.equal(forward_eval(model, images.flatten(1)), output)
        except ValueError:
            return False

    def fill_grad(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Metrics:
        """Backpropagate the cost of the reconstruction, and of hidden units that are too active."""
        if self.sparsity_target is None or not isinstance(model, Autoassociator):
            return super().fill_grad(model, batch, generator)
        model.zero_grad()
        x = self.own_inputs(batch, generator)
        with fast_linear(model, len(x)):
            h = model.hidden_given(x)
            output = model.visible_given(h)
        p, q = self.sparsity_target, h.mean(0).clamp(1e-6, 1 - 1e-6)
        penalty = -self.sparsity_cost * (p * q.log() + (1 - p) * (1 - q).log()).sum()
        loss, metrics = self.weighted_loss(output, batch)
        (loss + penalty).backward()
        return metrics

    def inputs(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The images as the net takes them; some pixels are set to 0 if there is a corruption."""
        x = SHAPES[self._shape](batch.images)
        return x * bernoulli(torch.full_like(x, 1 - self.corruption), generator) if self.corruption else x

    def loss(self, output: Float[Tensor, "batch ..."], batch: Batch) -> tuple[Tensor, Metrics]:
        """The cost of the reconstruction, per image."""
        x = batch.images.flatten(1)
        cost = F.mse_loss if self.cost == "squared" else F.binary_cross_entropy
        loss = cost(output.flatten(1), x, reduction="sum") / len(x)
        return loss, {"loss": loss}

    def split(self, rank: int, world_size: int) -> dict[str, Slice]:
        """ValueError with a sparsity target, which is of a whole batch's mean activity."""
        if self.sparsity_target is not None:
            raise ValueError(
                "a sparsity target needs the mean activity of a whole batch, and a rank sees a part: leave it out."
            )
        return {}
