"""Contrastive divergence on the 4x4 bars and stripes, beside what is exactly true of the machine that it trains."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from dlkit.analysis import exact
from dlkit.analysis.likelihood import states
from dlkit.data import bars_and_stripes
from dlkit.models import RBM
from dlkit.training import CD, Batch
from dlkit.ui.draw.pictures import BLACK, BLUE, ORANGE, VERMILION, enlarged, png, tile

KS = (1, 2, 5, 10, 20)
RATES = (0.05, 0.1, 0.2, 0.5, 1.0)
HIDDEN = (2, 4, 6, 8, 10, 12)
UPDATES, EVERY, COPIES = 1_000, 25, 10
BEST = -math.log(30)


@dataclass
class Training:
    """A machine that CD-k has trained, or is training, and what is exactly true of it.

    `log_likelihood` is in nats an image, at the numbers of `updates`. The rest is there at the end: `cosines` of
    CD-k's mean gradient with the exact one, by k; the 30 most probable images, which of them are bars or stripes, and
    the probability of all bars and stripes together.
    """

    k: int
    rate: float
    hidden: int
    updates: list[int] = field(default_factory=list)
    log_likelihood: list[float] = field(default_factory=list)
    cosines: dict[int, float] | None = None
    likely: Tensor | None = None
    valid: list[bool] | None = None
    mass: float | None = None

    def __str__(self) -> str:
        setting = f"CD-{self.k}, rate {self.rate:g}, {self.hidden} hidden units"
        if self.cosines is None or self.valid is None:
            return f"{setting}: training, update {self.updates[-1]:,} of {UPDATES:,}"
        return (
            f"{setting}: {self.log_likelihood[-1]:.2f} nats an image after {UPDATES:,} updates, "
            f"{max(self.log_likelihood):.2f} at its best on the way. Bars and stripes have {self.mass:.0%} of the "
            f"probability, and are {sum(self.valid)} of the 30 most probable images. CD-{self.k}'s mean gradient now "
            f"has a cosine of {self.cosines[self.k]:.2f} with the exact one."
        )


def train(k: int, rate: float, hidden: int, tell: Callable[[Training], None] | None = None, seed: int = 0) -> Training:
    """1,000 updates by CD-k with sampled visible units, ten chains from each pattern; `tell` hears on the way."""
    v = bars_and_stripes(4).flatten(1).double()
    generator = torch.Generator().manual_seed(seed)
    rbm = RBM(16, hidden, std=0.1, generator=generator).double()
    optimizer = torch.optim.SGD(rbm.parameters(), lr=rate)
    learner, batch = CD(k=k, sample_visible=True), Batch(v.repeat(COPIES, 1))
    found = Training(k, rate, hidden)
    for update in range(UPDATES + 1):
        if update % EVERY == 0:
            found.updates.append(update)
            found.log_likelihood.append(exact.log_likelihood(rbm, v))
        if tell and update % (4 * EVERY) == 0:
            tell(found)
        if update < UPDATES:
            learner.fill_grad(rbm, batch, generator)
            optimizer.step()
    true = exact.gradient(rbm, v)
    p, patterns = exact.visible_distribution(rbm), exact.state_number(v)
    top = p.topk(len(v)).indices
    found.cosines = {k: exact.cosine(g, true) for k, g in exact.cd_gradients(rbm, v, KS).items()}
    found.likely = states(16)[top].view(-1, 4, 4)
    found.valid = torch.isin(top, patterns).tolist()
    found.mass = float(p[patterns].sum())
    return found


class Sheet:
    """Three panels: the likelihood as it was learnt, the gradient's direction at the end, the likeliest images.

    Axes and words are drawn once; a change redraws only what changes, in some 10 ms where a whole figure takes 100.
    """

    def __init__(self):
        figure = Figure(figsize=(10, 3.2), dpi=90, layout="constrained")
        self.canvas = FigureCanvasAgg(figure)
        likelihood, direction, images = figure.subplots(1, 3, width_ratios=[3, 2.2, 2])
        for ax in (likelihood, direction):
            ax.spines[["top", "right"]].set_visible(False)
        moving = {"animated": True}  # left out of the first drawing

        likelihood.axhline(BEST, color=BLACK, lw=1, ls="--")
        likelihood.text(UPDATES, BEST + 0.1, f"the best there can be: {BEST:.2f}", ha="right", va="bottom", fontsize=8)
        likelihood.plot([], [], color="0.65", lw=1.5, ls="--", label="the setting before")
        likelihood.plot([], [], color=BLUE, lw=2, label="this setting")
        likelihood.legend(loc="lower right", fontsize=8, frameon=False)
        (self.before,) = likelihood.plot([], [], color="0.65", lw=1.5, ls="--", **moving)
        (self.now,) = likelihood.plot([], [], color=BLUE, lw=2, **moving)
        likelihood.set(xlim=(0, UPDATES), ylim=(-11.5, -2.5), xlabel="updates", ylabel="log-likelihood (nats an image)")
        likelihood.set_title("Exact likelihood while CD learns", fontsize=10)

        places = range(len(KS))
        direction.axhline(1, color=BLACK, lw=1, ls="--")
        direction.axhline(0, color="0.8", lw=1)
        (self.cosines,) = direction.plot(places, [0] * len(KS), "o-", color=ORANGE, **moving)
        (self.chosen,) = direction.plot([], [], "s", ms=12, mfc="none", mec=VERMILION, mew=2, **moving)
        direction.set(xlabel="k", ylabel="cosine (1: same direction)", xticks=places, xticklabels=KS)
        direction.set(ylim=(-0.5, 1.1), xlim=(-0.4, len(KS) - 0.6), yticks=[-0.5, 0, 0.5, 1])
        direction.set_title("CD-k's mean gradient and the exact\none, at the end; square: your k", fontsize=10)

        self.tile = images.imshow(self._tiled(torch.zeros(30, 4, 4)), cmap="gray", vmin=0, vmax=255, **moving)
        (self.crosses,) = images.plot([], [], "x", ms=9, mew=2, color=VERMILION, **moving)
        images.axis("off")
        images.set_title("Its 30 most probable images;\nx: neither bars nor stripes", fontsize=10)
        self.canvas.draw()
        self._still = self.canvas.copy_from_bbox(figure.bbox)

    @staticmethod
    def _tiled(images: Tensor) -> np.ndarray:
        return tile(enlarged(images, 6), 6, gap=3)

    def png(self, now: Training, before: Training | None = None) -> bytes:
        """A PNG of the training `now`, over the curve of the one `before`."""
        self.canvas.restore_region(self._still)
        self.before.set_data(*((before.updates, before.log_likelihood) if before else ([], [])))
        self.now.set_data(now.updates, now.log_likelihood)
        changed = [self.before, self.now]
        if now.cosines is not None and now.likely is not None and now.valid is not None:
            self.cosines.set_ydata(list(now.cosines.values()))
            self.chosen.set_data([KS.index(now.k)], [now.cosines[now.k]])
            self.tile.set_data(self._tiled(now.likely))
            wrong = [place for place, valid in enumerate(now.valid) if not valid]
            row, column = np.divmod(np.array(wrong, dtype=int), 6)
            self.crosses.set_data(27 * column + 11.5, 27 * row + 11.5)
            changed += [self.cosines, self.chosen, self.tile, self.crosses]
        for artist in changed:
            artist.axes.draw_artist(artist)
        return png(np.asarray(self.canvas.buffer_rgba())[..., :3])


class CDExplorer(widgets.VBox):
    """Train the 4x4 machine by CD at another k, rate or number of hidden units, and see where it ends."""

    def __init__(self, k: int = 1, rate: float = 0.5, hidden: int = 8):
        options = {"continuous_update": False, "layout": {"width": "300px"}, "style": {"description_width": "initial"}}
        self.k = widgets.SelectionSlider(options=KS, value=k, description="k", **options)
        self.rate = widgets.SelectionSlider(options=RATES, value=rate, description="Rate", **options)
        self.hidden = widgets.SelectionSlider(options=HIDDEN, value=hidden, description="Hidden units", **options)
        self.picture = widgets.Image(format="png", layout={"width": "900px"})
        self.caption = widgets.HTML()
        self.training: Training | None = None
        self._sheet = Sheet()
        for slider in (self.k, self.rate, self.hidden):
            slider.observe(self._train, "value")
        self._train()
        super().__init__([widgets.HBox([self.k, self.rate, self.hidden]), self.caption, self.picture])

    def __repr__(self) -> str:
        return "CDExplorer()"

    def _train(self, change: object = None) -> None:
        before = self.training

        def tell(now: Training) -> None:
            self.picture.value = self._sheet.png(now, before)
            self.caption.value = str(now)

        self.training = train(self.k.value, self.rate.value, self.hidden.value, tell)
        tell(self.training)
