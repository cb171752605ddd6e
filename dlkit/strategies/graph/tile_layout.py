"""How a value is split over a grid: rank r has a tile of two of its dimensions."""

from dataclasses import dataclass

from torch import Tensor

from dlkit.distributed.arrays.tile_exchange import Trade, gathered
from dlkit.distributed.arrays.tiles import Tiles
from dlkit.distributed.group import Group


@dataclass(frozen=True)
class TileLayout:
    """Rank r has the rows and columns `tiles.of(r)`, which are these two dimensions, and all of the others."""

    tiles: Tiles
    dims: tuple[int, int]

    @property
    def along(self) -> str:
        """What is split: "rows", "columns", or "tiles" of both."""
        high, wide = len(self.tiles.rows), len(self.tiles.columns)
        return "rows" if wide == 1 else "columns" if high == 1 else "tiles"

    @property
    def counts(self) -> list[int]:
        """Of each rank its rows, its columns, or the places of its tile."""
        parts = {"rows": self.tiles.rows, "columns": self.tiles.columns}.get(self.along)
        return [tile.area for tile in self.tiles] if parts is None else list(map(len, parts))

    @property
    def whole(self) -> int:
        return sum(self.counts)

    @property
    def told(self) -> str:
        """Each rank's part, such as "14 + 14", or "14x14 + 14x14"."""
        if self.along != "tiles":
            return " + ".join(map(str, self.counts))
        return " + ".join(f"{high}x{wide}" for high, wide in (tile.size for tile in self.tiles))

    def share(self, rank: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """From where to where a rank's rows reach, and its columns, as parts of all."""
        tile = self.tiles.of(rank)
        lengths = [sum(map(len, parts)) for parts in (self.tiles.rows, self.tiles.columns)]
        high, wide = ((own.start / n, own.stop / n) for own, n in zip(tile, lengths, strict=True))
        return high, wide

    def part_of(self, whole: Tensor, rank: int) -> Tensor:
        """A rank's part, in memory of its own."""
        part = whole
        for dim, places in zip(self.dims, self.tiles.of(rank), strict=True):
            part = part.narrow(dim, places.start if places else 0, len(places))
        return part.clone()

    def whole_of(self, part: Tensor, group: Group) -> Tensor:
        """All ranks' parts in their places, without autograd."""
        return gathered(part, Trade(group, self.tiles, self.tiles, self.dims))
