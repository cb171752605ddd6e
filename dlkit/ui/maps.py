"""The maps of a convolutional net one by one: what each is made of, what its units see, and which images excite it."""

from collections import Counter

import ipywidgets as widgets
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dlkit.analysis.feature_maps import FeatureMaps, LayerView
from dlkit.analysis.features import Region
from dlkit.ui.controls.image_viewer import Viewer
from dlkit.ui.controls.pointed_image import PointedImage
from dlkit.ui.draw.map_sheets import columns_for, connection_table, listed, patches, scaled, sheet
from dlkit.ui.draw.pictures import BLUE, GAP, ORANGE, caption_html, captioned, fitted, photo, png, put

LARGE, SIDE = 196, 112  # pixels: a large picture, a map on a sheet at most
WIDE, BELOW, PAGE = 412, 376, 120  # pixels: the sheet of maps, that of those below; maps on a sheet
PATCH = 44  # pixels: an image that excites a map


class MapExplorer(Viewer):
    """The maps of a net for an image, one by one, and for each map its units, what feeds it and what excites it.

    `net` is any module that takes images (batch, *maps, height, width); arrow keys or the pointer on the large map
    choose a unit. ValueError as for `FeatureMaps`, or if the labels do not fit the images.
    """

    def __init__(
        self,
        net: nn.Module,
        images: Float[Tensor, "images *maps height width"],
        labels: Int64[Tensor, " labels"] | None = None,
    ):
        super().__init__(images, labels)
        self.inside = FeatureMaps(net, self.images)
        self._looks = self.inside.views(self.images[0])
        options = []
        for name, look in self._looks.items():
            count, high, wide = look.output.shape
            options.append((f"{name}: {count} map{'s' * (count > 1)} of {high}x{wide}", name))
        style = {"description_width": "initial"}
        self.layer = widgets.Dropdown(options=options, description="Layer", layout={"width": "260px"}, style=style)
        self.map = widgets.BoundedIntText(description="Map", min=0, layout={"width": "120px"}, style=style)
        self.back = widgets.Button(icon="chevron-left", tooltip="Previous map", layout={"width": "40px"})
        self.on = widgets.Button(icon="chevron-right", tooltip="Next map", layout={"width": "40px"})
        self.caption, self.words, self.made_of, self.wiring, self.exciting = (widgets.HTML() for _ in range(5))
        self.picture, self.patch, self.maps, self.below, self.best = (widgets.Image(format="png") for _ in range(5))
        self.large = PointedImage(layout={"margin": "2px"})
        self.titles = [widgets.HTML() for _ in range(4)]
        self.layer.observe(self._enter, "value")
        self.map.observe(self._choose, "value")
        self.large.observe(self._point, "place")
        self.back.on_click(lambda _: self._step(-1))
        self.on.on_click(lambda _: self._step(+1))
        self._enter()
        right = {"margin": "0 16px 0 0"}
        pictures = [
            widgets.VBox([title, picture], layout=right)
            for title, picture in zip(self.titles, (self.picture, self.large, self.patch), strict=False)
        ]
        sheets = [
            widgets.VBox([self.titles[3], self.maps], layout={"width": f"{WIDE + 4}px", **right}),
            widgets.VBox(
                [self.made_of, self.below, self.wiring], layout={"width": f"{BELOW + 4}px", "margin": "4px 0 0 0"}
            ),
        ]
        wrap = {"flex_flow": "row wrap", "align_items": "flex-start"}
        self.children = [
            widgets.HBox([self.layer, self.map, self.back, self.on, self.image], layout=wrap),
            self.caption,
            widgets.HBox(
                [*pictures, widgets.Box([self.words], layout={"width": "164px", "margin": "4px 0 0 0"})], layout=wrap
            ),
            widgets.HBox(sheets, layout=wrap),
            self.exciting,
            self.best,
        ]

    def __repr__(self) -> str:
        return f"MapExplorer(layers {', '.join(self.inside.names)}, {len(self.images)} images)"

    def _step(self, steps: int) -> None:
        self.map.value = (self.map.value + steps) % (self.map.max + 1)

    def _enter(self, change: object = None) -> None:
        """Go into another layer."""
        count, high, wide = self._looks[self.layer.value].output.shape
        self.large.cells = [wide, high]
        kept = self.map.value < count
        self.map.max = count - 1  # moves the map to the last one, if it is not there, and draws that
        if kept:
            self._choose()

    def _look(self) -> None:
        self._looks = self.inside.views(self._shown)
        self._draw()

    def _choose(self, change: object = None) -> None:
        """Show what another map is made of, and what excites it."""
        name, number = self.layer.value, self.map.value
        best = self.inside.top_images(name, number)
        fields = [
            self.inside.receptive_field(name, *unit)
            for unit in zip(best.rows.tolist(), best.columns.tolist(), strict=True)
        ]
        found = patches(self.images[best.images], fields, PATCH)
        put(captioned(found, [f"{value:.2f}" for value in best.values.tolist()], len(found), PATCH), self.best)
        among = f"{self.inside.searched:,} images"
        if self.inside.searched < len(self.images):
            among = f"first {among}"
        before = "" if self.inside.ranked_by[name] == name else ", before they are squashed"
        text = (
            f"<b>What excites map {number} of {name}:</b> the {len(found)} of the {among} with its largest values"
            f"{before}, each cut to what its best unit sees, with that value. Their numbers: "
            f"{', '.join(map(str, best.images.tolist()))}."
        )
        if self.labels is not None:
            labels = Counter(self.labels[best.images].tolist()).most_common()
            text += f" Their labels, and how often: {', '.join(f'{label} ({count})' for label, count in labels)}."
        self.exciting.value = caption_html(text)
        self._draw()

    def _draw(self) -> None:
        """Draw the layer's maps, and those below, for the image."""
        name, number = self.layer.value, self.map.value
        look = self._looks[name]
        count, high, wide = look.output.shape
        self._limit = float(look.output.abs().max())
        first = number // PAGE * PAGE
        drawn = scaled(look.output[first : first + PAGE], self._limit)
        columns = columns_for(len(drawn))
        put(sheet(drawn, first, columns, min((WIDE + GAP) // columns - GAP, SIDE), {number}, ORANGE), self.maps)
        shown = f"the {count}" if count <= PAGE else f"{len(drawn)} of the {count}"
        self.titles[3].value = f"<b>{name}</b>: {shown} map{'s' * (count > 1)}, map {number} framed"
        self.caption.value = caption_html(
            f"<b>Layer {name}</b> for {self._whose()}: {count} map{'s' * (count > 1)} of {high}x{wide} units. Grey is "
            f"0; white and black are {self._limit:.2f} and {-self._limit:.2f}, the layer's largest magnitude."
        )
        self.titles[0].value = self._whose().capitalize()
        self._draw_below(name, number, look)
        self._point()

    def _draw_below(self, name: str, number: int, look: LayerView) -> None:
        """Draw the maps below, and say which of them feed the map."""
        sees = self.inside.connections(name) if look.inputs is not None else None
        if sees is None or look.inputs is None:
            self.below.layout.display, self.wiring.value = "none", ""
            self.made_of.value = caption_html(
                f"<b>What map {number} is made of:</b> no maps come into {name}, but the image."
            )
            return
        fed, count = sees[number].nonzero()[:, 0].tolist(), len(look.inputs)
        place = f"of {look.below} below" if look.below else f"that come{'s' * (count == 1)} in"
        one_to_one = sees.shape[0] == count and bool((sees == torch.eye(count, dtype=torch.bool)).all())
        if count == 1:
            text = f"the one map {place}."
        elif sees.all():
            text = f"all {count} maps {place}, as is each map of {name}."
        elif one_to_one:
            text = f"map {number} of those {place}, as each map of {name} is of the one of its number."
        else:
            text = (
                f"{listed(fed)} of the {count} {place}. In the table a column is a map of {name}, a row one of those "
                f"{place}, and a dot a connection."
            )
        self.made_of.value = caption_html(f"<b>What map {number} is made of:</b> {text}")
        self.wiring.value = "" if sees.all() or one_to_one else connection_table(sees, number)
        drawn = scaled(look.inputs[:PAGE], float(look.inputs.abs().max()))
        columns = len(drawn) if len(drawn) <= 8 else columns_for(len(drawn))
        framed = [] if sees.all() else fed
        put(sheet(drawn, 0, columns, min((BELOW + GAP) // columns - GAP, SIDE // 2), framed, BLUE), self.below)
        self.below.layout.display = None

    def _point(self, change: object = None) -> None:
        """Show the unit that the pointer is on: its value, and what it sees."""
        name, number, (row, column) = self.layer.value, self.map.value, self.large.cell()
        chosen = self._looks[name].output[number]
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
        self.words.value = caption_html(
            f"<b>Unit at row {row}, column {column}</b> of map {number}: <b>{float(chosen[row, column]):.2f}</b>.<br>"
            f"{sees if tall else 'It sees no pixel of the image (or something on the way hides NaN).'}<br>"
            "Point at the map, or click on it and use the arrow keys."
        )
