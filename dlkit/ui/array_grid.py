"""An image over a grid of ranks whose lines are dragged: who must hear whom, and how many bytes."""

import ipywidgets as widgets
from jaxtyping import Float
from torch import Tensor

from dlkit.core.text_table import as_html, format_bytes
from dlkit.distributed.arrays.tiles import Tile, Tiles, Window, even_tiles, halos, seen_by
from dlkit.ui.controls.dragged_lines import DraggedLines
from dlkit.ui.controls.elements import FULL_LABEL, WRAP, WRAP_TOP
from dlkit.ui.controls.image_viewer import Viewer
from dlkit.ui.controls.named_sliders import NamedSliders
from dlkit.ui.draw.pictures import caption_html, png
from dlkit.ui.draw.tile_map import tile_map

SIDE = 336  # pixels of the page, at most: the picture's longer side
GRIDS = ((1, 2), (2, 1), (2, 2), (1, 4), (3, 3), (4, 4))


class ArrayGrid(Viewer):
    """An image whose pixels are divided among the ranks of a grid, and the window of a layer's units.

    The lines of the grid are dragged, or moved by arrow keys. The layer has a unit at each pixel, whose window is
    around it (padding keeps the size), and a rank computes the units of its own pixels. Shown is what one rank borrows
    of which other, and what all send to all forward, for `batch_size` images of `maps` float32 maps.
    `tiles` are the ranks' pixels, `needed` what each one's windows see. ValueError for no images.
    """

    def __init__(self, images: Float[Tensor, "images *maps height width"], maps: int = 1, batch_size: int = 100):
        super().__init__(images)
        self.maps, self.batch_size = maps, batch_size
        self.shape = tuple(self.images.shape[-2:])
        grids = [grid for grid in GRIDS if all(length > 2 * n for length, n in zip(self.shape, grid, strict=True))]
        if not grids:
            raise ValueError(f"images of {self.shape[0]}x{self.shape[1]} pixels are too small to be divided.")
        self.grid = widgets.Dropdown(
            options=[(f"{p} x {q}", (p, q)) for p, q in grids],
            value=(2, 2) if (2, 2) in grids else grids[0],
            description="Grid (rows x columns)",
            style=FULL_LABEL,
            layout={"width": "220px"},
        )
        layout = {"width": "280px"}
        self.window = widgets.IntSlider(5, 1, max(self.shape), description="Window", style=FULL_LABEL, layout=layout)
        self.rank = widgets.IntSlider(0, 0, 3, description="Rank", style=FULL_LABEL, layout=layout)
        self.picture = DraggedLines(size=list(self.shape), layout={"margin": "2px 16px 2px 2px"})
        self.caption, self.table = widgets.HTML(), widgets.HTML()
        self.window.observe(self._draw, "value")
        self.rank.observe(self._draw, "value")
        self.grid.observe(self._divide, "value")
        self.picture.observe(self._draw, ["rows", "columns"])
        self.picture.observe(self._click, "clicked")
        self._divide()
        self.children = [
            widgets.HBox([self.image, self.grid, self.window, self.rank], layout=WRAP),
            widgets.HBox([self.picture, widgets.VBox([self.caption, self.table], layout={"width": "440px"})],
                         layout=WRAP_TOP),
            NamedSliders(),
        ]  # fmt: skip

    def __repr__(self) -> str:
        return f"ArrayGrid({len(self.images)} images of {self.shape[0]}x{self.shape[1]})"

    @property
    def tiles(self) -> Tiles:
        lines = zip(self.shape, (self.picture.rows, self.picture.columns), strict=True)
        ends = ([0, *between, length] for length, between in lines)
        return Tiles(*(tuple(map(range, each[:-1], each[1:])) for each in ends))

    @property
    def needed(self) -> Tiles:
        size = self.window.value
        window = Window(size, before=(size - 1) // 2)
        return seen_by((window, window), self.tiles, self.shape)

    def _look(self) -> None:
        self._draw()

    def _divide(self, change: object = None) -> None:
        """Begin with even tiles."""
        even = even_tiles(self.shape, self.grid.value)
        with self.picture.hold_trait_notifications():
            self.picture.rows, self.picture.columns = (
                [part.start for part in each[1:]] for each in (even.rows, even.columns)
            )
        self.rank.max = len(even) - 1
        self._draw()

    def _click(self, change: dict) -> None:
        """Look at the rank whose tile was clicked."""
        row, column = (min(place, length - 1) for place, length in zip(change["new"], self.shape, strict=True))
        self.rank.value = next(
            rank for rank, (rows, columns) in enumerate(self.tiles) if row < rows.stop and column < columns.stop
        )

    def _bytes(self, tile: Tile) -> int:
        return 4 * tile.area * self.maps * self.batch_size

    def _draw(self, change: object = None) -> None:
        tiles, needed, rank = self.tiles, self.needed, self.rank.value
        if rank >= len(tiles):
            return  # the grid is being changed
        borrowed = [halos(each, tiles, needed)[1] for each in range(len(tiles))]
        own, mine = tiles.of(rank), borrowed[rank]
        zoom = max(SIDE // max(self.shape), 1)
        self.picture.value = png(tile_map(self._shown, tiles, rank, mine, zoom))
        window = f"{self.window.value}x{self.window.value}"
        of = ", ".join(f"{part.size[0]}x{part.size[1]} of rank {lender}" for lender, part in mine.items()) or "nothing"
        self.picture.alt = (
            f"{self._image_name().capitalize()}, divided among {len(tiles)} ranks. Rank {rank} has "
            f"{own.size[0]}x{own.size[1]} pixels; for windows of {window} it borrows {of}."
        )
        beyond = [str(lender) for lender in mine if not touches(own, tiles.of(lender))]
        far = f" The window reaches beyond its neighbours: {ranks_of(beyond)} none of them." if beyond else ""
        sent = sum(self._bytes(part) for each in borrowed for part in each.values())
        seen = needed.of(rank)
        self.caption.value = caption_html(
            f"<b>Rank {rank}</b> has {own.size[0]}x{own.size[1]} pixels (blue). Its windows of {window} see "
            f"{seen.size[0]}x{seen.size[1]}, so it borrows {of}.{far} For {self.batch_size} images of "
            f"{self.maps} float32 map{'s' * (self.maps > 1)} all ranks together send "
            f"<b>{format_bytes(sent)}</b> forward, and as much backward."
        )
        self.table.value = self._who_hears_whom(borrowed)

    def _who_hears_whom(self, borrowed: list[dict[int, Tile]]) -> str:
        """What each rank hears of each, as a table; of a large grid only the sums."""
        ranks = range(len(borrowed))
        if len(ranks) > 9:
            rows = [[f"rank {i}", str(len(each)), format_bytes(sum(map(self._bytes, each.values())))]
                    for i, each in enumerate(borrowed)]  # fmt: skip
            return as_html(["", "hears so many ranks", "bytes"], rows)
        cells = [[format_bytes(self._bytes(each[j])) if j in each else "" for j in ranks] for each in borrowed]
        rows = [[f"rank {i} hears", *row] for i, row in enumerate(cells)]
        return as_html(["", *(f"of {j}" for j in ranks)], rows)


def ranks_of(numbers: list[str]) -> str:
    return f"rank {numbers[0]} is" if len(numbers) == 1 else f"ranks {', '.join(numbers)} are"


def touches(one: Tile, other: Tile) -> bool:
    """Are they neighbours, at a side or a corner?"""
    return all(
        first.start <= second.stop and second.start <= first.stop for first, second in zip(one, other, strict=True)
    )
