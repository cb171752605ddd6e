"""A patch over part of an image: how it changes the net's answer, and where it changes it most."""

import ipywidgets as widgets
import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import ImageColor
from torch import Tensor, nn

from dlkit.analysis.occlusion_maps import log_probabilities, occluded_log_probabilities, patch_region
from dlkit.ui.controls.elements import FULL_LABEL, WRAP_TOP
from dlkit.ui.controls.image_viewer import Viewer
from dlkit.ui.controls.pointed_image import PointedImage
from dlkit.ui.draw.charts import bars
from dlkit.ui.draw.pictures import BLACK, BLUE, VERMILION, caption_html, fitted, photo, png

LARGE, WIDE = 252, 250  # pixels: the image and the heat map, each; a chart of bars
LARGEST = 14  # pixels of the image: the side of a patch, at most
PATCHES = {"black patch": 0.0, "grey patch": 0.5}


def heat_map(drops: Float[Tensor, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Drops of log p (nats) as colours: white is 0, vermilion above, blue below it; the largest has the full colour.

    If all are below 0.01, they stay pale.
    """
    x = (drops / drops.abs().max().clamp_min(0.01)).cpu().numpy()[..., None]
    above, below = (np.array(ImageColor.getrgb(colour)) for colour in (VERMILION, BLUE))
    return (255 + np.abs(x) * (np.where(x > 0, above, below) - 255)).round().astype(np.uint8)


class Occluder(Viewer):
    """An image under a patch that the pointer or the arrow keys move, the net's answer, and a heat map of all answers.

    `net` gives logits for images (batch, *maps, height, width) with pixels from 0 to 1. ValueError if it does not, or
    if there is not one label, of a class of the net, for each image.
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
        self.label = widgets.Dropdown(
            options=range(classes), description="Class to watch", layout={"width": "160px"}, style=FULL_LABEL
        )
        most = min(LARGEST, height, width)
        self.size = widgets.IntSlider(
            value=min(7, most), min=1, max=most, description="Patch size", layout={"width": "280px"}, style=FULL_LABEL
        )
        self.value = widgets.ToggleButtons(options=PATCHES, style={"button_width": "100px"})
        self.picture, self.map = (PointedImage(cells=[width, height], layout={"margin": "2px"}) for _ in range(2))
        self.titles = [widgets.HTML(), widgets.HTML()]
        self.covered_chart, self.whole_chart, self.caption, self.map_caption = (widgets.HTML() for _ in range(4))
        self._cell = self.picture.cell()
        self.label.observe(self._draw_map, "value")
        self.size.observe(self._cover, "value")
        self.value.observe(self._cover, "value")
        for picture in (self.picture, self.map):
            picture.observe(self._point, "place")
        self._look()
        right = {"margin": "0 16px 0 0"}
        self.children = [
            widgets.HBox([self.image, self.label, self.size, self.value], layout=WRAP_TOP),
            self.caption,
            widgets.HBox(
                [
                    widgets.VBox([self.titles[0], self.picture], layout=right),
                    widgets.VBox([self.titles[1], self.map], layout=right),
                    widgets.VBox([self.covered_chart, self.whole_chart]),
                ],
                layout=WRAP_TOP,
            ),
            self.map_caption,
        ]

    def __repr__(self) -> str:
        return f"Occluder({len(self.images)} images of {'x'.join(map(str, self.images.shape[1:]))})"

    def _look(self) -> None:
        """Show another image; the class to watch becomes its label, or the net's answer if the label is not known."""
        self._computed: dict[tuple[int, float], Tensor] = {}
        self._whole = log_probabilities(self.net, self._shown[None])[0].cpu()
        label = self._label()
        self.label.unobserve(self._draw_map, "value")
        self.label.value = int(self._whole.argmax()) if label is None else label
        self.label.observe(self._draw_map, "value")
        self._cover()

    def _cover(self, change: object = None) -> None:
        """Compute the net's answers with the patch around each pixel."""
        patch = self.size.value, self.value.value
        if patch not in self._computed:
            self._computed[patch] = occluded_log_probabilities(self.net, self._shown, *patch).cpu()
        self._covered = self._computed[patch]
        self._draw_map()

    def _draw_map(self, change: object = None) -> None:
        """Draw the heat map of the chosen class."""
        label = self.label.value
        drops = self._whole[label] - self._covered[..., label]
        self._heat_map = heat_map(drops)
        width = drops.shape[1]
        text = f"<b>The heat map:</b> log p({label}) without the patch less that with it around each pixel; white is 0."
        for words, sign in (("Orange where the patch lowers it", 1), ("Blue where it raises it", -1)):
            row, column = divmod(int((sign * drops).argmax()), width)
            if (most := sign * float(drops[row, column])) >= 0.005:
                text += f" {words}, most around row {row}, column {column}: by {most:.2f} nats."
        self.map_caption.value = caption_html(text)
        self._draw()

    def _point(self, change: dict) -> None:
        """Move the patch to the pixel under the pointer, in both pictures."""
        cell = change["owner"].cell()
        if cell == self._cell:
            return
        self._cell = cell
        for picture in (self.picture, self.map):
            picture.place = change["new"]
        self._draw()

    def _draw(self) -> None:
        """Draw the image under the patch, and the net's answer."""
        label, size, (row, column) = self.label.value, self.size.value, self._cell
        field = patch_region(self._shown, row, column, size)
        image = self._shown.clone()
        image[..., field.rows, field.columns] = self.value.value
        self.picture.value = png(fitted(photo(image), LARGE, field))
        self.map.value = png(fitted(self._heat_map, LARGE, field, colour=BLACK))
        covered = self._covered[row, column]
        before, after = float(self._whole[label].exp()), float(covered[label].exp())
        self.covered_chart.value = bars(covered.exp().tolist(), "Probabilities with the patch", WIDE)
        self.whole_chart.value = bars(self._whole.exp().tolist(), "Without it", WIDE)
        kind = f"{size}x{size} {self.value.label} around row {row}, column {column}"
        name = self._image_name().capitalize()
        self.picture.alt = f"{name}, with a {kind}."
        self.map.alt = f"Heat map of what a patch does to class {label}; the patch's place is framed."
        self.titles[0].value, self.titles[1].value = name, f"Drop of log p({label})"
        first, now = (int(logs.argmax()) for logs in (self._whole, covered))
        net = f"The net still answers {now}" if now == first else f"The net answered {first} and now answers {now}"
        drop = float(self._whole[label] - covered[label])
        self.caption.value = caption_html(
            f"<b>p({label}): {before:.2f} without the patch, {after:.2f} with it</b>, "
            f"{abs(drop):.2f} nats {'less' if drop >= 0 else 'more'} of log p; a {kind}. {net}. Point at a picture, "
            "or click on one and use the arrow keys."
        )
