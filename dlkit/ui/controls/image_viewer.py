"""A widget that looks at one image: one out of many, by its number, or one of the reader's own."""

import ipywidgets as widgets
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dlkit.ui.controls.elements import number_box


class Viewer(widgets.VBox):
    """The image that the box `image` chooses by its number, or one of your own; a subclass shows it.

    ValueError if there are no images, or not one label for each.
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
        self.image = number_box("Image", len(images) - 1, "150px")
        self.image.observe(self._choose_image, "value")
        super().__init__()

    def show(self, image: Float[Tensor, "*maps height width"]) -> None:
        """Look at an image of your own, until another one is chosen. ValueError if it is of another size."""
        self._own = own_image(image, self.images[0])
        self._look()

    def _choose_image(self, change: dict) -> None:
        self._own = None
        self._look()

    def _look(self) -> None:
        """Called when the image `_shown` is another one."""
        raise NotImplementedError

    @property
    def _shown(self) -> Float[Tensor, "*maps height width"]:
        return self.images[self.image.value] if self._own is None else self._own

    def _label(self) -> int | None:
        """The label of the image, or None if it is not known."""
        return None if self._own is not None or self.labels is None else int(self.labels[self.image.value])

    def _image_name(self) -> str:
        if self._own is not None:
            return "your own image"
        label = self._label()
        return f"image {self.image.value}" + ("" if label is None else f", labelled {label}")


def own_image(
    image: Float[Tensor, "*own height width"], like: Float[Tensor, "*maps high wide"]
) -> Float[Tensor, "*maps high wide"]:
    """An image of the reader in the shape of `like`: one map for all of its maps, or as many as it has.

    ValueError if it is of another size, or not of floating-point numbers.
    """
    if not image.is_floating_point():
        raise ValueError(f"an image of {image.dtype}: give numbers from 0 to 1, such as image.float() / 255.")
    if image.shape not in (like.shape[-2:], like.shape):
        given, wanted = ("x".join(map(str, size)) for size in (image.shape, like.shape[-2:]))
        raise ValueError(f"an image of {given} pixels beside images of {wanted}: draw or crop it to {wanted}.")
    return image.detach().to(like).expand(like.shape)
