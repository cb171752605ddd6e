"""The maps of a convolutional net one by one: what each is computed from, what its units see, and what excites it."""

from collections import Counter

import ipywidgets as widgets
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dlkit.analysis.feature_maps import FeatureMaps, LayerView
from dlkit.analysis.features import Region
from dlkit.ui.controls.elements import FULL_LABEL, WRAP_TOP, icon_button, number_box, put
from dlkit.ui.controls.image_viewer import Viewer
from dlkit.ui.controls.pointed_image import PointedImage
from dlkit.ui.draw.map_sheets import columns_for, connection_table, listed, map_sheet, patches, scaled
from dlkit.ui.draw.pictures import BLUE, GAP, ORANGE, caption_html, captioned, fitted, photo, png

LARGE, SIDE = 196, 112  # pixels: a large picture, a map on a sheet at most
WIDE, BELOW = 412, 376  # pixels: the sheet of the layer's maps, and of the maps below
PAGE = 120  # maps on a sheet, at most
PATCH = 44  # pixels: an image that excites a map


class MapExplorer(Viewer):
    """The maps of a net for an image, one by one, and for each map its units, its inputs and the images that excite it.

    `net` is any module that takes images (batch, *maps, height, width). The pointer or the arrow keys on the large map
    choose a unit. ValueError as for `FeatureMaps`, or if there is not one label for each image.
    """

    def __init__(
        self,
        net: nn.Module,
        images: Float[Tensor, "images *maps height width"],
        labels: Int64[Tensor, " labels"] | None = None,
    ):
        super().__init__(images, labels)
        self.inside = FeatureMaps(net, self.images)
        self._views = self.inside.views(self.images[0])
        options = []
        for name, view in self._views.items():
            count, high, wide = view.output.shape
            options.append((f"{name}: {count} map{'s' * (count > 1)} of {high}x{wide}", name))
        self.layer = widgets.Dropdown(options=options, description="Layer", layout={"width": "260px"}, style=FULL_LABEL)
        self.map = number_box("Map", 0, "120px")
        self.previous = icon_button("chevron-left", "Previous map", lambda: self._walk(-1))
        self.next = icon_button("chevron-right", "Next map", lambda: self._walk(+1))
        self.caption, self.unit_text, self.inputs, self.connections, self.exciting = (widgets.HTML() for _ in range(5))
        self.picture, self.patch, self.maps, self.below, self.best = (widgets.Image(format="png") for _ in range(5))
        self.large = PointedImage(layout={"margin": "2px"})
        self.titles = [widgets.HTML() for _ in range(4)]
        self.layer.observe(self._choose_layer, "value")
        self.map.observe(self._choose_map, "value")
        self.large.observe(self._point, "place")
        self._choose_layer()
        right = {"margin": "0 16px 0 0"}
        pictures = [
            widgets.VBox([title, picture], layout=right)
            for title, picture in zip(self.titles, (self.picture, self.large, self.patch), strict=False)
        ]
        sheets = [
            widgets.VBox([self.titles[3], self.maps], layout={"width": f"{WIDE + 4}px", **right}),
            widgets.VBox(
                [self.inputs, self.below, self.connections], layout={"width": f"{BELOW + 4}px", "margin": "4px 0 0 0"}
            ),
        ]
        self.children = [
            widgets.HBox([self.layer, self.map, self.previous, self.next, self.image], layout=WRAP_TOP),
            self.caption,
            widgets.HBox(
                [*pictures, widgets.Box([self.unit_text], layout={"width": "164px", "margin": "4px 0 0 0"})],
                layout=WRAP_TOP,
            ),
            widgets.HBox(sheets, layout=WRAP_TOP),
            self.exciting,
            self.best,
        ]

    def __repr__(self) -> str:
        return f"MapExplorer(layers {', '.join(self.inside.names)}, {len(self.images)} images)"

    def _walk(self, by: int) -> None:
        self.map.value = (self.map.value + by) % (self.map.max + 1)

    def _choose_layer(self, change: object = None) -> None:
        """Show another layer."""
        count, high, wide = self._views[self.layer.value].output.shape
        self.large.cells = [wide, high]
        same_number = self.map.value < count
        self.map.max = count - 1  # a larger number becomes this one, and that map is shown
        if same_number:
            self._choose_map()

    def _look(self) -> None:
        self._views = self.inside.views(self._shown)
        self._draw()

    def _choose_map(self, change: object = None) -> None:
        """Show another map, and the images that excite it."""
        name, number = self.layer.value, self.map.value
        best = self.inside.top_images(name, number)
        fields = [
            self.inside.receptive_field(name, *unit)
            for unit in zip(best.rows.tolist(), best.columns.tolist(), strict=True)
        ]
        cut = patches(self.images[best.images], fields, PATCH)
        put(captioned(cut, [f"{value:.2f}" for value in best.values.tolist()], len(cut), PATCH), self.best)
        among = f"{self.inside.searched:,} images"
        if self.inside.searched < len(self.images):
            among = f"first {among}"
        before = "" if self.inside.ranked_by[name] == name else ", before they are squashed"
        text = (
            f"<b>What excites map {number} of {name}:</b> the {len(cut)} of the {among} with its largest values"
            f"{before}, each cut to what its best unit sees, with that value. Their numbers: "
            f"{', '.join(map(str, best.images.tolist()))}."
        )
        if self.labels is not None:
            labels = Counter(self.labels[best.images].tolist()).most_common()
            text += f" Their labels, and how often: {', '.join(f'{label} ({count})' for label, count in labels)}."
        self.exciting.value = caption_html(text)
        self._draw()

    def _draw(self) -> None:
        """Draw the layer's maps, and the maps below, for the image."""
        name, number = self.layer.value, self.map.value
        view = self._views[name]
        count, high, wide = view.output.shape
        self._limit = float(view.output.abs().max())
        first = number // PAGE * PAGE
        maps = scaled(view.output[first : first + PAGE], self._limit)
        columns = columns_for(len(maps))
        put(map_sheet(maps, first, columns, min((WIDE + GAP) // columns - GAP, SIDE), {number}, ORANGE), self.maps)
        shown = f"the {count}" if count <= PAGE else f"{len(maps)} of the {count}"
        self.titles[3].value = f"<b>{name}</b>: {shown} map{'s' * (count > 1)}, map {number} framed"
        self.caption.value = caption_html(
            f"<b>Layer {name}</b> for {self._image_name()}: {count} map{'s' * (count > 1)} of {high}x{wide} units. "
            f"Grey is 0; white and black are {self._limit:.2f} and {-self._limit:.2f}, the layer's largest magnitude."
        )
        self.titles[0].value = self._image_name().capitalize()
        self._draw_below(name, number, view)
        self._point()

    def _draw_below(self, name: str, number: int, view: LayerView) -> None:
        """Draw the maps below, and say from which of them the map is computed."""
        sees = self.inside.connections(name) if view.inputs is not None else None
        if sees is None or view.inputs is None:
            self.below.layout.display, self.connections.value = "none", ""
            self.inputs.value = caption_html(
                f"<b>What map {number} is made of:</b> no maps come into {name}, but the image."
            )
            return
        feeding, count = sees[number].nonzero()[:, 0].tolist(), len(view.inputs)
        where = f"of {view.below} below" if view.below else f"that come{'s' * (count == 1)} in"
        one_to_one = sees.shape[0] == count and bool((sees == torch.eye(count, dtype=torch.bool)).all())
        if count == 1:
            text = f"the one map {where}."
        elif sees.all():
            text = f"all {count} maps {where}, as is each map of {name}."
        elif one_to_one:
            text = f"map {number} of those {where}, as each map of {name} is of the one of its number."
        else:
            text = (
                f"{listed(feeding)} of the {count} {where}. In the table a column is a map of {name}, a row one of "
                f"those {where}, and a dot a connection."
            )
        self.inputs.value = caption_html(f"<b>What map {number} is made of:</b> {text}")
        self.connections.value = "" if sees.all() or one_to_one else connection_table(sees, number)
        maps = scaled(view.inputs[:PAGE], float(view.inputs.abs().max()))
        columns = len(maps) if len(maps) <= 8 else columns_for(len(maps))
        framed = [] if sees.all() else feeding
        put(map_sheet(maps, 0, columns, min((BELOW + GAP) // columns - GAP, SIDE // 2), framed, BLUE), self.below)
        self.below.layout.display = None

    def _point(self, change: object = None) -> None:
        """Show the unit under the pointer: its value, and what it sees."""
        name, number, (row, column) = self.layer.value, self.map.value, self.large.cell()
        chosen = self._views[name].output[number]
        field = self.inside.receptive_field(name, row, column)
        unit = Region(slice(row, row + 1), slice(column, column + 1))
        self.large.value = png(fitted(np.stack([scaled(chosen[None], self._limit)[0]] * 3, 2), LARGE, unit))
        self.large.alt = f"Map {number} of {name}, with the unit at row {row}, column {column} framed."
        rows, columns = field
        tall, wide = rows.stop - rows.start, columns.stop - columns.start
        put(fitted(photo(self._shown), LARGE, *[field] * (tall > 0)), self.picture)
        put(patches(self._shown[None], [field], LARGE)[0], self.patch)
        self.titles[1].value = f"<b>Map {number}</b> of {name}"
        self.titles[2].value = "What the unit sees"
        sees = (
            f"It sees the {tall}x{wide} pixels framed: rows {rows.start} to {rows.stop - 1}, columns "
            f"{columns.start} to {columns.stop - 1}."
        )
        self.unit_text.value = caption_html(
            f"<b>Unit at row {row}, column {column}</b> of map {number}: <b>{float(chosen[row, column]):.2f}</b>.<br>"
            f"{sees if tall else 'It sees no pixel of the image (or something on the way hides NaN).'}<br>"
            "Point at the map, or click on it and use the arrow keys."
        )
