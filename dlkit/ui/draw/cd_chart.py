"""A training by contrastive divergence as a figure that is redrawn fast."""

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from dlkit.analysis.cd_bias import BEST, KS, UPDATES, CDTraining
from dlkit.ui.draw.pictures import BLACK, BLUE, ORANGE, VERMILION, enlarged, png, tile


class CDChart:
    """Three panels: the likelihood during the training, the gradient's direction at the end, the likeliest images.

    Axes and texts are drawn once; `png` redraws only the rest, in some 10 ms where a whole figure takes 100.
    """

    def __init__(self):
        figure = Figure(figsize=(10, 3.2), dpi=90, layout="constrained")
        self.canvas = FigureCanvasAgg(figure)
        likelihood, direction, images = figure.subplots(1, 3, width_ratios=[3, 2.2, 2])
        for ax in (likelihood, direction):
            ax.spines[["top", "right"]].set_visible(False)
        redrawn = {"animated": True}  # left out of the first drawing

        likelihood.axhline(BEST, color=BLACK, lw=1, ls="--")
        likelihood.text(UPDATES, BEST + 0.1, f"the best there can be: {BEST:.2f}", ha="right", va="bottom", fontsize=8)
        likelihood.plot([], [], color="0.65", lw=1.5, ls="--", label="the setting before")
        likelihood.plot([], [], color=BLUE, lw=2, label="this setting")
        likelihood.legend(loc="lower right", fontsize=8, frameon=False)
        (self.before,) = likelihood.plot([], [], color="0.65", lw=1.5, ls="--", **redrawn)
        (self.now,) = likelihood.plot([], [], color=BLUE, lw=2, **redrawn)
        likelihood.set(xlim=(0, UPDATES), ylim=(-11.5, -2.5), xlabel="updates", ylabel="log-likelihood (nats an image)")
        likelihood.set_title("Exact likelihood while CD learns", fontsize=10)

        positions = range(len(KS))
        direction.axhline(1, color=BLACK, lw=1, ls="--")
        direction.axhline(0, color="0.8", lw=1)
        (self.cosines,) = direction.plot(positions, [0] * len(KS), "o-", color=ORANGE, **redrawn)
        (self.chosen,) = direction.plot([], [], "s", ms=12, mfc="none", mec=VERMILION, mew=2, **redrawn)
        direction.set(xlabel="k", ylabel="cosine (1: same direction)", xticks=positions, xticklabels=KS)
        direction.set(ylim=(-0.5, 1.1), xlim=(-0.4, len(KS) - 0.6), yticks=[-0.5, 0, 0.5, 1])
        direction.set_title("CD-k's mean gradient and the exact\none, at the end; square: your k", fontsize=10)

        self.tile = images.imshow(self._tiled(torch.zeros(30, 4, 4)), cmap="gray", vmin=0, vmax=255, **redrawn)
        (self.crosses,) = images.plot([], [], "x", ms=9, mew=2, color=VERMILION, **redrawn)
        images.axis("off")
        images.set_title("Its 30 most probable images;\nx: neither bars nor stripes", fontsize=10)
        self.canvas.draw()
        self._background = self.canvas.copy_from_bbox(figure.bbox)

    def __repr__(self) -> str:
        return "CDChart()"

    @staticmethod
    def _tiled(images: Tensor) -> np.ndarray:
        return tile(enlarged(images, 6), 6, gap=3)

    def png(self, now: CDTraining, before: CDTraining | None = None) -> bytes:
        """A PNG of the training `now`, with the likelihood of the training `before` for comparison."""
        self.canvas.restore_region(self._background)
        self.before.set_data(*((before.updates, before.log_likelihood) if before else ([], [])))
        self.now.set_data(now.updates, now.log_likelihood)
        changed = [self.before, self.now]
        if now.cosines is not None and now.likeliest is not None and now.valid is not None:
            self.cosines.set_ydata(list(now.cosines.values()))
            self.chosen.set_data([KS.index(now.k)], [now.cosines[now.k]])
            self.tile.set_data(self._tiled(now.likeliest))
            wrong = [number for number, valid in enumerate(now.valid) if not valid]
            row, column = np.divmod(np.array(wrong, dtype=int), 6)
            self.crosses.set_data(27 * column + 11.5, 27 * row + 11.5)
            changed += [self.cosines, self.chosen, self.tile, self.crosses]
        for artist in changed:
            artist.axes.draw_artist(artist)
        return png(np.asarray(self.canvas.buffer_rgba())[..., :3])
