"""One image at a time: one out of many, by its number, or one of the reader's own."""

import ipywidgets as widgets
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dlkit.ui.draw.pictures import own_image


class Viewer(widgets.VBox):
    """The image that `image` chooses by its number, or one of your own; a subclass lays out and looks at it.

    ValueError if there are no images, or if the labels do not fit them.
    """

    def __init__(
        self, images: Float[Tensor, "images *maps height width"], labels: Int64[Tensor, " labels"] | None = None
    ):
        if len(images) == 0:
            raise ValueError("no images to look at: give one at least.")
        if labels is not None and len(images) != len(labels):
            raise ValueError(f"{len(images)} images and {len(labels)} labels: give one label an image.")
        self.images, self.labels = images.cpu(), None if labels is None else torch.as_tensor(labels).cpu()
        self._own: Tensor | None = None
        self.image = widgets.BoundedIntText(
            description="Image",
            max=len(images) - 1,
            layout={"width": "150px"},
            style={"description_width": "initial"},
        )
        self.image.observe(self._choose_image, "value")
        super().__init__()

    def show(self, image: Float[Tensor, "*maps height width"]) -> None:
        """Look at an image of your own, until another image is chosen. ValueError if it is of another size."""
        self._own = own_image(image, self.images[0])
        self._look()

    def _choose_image(self, change: dict) -> None:
        self._own = None
        self._look()

    def _look(self) -> None:
        """Look at another image, `_shown`."""
        raise NotImplementedError

    @property
    def _shown(self) -> Float[Tensor, "*maps height width"]:
        return self.images[self.image.value] if self._own is None else self._own

    def _known(self) -> int | None:
        """The label of the image, if there is one."""
        return None if self._own is not None or self.labels is None else int(self.labels[self.image.value])

    def _whose(self) -> str:
        """The image in words."""
        if self._own is not None:
            return "your own image"
        known = self._known()
        return f"image {self.image.value}" + ("" if known is None else f", labelled {known}")
