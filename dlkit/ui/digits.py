"""Labelled images by the page, each with its index."""

import ipywidgets as widgets
import numpy as np
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, arange

from dlkit.data import Split
from dlkit.ui.draw.pictures import captioned, grey, png

SIDE = 56  # pixels: an image
COLUMNS, PAGE = 10, 100  # images in a row; on a page


def digit_page(
    images: Float[Tensor, "images height width"], index: Int64[Tensor, " images"]
) -> UInt8[np.ndarray, "rows columns"]:
    """At most 100 images in rows of ten, each with its index under it; grey, on white."""
    return captioned(grey(images), [str(number) for number in index.tolist()], COLUMNS, SIDE, rows=PAGE // COLUMNS)


class DigitBrowser(widgets.VBox):
    """The images of a split, a hundred on a page: choose the class and the page. ValueError if they have no labels."""

    def __init__(self, split: Split):
        if split.labels is None:
            raise ValueError("these images have no labels to choose by: give a labelled Split, like data.load().train.")
        self.split, self.images, self.labels = split, split.images.cpu(), split.labels.cpu()
        classes = ["all", *range(int(self.labels.max()) + 1)]
        self.label = widgets.Dropdown(options=classes, description="Class", layout={"width": "160px"})
        self.page = widgets.IntSlider(min=1, max=1, description="Page", layout={"width": "440px"})
        self.picture = widgets.Image(format="png", layout={"width": "614px"})
        self.caption = widgets.HTML()
        self.label.observe(self._choose, "value")
        self.page.observe(self._turn, "value")
        self._choose()
        super().__init__([widgets.HBox([self.label, self.page]), self.caption, self.picture])

    def __repr__(self) -> str:
        return f"DigitBrowser({self.split})"

    def _choose(self, change: object = None) -> None:
        """Show the first page of the images of the class."""
        label = self.label.value
        self.index = arange(len(self.labels)) if label == "all" else (self.labels == label).nonzero()[:, 0]
        self.page.max = -(-len(self.index) // PAGE)
        if self.page.value != 1:
            self.page.value = 1  # calls _turn
        else:
            self._turn()

    def _turn(self, change: object = None) -> None:
        first = (self.page.value - 1) * PAGE
        index = self.index[first : first + PAGE]
        self.picture.value = png(digit_page(self.images[index], index))
        kind = "of any class" if self.label.value == "all" else f"labelled {self.label.value}"
        self.caption.value = (
            f"Images {first + 1:,} to {first + len(index):,} of the {len(self.index):,} {kind}. "
            "The number under each is its index: <code>images[index]</code>."
        )
