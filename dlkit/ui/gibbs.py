"""Gibbs chains of an RBM to watch, from data or from noise, with part of each image held if you like."""

import math

import ipywidgets as widgets
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dlkit.models.gibbs_chains import chain, init_chains
from dlkit.models.rbm import RBM
from dlkit.ui.controls.elements import put
from dlkit.ui.controls.film import WIDTH, Film, held_pixels, tinted
from dlkit.ui.draw.pictures import GREY, enlarged, tile


class Chains:
    """Gibbs chains of an RBM, one for each start image (chains, pixels); they can be restarted, and held in part.

    `v` (chains, pixels) is the present sample, `mean` the mean of the visible units from which it was drawn, and
    `gibbs_steps` the number of steps since the start. A held pixel has the value of the start image, also in chains
    that start from noise.
    """

    def __init__(self, rbm: RBM, start: Float[Tensor, "chains pixels"], shape: tuple[int, int], seed: int = 0):
        if start.shape[1] != rbm.visible or shape[0] * shape[1] != rbm.visible:
            raise ValueError(
                f"start images of {start.shape[1]} pixels and shape={shape} for an RBM of {rbm.visible} visible units: "
                "all three must be of one size."
            )
        self.rbm, self.start, self.shape = rbm, start.to(rbm.W.device), shape
        self.generator = torch.Generator(rbm.W.device).manual_seed(seed)
        self.held = held_pixels(shape, "nothing").to(rbm.W.device)
        self.restart()

    def __repr__(self) -> str:
        return f"Chains({len(self.v)} chains of {self.rbm}, step {self.gibbs_steps})"

    def restart(self, from_noise: bool = False) -> None:
        """Go back to Gibbs step 0: to the start images, or to noise in every pixel that is not held."""
        v = init_chains(self.rbm, len(self.start), self.generator) if from_noise else self.start
        self.gibbs_steps = 0
        self._go_on_from(v, v)

    def hold(self, part: str) -> None:
        """Hold the pixels in `part`, one of PARTS, at the start images' values; let all others move."""
        self.held = held_pixels(self.shape, part).to(self.start.device)
        self._go_on_from(self.v, self.mean)

    def _go_on_from(self, v: Tensor, mean: Tensor) -> None:
        self.v, self.mean = (torch.where(self.held, self.start, x) for x in (v, mean))
        self._samples = chain(self.rbm, self.v, generator=self.generator, clamped=self.held)

    def advance(self, gibbs_steps: int = 1) -> None:
        for _ in range(gibbs_steps):
            self.v, self.mean = next(self._samples)
        self.gibbs_steps += gibbs_steps

    def free_energy(self) -> float:
        """Mean free energy of the chains' samples, in nats."""
        with torch.no_grad():
            return float(self.rbm.free_energy(self.v).mean())

    def picture(self, means: bool = False) -> UInt8[np.ndarray, "rows columns 3"]:
        """All chains in one picture, about 420 pixels wide; held pixels are blue."""
        columns = math.ceil(math.sqrt(len(self.v)))
        zoom = max(1, WIDTH // (columns * self.shape[1]))

        def tiled(x: Tensor) -> UInt8[np.ndarray, "rows columns"]:
            return np.pad(tile(enlarged(x.view(-1, *self.shape), zoom), columns, gap=3), 3, constant_values=GREY)

        grey = tiled(self.mean if means else self.v)
        held = tiled(self.held.float().expand_as(self.v)) == 255
        return tinted(grey, held)


class GibbsPlayer(Film):
    """Gibbs chains of `rbm` as a film, from the images `start` (chains, height, width) or (chains, pixels).

    ■ and the two restart buttons go back to step 0. The held part of each image stays as it is in `start`.
    ValueError if the start images, `shape` and the RBM are not of one size.
    """

    def __init__(self, rbm: RBM, start: Float[Tensor, "chains ..."], shape: tuple[int, int], seed: int = 0):
        self.chains = Chains(rbm, start.flatten(1), shape, seed)
        super().__init__(
            self.chains,
            from_noise=False,
            step="One Gibbs step",
            data="data",
            noise="Random pixels, but for those held",
            speeds=[1, 10, 100],
            interval=100,
        )
        self._at_start = self.chains.free_energy()
        self.show = widgets.Dropdown(options=["samples", "means"], description="Show", layout={"width": "200px"})
        self.show.observe(lambda _: self.draw(), "value")
        self.draw()
        self.children = [
            self.buttons,
            widgets.HBox([self.hold, self.show, self.speed]),
            self.caption,
            self.picture,
        ]

    def __repr__(self) -> str:
        return f"GibbsPlayer({len(self.chains.v)} chains of {self.chains.rbm})"

    def draw(self) -> None:
        put(self.chains.picture(means=self.show.value == "means"), self.picture)
        self.caption.value = (
            f"{len(self.chains.v)} chains, step {self.chains.gibbs_steps:,}: mean free energy "
            f"{self.chains.free_energy():.1f} nats; the start images' is {self._at_start:.1f}.{self._about_held()}"
        )
