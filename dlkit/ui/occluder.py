"""A patch over part of an image, dragged about: what the net then answers, and where the patch hurts it most."""

import ipywidgets as widgets
import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import ImageColor
from torch import Tensor, nn

from dlkit.analysis.occlusion import log_probabilities, occluded_log_probabilities, patch_region
from dlkit.ui.controls.image_viewer import Viewer
from dlkit.ui.controls.pointed_image import PointedImage
from dlkit.ui.draw.pictures import BLACK, BLUE, VERMILION, bars, caption_html, fitted, photo, png

LARGE, WIDE = 252, 250  # pixels: the image, and the heat map; the bars
LARGEST = 14  # pixels of the image: the patch's side at most
PATCHES = {"black patch": 0.0, "grey patch": 0.5}


def heat(drops: Float[Tensor, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Drops from 0, white, to the largest magnitude, but 0.01 at least: vermilion; blue is less that."""
    x = (drops / drops.abs().max().clamp_min(0.01)).cpu().numpy()[..., None]
    above, below = (np.array(ImageColor.getrgb(colour)) for colour in (VERMILION, BLUE))
    return (255 + np.abs(x) * (np.where(x > 0, above, below) - 255)).round().astype(np.uint8)


class Occluder(Viewer):
    """An image under a patch that the pointer or the arrow keys move, what the net makes of it, and of every place.

    `net` gives logits for images (batch, *maps, height, width); pixels are between 0 and 1. ValueError if it does not,
    or if the labels do not fit the images.
    """

    def __init__(
        self,
        net: nn.Module,
        images: Float[Tensor, "images *maps height width"],
        labels: Int64[Tensor, " labels"] | None = None,
    ):
        super().__init__(images, labels)
        self.net = net
        classes = log_probabilities(net, self.images[:1]).shape[1]
        if self.labels is not None and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < classes:
            raise ValueError(
                f"labels {int(self.labels.min())} to {int(self.labels.max())} for a net that tells {classes} classes "
                f"apart: give labels from 0 to {classes - 1}."
            )
        height, width = self.images.shape[-2:]
        style = {"description_width": "initial"}
        self.label = widgets.Dropdown(
            options=range(classes), description="Class to watch", layout={"width": "160px"}, style=style
        )
        most = min(LARGEST, height, width)
        self.size = widgets.IntSlider(
            value=min(7, most), min=1, max=most, description="Patch size", layout={"width": "280px"}, style=style
        )
        self.value = widgets.ToggleButtons(options=PATCHES, style={"button_width": "100px"})
        self.picture, self.map = (PointedImage(cells=[width, height], layout={"margin": "2px"}) for _ in range(2))
        self.titles = [widgets.HTML(), widgets.HTML()]
        self.with_it, self.without, self.caption, self.map_caption = (widgets.HTML() for _ in range(4))
        self._at = self.picture.cell()
        self.label.observe(self._paint, "value")
        self.size.observe(self._cover, "value")
        self.value.observe(self._cover, "value")
        for picture in (self.picture, self.map):
            picture.observe(self._point, "place")
        self._look()
        right = {"margin": "0 16px 0 0"}
        wrap = {"flex_flow": "row wrap", "align_items": "flex-start"}
        self.children = [
            widgets.HBox([self.image, self.label, self.size, self.value], layout=wrap),
            self.caption,
            widgets.HBox(
                [
                    widgets.VBox([self.titles[0], self.picture], layout=right),
                    widgets.VBox([self.titles[1], self.map], layout=right),
                    widgets.VBox([self.with_it, self.without]),
                ],
                layout=wrap,
            ),
            self.map_caption,
        ]

    def __repr__(self) -> str:
        return f"Occluder({len(self.images)} images of {'x'.join(map(str, self.images.shape[1:]))})"

    def _look(self) -> None:
        """Take another image, and watch its label, or else the net's answer."""
        self._covered: dict[tuple[int, float], Tensor] = {}
        self._whole = log_probabilities(self.net, self._shown[None])[0].cpu()
        known = self._known()
        self.label.unobserve(self._paint, "value")
        self.label.value = int(self._whole.argmax()) if known is None else known
        self.label.observe(self._paint, "value")
        self._cover()

    def _cover(self, change: object = None) -> None:
        """Put the patch at every place."""
        patch = self.size.value, self.value.value
        if patch not in self._covered:
            self._covered[patch] = occluded_log_probabilities(self.net, self._shown, *patch).cpu()
        self._everywhere = self._covered[patch]
        self._paint()

    def _paint(self, change: object = None) -> None:
        """Paint the heat map of the class."""
        label = self.label.value
        drops = self._whole[label] - self._everywhere[..., label]
        self._heat = heat(drops)
        width = drops.shape[1]
        text = f"<b>The heat map:</b> log p({label}) without the patch less that with it around each pixel; white is 0."
        for words, sign in (("Orange where the patch lowers it", 1), ("Blue where it raises it", -1)):
            row, column = divmod(int((sign * drops).argmax()), width)
            if (most := sign * float(drops[row, column])) >= 0.005:
                text += f" {words}, most around row {row}, column {column}: by {most:.2f} nats."
        self.map_caption.value = caption_html(text)
        self._draw()

    def _point(self, change: dict) -> None:
        """Move the patch to the pixel that one of the pictures was pointed at."""
        at = change["owner"].cell()
        if at == self._at:
            return
        self._at = at
        for picture in (self.picture, self.map):
            picture.place = change["new"]
        self._draw()

    def _draw(self) -> None:
        """Draw the patch where it is, and what the net makes of it."""
        label, size, (row, column) = self.label.value, self.size.value, self._at
        field = patch_region(self._shown, row, column, size)
        image = self._shown.clone()
        image[..., field.rows, field.columns] = self.value.value
        self.picture.value = png(fitted(photo(image), LARGE, field))
        self.map.value = png(fitted(self._heat, LARGE, field, colour=BLACK))
        covered = self._everywhere[row, column]
        before, after = float(self._whole[label].exp()), float(covered[label].exp())
        self.with_it.value = bars(covered.exp().tolist(), "Probabilities with the patch", WIDE)
        self.without.value = bars(self._whole.exp().tolist(), "Without it", WIDE)
        kind = f"{size}x{size} {self.value.label} around row {row}, column {column}"
        whose = self._whose().capitalize()
        self.picture.alt = f"{whose}, with a {kind}."
        self.map.alt = f"Heat map of what a patch does to class {label}; the patch's place is framed."
        self.titles[0].value, self.titles[1].value = whose, f"Drop of log p({label})"
        first, now = (int(logs.argmax()) for logs in (self._whole, covered))
        net = f"The net still answers {now}" if now == first else f"The net answered {first} and now answers {now}"
        drop = float(self._whole[label] - covered[label])
        self.caption.value = caption_html(
            f"<b>p({label}): {before:.2f} without the patch, {after:.2f} with it</b>, "
            f"{abs(drop):.2f} nats {'less' if drop >= 0 else 'more'} of log p; a {kind}. {net}. Point at a picture, "
            "or click on one and use the arrow keys."
        )
