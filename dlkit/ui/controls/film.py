"""A film of chains: play, pause and step, from data or from noise, with part of each image held if you like."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import ipywidgets as widgets
import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

PARTS = ("nothing", "top half", "bottom half", "left half", "right half")
HELD_TINT = np.array([0.34, 0.71, 0.91])  # Okabe and Ito's sky blue
WIDTH = 420  # pixels, about


@runtime_checkable
class Moving(Protocol):
    """Chains that a film shows: they move, go back to step 0, and hold a part of their images."""

    def advance(self, steps: int = 1) -> None: ...

    def restart(self, from_noise: bool = False) -> None: ...

    def hold(self, part: str) -> None: ...


class Film(widgets.VBox):
    """The controls of `moving`; a subclass lays them out and draws.

    ■ and the two restart buttons go back to step 0: ■ to where the chains last began, at first from noise if
    `from_noise`. `step`, `data` and `noise` are what the buttons' tooltips and names say; `interval` is in ms.
    """

    def __init__(
        self,
        moving: Moving,
        *,
        from_noise: bool,
        step: str,
        data: str,
        noise: str,
        speeds: Sequence[int],
        interval: int,
    ):
        self._moving, self._from_noise = moving, from_noise
        self.play = widgets.Play(min=0, max=10**6, interval=interval, show_repeat=False)
        self.step = widgets.Button(description="Step", icon="step-forward", tooltip=step)
        self.data = widgets.Button(description=f"Start from {data}", tooltip="Put every chain back on its start image")
        self.noise = widgets.Button(description="Start from noise", tooltip=noise)
        self.hold = widgets.Dropdown(options=PARTS, description="Hold", layout={"width": "200px"})
        self.speed = widgets.Dropdown(options=speeds, description="Steps a tick", layout={"width": "200px"})
        self.caption = widgets.HTML()
        self.picture = widgets.Image(format="png")
        self.play.observe(self._tick, "value")
        self.step.on_click(lambda _: self._advance(1))
        self.data.on_click(lambda _: self._restart(False))
        self.noise.on_click(lambda _: self._restart(True))
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

    def _advance(self, steps: int) -> None:
        self._moving.advance(steps)
        self.draw()

    def _restart(self, from_noise: bool) -> None:
        self._from_noise = from_noise
        self._moving.restart(from_noise)
        self.draw()

    def _hold(self, change: dict) -> None:
        self._moving.hold(change["new"])
        self.draw()

    def _buttons(self) -> widgets.HBox:
        return widgets.HBox([self.play, self.step, self.data, self.noise])

    def _held(self) -> str:
        """A sentence for the caption."""
        return "" if self.hold.value == "nothing" else f" The {self.hold.value} of each image is held (blue)."


def held_pixels(shape: tuple[int, int], part: str) -> Bool[Tensor, " pixels"]:
    """The pixels of an image of this shape that are in `part`, one of PARTS."""
    row, column = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    top, left = row < shape[0] // 2, column < shape[1] // 2
    masks = {"nothing": row < 0, "top half": top, "bottom half": ~top, "left half": left, "right half": ~left}
    return masks[part].flatten()


def tinted(grey: UInt8[np.ndarray, "*shape"], held: Bool[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape 3"]:
    """Grey pixels as colours, blue where held."""
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    rgb[held] = (HELD_TINT * (0.35 + 0.65 * rgb[held] / 255) * 255).round()
    return rgb
