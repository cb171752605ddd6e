"""The filters of a layer whose weights are not shared, place by place, beside some that all places share."""

import ipywidgets as widgets
from jaxtyping import Float
from torch import Tensor

from dlkit.analysis.features import Region
from dlkit.models.locally_connected import LocallyConnected2d
from dlkit.ui.controls.elements import WRAP_TOP
from dlkit.ui.controls.image_viewer import Viewer
from dlkit.ui.controls.pointed_image import PointedImage
from dlkit.ui.draw.pictures import Picture, caption_html, enlarged, fitted, photo, png, text_html, tile

SIDE, ZOOM = 256, 72  # pixels of the page: the image, and about each filter


class PlaceFilters(Viewer):
    """An image on which a place is pointed at, or gone to by arrow keys, and the filters of `layer` there.

    shared: kernels (maps, in maps, size, size) of a convolution to compare them with. Images are shown from their
    darkest to their brightest pixel. ValueError for images or kernels of another size than the layer's.
    """

    def __init__(
        self,
        layer: LocallyConnected2d,
        images: Float[Tensor, "images *maps height width"],
        shared: Float[Tensor, "maps in size size"] | None = None,
    ):
        super().__init__(images)
        if tuple(images.shape[-2:]) != layer.input:
            height, width = layer.input
            raise ValueError(f"images of {tuple(images.shape[-2:])} pixels for a layer that sees {height}x{width}.")
        if shared is not None and tuple(shared.shape[1:]) != (layer.in_maps, layer.size, layer.size):
            raise ValueError(
                f"shared kernels of shape {tuple(shared.shape)}: (maps, {layer.in_maps}, {layer.size}, {layer.size})."
            )
        self.layer, self.shared = layer, shared
        self.places = tuple(layer.weight.shape[:2])
        reach = (layer.size - layer.stride) / 2
        height, width = layer.input
        high, wide = self.places
        ends = [reach / width, reach / height, (reach + wide * layer.stride) / width,
                (reach + high * layer.stride) / height]  # fmt: skip
        self.picture = PointedImage(cells=[wide, high], box=ends)
        self.caption, self.own, self.common = (widgets.HTML() for _ in range(3))
        self.titles = [widgets.HTML(), widgets.HTML()]
        self.picture.observe(self._draw, "place")
        self.titles[1].value = text_html("Filters that all places share")
        self._draw_shared()
        self._draw()
        space = {"margin": "0 16px 0 0"}
        columns = [self.picture, widgets.VBox([self.titles[0], self.own])]
        if shared is not None:
            columns.append(widgets.VBox([self.titles[1], self.common]))
        for column in columns:
            column.layout = space
        self.children = [self.image, widgets.HBox(columns, layout=WRAP_TOP), self.caption]

    def __repr__(self) -> str:
        return f"PlaceFilters({self.layer.out_maps} filters at each of {self.places[0]}x{self.places[1]} places)"

    def filters(self, row: int, column: int) -> Float[Tensor, "out in size size"]:
        """Those of a place."""
        size = self.layer.size
        return self.layer.weight[row, column].detach().cpu().view(-1, self.layer.in_maps, size, size)

    def _look(self) -> None:
        self._draw()

    def _draw_shared(self) -> None:
        if self.shared is not None:
            alt = f"{len(self.shared)} filters that are the same everywhere; grey is 0."
            self.common.value = _sheet(self.shared.detach().cpu(), alt)

    def _draw(self, change: object = None) -> None:
        (row, column), size, stride = self.picture.cell(), self.layer.size, self.layer.stride
        window = Region(*(slice(at * stride, at * stride + size) for at in (row, column)))
        shown = self._shown - self._shown.min()
        self.picture.value = png(fitted(photo(shown / shown.max().clamp_min(1e-12)), SIDE, window))
        self.picture.alt = f"{self._image_name().capitalize()}; the window of place {row}, {column} is framed."
        alt = f"The {self.layer.out_maps} filters of place {row}, {column}; grey is 0."
        self.own.value = _sheet(self.filters(row, column), alt)
        self.titles[0].value = text_html(f"Filters of row {row}, column {column}")
        of_place, places = self.layer.weight[0, 0].numel(), self.places[0] * self.places[1]
        shared = "" if self.shared is None else f", and {self.shared.numel():,} where all places share them"
        self.caption.value = caption_html(
            f"{self.places[0]}x{self.places[1]} places with {of_place:,} weights each: <b>{places * of_place:,}</b> "
            f"parameters{shared}. Point at a place, or click on the picture and use the arrow keys."
        )


def _sheet(filters: Float[Tensor, "out in size size"], alt: str) -> str:
    """The mean over the maps that go in, of each filter."""
    pixels = png(tile(enlarged(filters.mean(1), max(ZOOM // filters.shape[-1], 1)), gap=4, symmetric=True))
    return Picture(pixels, alt).html()
