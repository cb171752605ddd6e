"""Gibbs chains as a film: play, pause and step, from data or from noise, with part of each image held if you like."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import ipywidgets as widgets
import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

PARTS = ("nothing", "top half", "bottom half", "left half", "right half")
HELD_TINT = np.array([0.34, 0.71, 0.91])  # Okabe and Ito's sky blue
WIDTH = 420  # pixels, about: the picture of all chains


@runtime_checkable
class Playable(Protocol):
    """The chains of a film: they advance, go back to Gibbs step 0, and hold a part of their images."""

    def advance(self, gibbs_steps: int = 1) -> None: ...

    def restart(self, from_noise: bool = False) -> None: ...

    def hold(self, part: str) -> None: ...


class Film(widgets.VBox):
    """The controls of `chains`; a subclass lays them out, and writes `draw`.

    ■ and the two restart buttons go back to Gibbs step 0: ■ to where the chains last began, at first to noise if
    `from_noise`. `step`, `data` and `noise` are words for the buttons; `interval` is in milliseconds.
    """

    def __init__(
        self,
        chains: Playable,
        *,
        from_noise: bool,
        step: str,
        data: str,
        noise: str,
        speeds: Sequence[int],
        interval: int,
    ):
        self._playable, self._from_noise = chains, from_noise
        self.play = widgets.Play(min=0, max=10**6, interval=interval, show_repeat=False)
        self.step_button = widgets.Button(description="Step", icon="step-forward", tooltip=step)
        self.data_button = widgets.Button(
            description=f"Start from {data}", tooltip="Put every chain back on its start image"
        )
        self.noise_button = widgets.Button(description="Start from noise", tooltip=noise)
        self.hold = widgets.Dropdown(options=PARTS, description="Hold", layout={"width": "200px"})
        self.speed = widgets.Dropdown(options=speeds, description="Steps a tick", layout={"width": "200px"})
        self.buttons = widgets.HBox([self.play, self.step_button, self.data_button, self.noise_button])
        self.caption = widgets.HTML()
        self.picture = widgets.Image(format="png")
        self.play.observe(self._tick, "value")
        self.step_button.on_click(lambda _: self._advance(1))
        self.data_button.on_click(lambda _: self._restart(False))
        self.noise_button.on_click(lambda _: self._restart(True))
        self.hold.observe(self._hold, "value")
        super().__init__()

    def draw(self) -> None:
        """Show the chains as they are now."""
        raise NotImplementedError

    def _tick(self, change: dict) -> None:
        if change["new"] == self.play.min:  # ■
            self._restart(self._from_noise)
        else:
            self._advance(self.speed.value)

    def _advance(self, gibbs_steps: int) -> None:
        self._playable.advance(gibbs_steps)
        self.draw()

    def _restart(self, from_noise: bool) -> None:
        self._from_noise = from_noise
        self._playable.restart(from_noise)
        self.draw()

    def _hold(self, change: dict) -> None:
        self._playable.hold(change["new"])
        self.draw()

    def _about_held(self) -> str:
        """A sentence for the caption."""
        return "" if self.hold.value == "nothing" else f" The {self.hold.value} of each image is held (blue)."


def held_pixels(shape: tuple[int, int], part: str) -> Bool[Tensor, " pixels"]:
    """Which pixels of an image of this shape are in `part`, one of PARTS."""
    row, column = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    top, left = row < shape[0] // 2, column < shape[1] // 2
    masks = {"nothing": row < 0, "top half": top, "bottom half": ~top, "left half": left, "right half": ~left}
    return masks[part].flatten()


def tinted(grey: UInt8[np.ndarray, "*shape"], held: Bool[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape 3"]:
    """Grey pixels as colours, blue where held."""
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    rgb[held] = (HELD_TINT * (0.35 + 0.65 * rgb[held] / 255) * 255).round()
    return rgb
