"""What a DBN dreams of: the images of Gibbs steps of its top layer, with a label or a part of the image held."""

import math

import ipywidgets as widgets
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from dlkit.models import DBN
from dlkit.models.dreaming import dream, init_dream
from dlkit.ui.controls.elements import TOP, put
from dlkit.ui.controls.film import WIDTH, Film, held_pixels, tinted
from dlkit.ui.draw.charts import bars
from dlkit.ui.draw.pictures import captioned, grey

CHAINS = 16  # where no start images are given
FREE = "free"  # of the labels to choose from; None would be no choice to the drop-down list, which then shows nothing


class Dreams:
    """Gibbs chains of a DBN's top layer, and the images that the layers below make of them.

    They start from noise, or from the images `start` (chains, height, width); a label, or a part of the images, can be
    held. `images` (chains, pixels) are means, `labels` (chains, labels) probabilities or None, and `gibbs_steps` is the
    number of steps since the start. A held pixel has the value of the start image.
    ValueError if the start images, `shape` and the DBN are not of one size.
    """

    def __init__(
        self,
        dbn: DBN,
        start: Float[Tensor, "chains height width"] | None = None,
        shape: tuple[int, int] = (28, 28),
        seed: int = 0,
    ):
        pixels = dbn.sizes[0]
        if start is not None and tuple(start.shape[1:]) != shape:
            raise ValueError(
                f"start images of {start.shape[1]}x{start.shape[2]} pixels and shape={shape}: give shape="
                f"{tuple(start.shape[1:])}."
            )
        if math.prod(shape) != pixels:
            raise ValueError(
                f"shape={shape} has {math.prod(shape)} pixels and the DBN paints {pixels}: they must agree."
            )
        device = dbn.top.W.device
        self.dbn, self.shape = dbn, shape
        self.start = None if start is None else start.flatten(1).to(device)
        self.chains = CHAINS if start is None else len(start)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.held = held_pixels(shape, "nothing").to(device)
        self.label: int | None = None
        self.restart(from_noise=start is None)

    def __repr__(self) -> str:
        return f"Dreams({self.chains} chains of a DBN {'-'.join(map(str, self.dbn.sizes))}, step {self.gibbs_steps})"

    def restart(self, from_noise: bool = False) -> None:
        """Go back to Gibbs step 0: to noise, or to the features that the layers below compute from the start images."""
        if from_noise:
            state = init_dream(self.dbn, chains=self.chains, generator=self.generator)
            with torch.no_grad():
                images = self.dbn.down(state[:, : self.dbn.top.features])
        else:
            images = self._start("start from")
            state = init_dream(self.dbn, images=images)
        self.gibbs_steps = 0
        self._go_on_from(images, state)

    def hold(self, part: str) -> None:
        """Hold the pixels in `part`, one of PARTS, at the start images' values; let all others move."""
        held = held_pixels(self.shape, part).to(self.held.device)
        if held.any():
            self._start("hold a part of")
        self.held = held
        self._go_on_from(self.images, self.state)

    def ask_for(self, label: int | None) -> None:
        """Hold the unit of this label on from now on; None lets the chains choose. ValueError for an unknown label."""
        if label is not None and not 0 <= label < self.dbn.labelled_top().labels:
            raise ValueError(
                f"label {label} is out of range: this DBN knows 0 to {self.dbn.labelled_top().labels - 1}."
            )
        self.label = label
        self._go_on_from(self.images, self.state)

    def advance(self, gibbs_steps: int = 1) -> None:
        for _ in range(gibbs_steps):
            self.images, self.labels, self.state = next(self._dreams)
        self.gibbs_steps += gibbs_steps

    def _start(self, purpose: str) -> Tensor:
        if self.start is None:
            raise ValueError(f"there are no digits to {purpose}: give start_images, such as data.images[:16].")
        return self.start

    def _go_on_from(self, images: Tensor, state: Tensor) -> None:
        features, labels = state[:, : self.dbn.top.features], state[:, self.dbn.top.features :]
        holding = {}
        if self.held.any():
            start = self._start("hold a part of")
            images = torch.where(self.held, start, images)
            with torch.no_grad():
                features = self.dbn.up(images, self.generator)
            holding = {"images": start, "clamped": self.held}
        if self.label is not None:
            labels = torch.zeros_like(labels)
            labels[:, self.label] = 1
        self.images, self.labels = images, labels if self.dbn.labels else None
        self.state = torch.cat([features, labels], dim=1)
        self._dreams = dream(self.dbn, self.state, label=self.label, generator=self.generator, **holding)

    def picture(self) -> UInt8[ndarray, "rows columns 3"]:
        """All images in one picture, about 420 pixels wide, each over its likeliest label; held pixels are blue."""
        columns = math.ceil(math.sqrt(self.chains))
        pixels = grey(self.images.view(-1, *self.shape))
        held = self.held.view(self.shape).expand(pixels.shape).cpu().numpy()
        labels = [""] * self.chains if self.labels is None else [str(k) for k in self.labels.argmax(1).tolist()]
        zoom = max(1, WIDTH // (columns * self.shape[1]))
        return captioned(tinted(pixels, held), labels, columns, zoom * self.shape[1])


class Dreamer(Film):
    """What `dbn` dreams of, as a film: of a label or freely, from noise or from digits.

    `start_images` (chains, height, width) are digits to start from, a part of which can be held; without them, 16
    chains start from noise. ■ and the two restart buttons go back to step 0; a label can be chosen and let go while the
    film plays. `image(index)` is one of the images.
    ValueError if the start images, `shape` and the DBN are not of one size.
    """

    def __init__(
        self,
        dbn: DBN,
        start_images: Float[Tensor, "chains height width"] | None = None,
        shape: tuple[int, int] = (28, 28),
        seed: int = 0,
    ):
        self.dreams = Dreams(dbn, start_images, shape, seed)
        super().__init__(
            self.dreams,
            from_noise=start_images is None,
            step="One Gibbs step of the top layer",
            data="digits",
            noise="Random features, for every chain",
            speeds=[1, 5, 20],
            interval=150,
        )
        labels = [FREE, *range(dbn.labels or 0)]
        self.label = widgets.Dropdown(options=labels, description="Label", layout={"width": "200px"})
        self.label.disabled = dbn.labels is None
        self.data_button.disabled = self.hold.disabled = start_images is None
        self.label.observe(self._ask, "value")
        self.chart = widgets.HTML()
        self.draw()
        self.children = [
            self.buttons,
            widgets.HBox([self.label, self.hold, self.speed]),
            self.caption,
            widgets.HBox([self.picture, self.chart], layout=TOP),
        ]

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self.dreams.dbn.sizes))
        labels = f" with {self.dreams.dbn.labels} labels" if self.dreams.dbn.labels else ""
        return f"Dreamer({self.dreams.chains} chains of a DBN {sizes}{labels})"

    def image(self, index: int) -> Float[Tensor, "height width"]:
        """A copy of the present image of chain `index`, counted along the rows from 0."""
        if not 0 <= index < self.dreams.chains:
            raise ValueError(f"chain {index}: there are {self.dreams.chains}, 0 to {self.dreams.chains - 1}.")
        return self.dreams.images[index].view(self.dreams.shape).cpu().clone()

    def _ask(self, change: dict) -> None:
        self.dreams.ask_for(None if change["new"] == FREE else change["new"])
        self.draw()

    def draw(self) -> None:
        put(self.dreams.picture(), self.picture)
        if self.dreams.labels is not None:
            self.chart.value = bars(self.dreams.labels.mean(0).tolist(), "Mean label probability of all chains")
        self.caption.value = self._caption_text()

    def _caption_text(self) -> str:
        text = (
            f"{self.dreams.chains} chains, step {self.dreams.gibbs_steps:,}: {self._about_labels()}{self._about_held()}"
        )
        if self.dreams.start is None:
            text += " No start images were given, so there is nothing to start from but noise, and nothing to hold."
        return text

    def _about_labels(self) -> str:
        labels = self.dreams.labels
        if labels is None:
            return "this DBN has no label units, so that no label can be asked for."
        if self.dreams.label is not None:
            return f"label {self.dreams.label} is held."
        votes = torch.bincount(labels.argmax(1), minlength=labels.shape[1])
        most = votes.argsort(descending=True, stable=True)[:3].tolist()
        counts = ", ".join(f"{label} ({int(votes[label])} chains)" for label in most if votes[label])
        return f"labels are free, and now most often {counts}. Under each dream is its likeliest label."
