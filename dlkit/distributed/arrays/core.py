"""A tensor whose rows and columns are split over a grid of ranks, and that a layer reads as if it were whole.

Source: Coates, Huval, Wang, Wu, Catanzaro, Ng 2013, Deep learning with COTS HPC systems, whose
"simple distributed array abstraction" hides all communication.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dlkit.distributed.arrays.tile_exchange import Trade, exchange_tiles, gather_tiles
from dlkit.distributed.arrays.tiles import Tile, Tiles, even_tiles
from dlkit.distributed.autograd import copy_to_ranks
from dlkit.distributed.group import Group

Rule = Callable[["Call"], Any]  # gives the call's result, or NotImplemented: everything is gathered then
RULES: dict[str, Rule] = {}


class Grid:
    """p x q ranks, of which each has a tile of every array: rank r that of row r // q and column r % q.

    gathered: what needed everything, by its name, and how often.
    ValueError for a grid of another number of ranks.
    """

    def __init__(self, group: Group, shape: tuple[int, int]):
        if len(shape) != 2 or min(shape) < 1 or shape[0] * shape[1] != group.world_size:
            raise ValueError(
                f"a grid of {' x '.join(map(str, shape))} for {group.world_size} ranks: its rows times its columns "
                "must be the number of ranks."
            )
        self.group, self.shape = group, (int(shape[0]), int(shape[1]))
        self.gathered: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"Grid({self.shape[0]} x {self.shape[1]}, rank {self.group.rank})"

    def tiles(self, size: Sequence[int]) -> Tiles:
        return even_tiles(size, self.shape)

    def split(self, whole: Tensor) -> "DistributedArray":
        """This rank's tile of images (batch, ..., rows, columns) that all ranks have alike. Nothing is sent forward.

        ValueError if that leaves a rank nothing.
        """
        if whole.ndim < 3:
            raise ValueError(f"a tensor of shape {tuple(whole.shape)}: images are (batch, ..., rows, columns).")
        size = whole.shape[-2:]
        if any(length < count for length, count in zip(size, self.shape, strict=True)):
            raise ValueError(
                f"images of {size[0]}x{size[1]} over a grid of {self.shape[0]} x {self.shape[1]} leave a rank nothing: "
                "take a smaller grid."
            )
        return self.cut(whole, (whole.ndim - 2, whole.ndim - 1))

    def cut(self, whole: Tensor, dims: tuple[int, int] = (2, 3)) -> "DistributedArray":
        """This rank's tile of what all ranks have alike, whose rows and columns are these dimensions."""
        tiles = self.tiles([whole.shape[dim] for dim in dims])
        return DistributedArray(self.take(whole, tiles, dims), tiles, self, dims)

    def take(self, whole: Tensor, need: Tiles, dims: tuple[int, int] = (2, 3)) -> Tensor:
        """The tile that this rank needs of what all have alike. Gradients of all ranks are added up, backward."""
        size = [whole.shape[dim] for dim in dims]
        everything = Tile(range(size[0]), range(size[1]))
        trade = Trade(self.group, need, need, dims)
        tile = need.of(self.group.rank)
        return trade.select(copy_to_ranks(whole, self.group), tile, everything).contiguous()


class DistributedArray(Tensor):
    """`local` is what this rank has of the whole: rows and columns `tiles.of(rank)` of dimensions `dims`.

    Its shape is that of the whole. torch's functions, and layers made of them, take it as they take a tensor: what they
    need of other ranks comes from there, and its gradients go back. What no rule splits has everything gathered, and
    gives a tensor that all ranks have alike.
    """

    local: Tensor
    tiles: Tiles
    grid: Grid
    dims: tuple[int, int]

    @staticmethod
    def __new__(cls, local: Tensor, tiles: Tiles, grid: Grid, dims: Sequence[int] = (2, 3)) -> "DistributedArray":
        shape = list(local.shape)
        for dim, parts in zip(dims, (tiles.rows, tiles.columns), strict=True):
            shape[dim] = sum(map(len, parts))
        made = Tensor._make_wrapper_subclass(cls, torch.Size(shape), dtype=local.dtype, device=local.device)
        made.local, made.tiles, made.grid, made.dims = local, tiles, grid, (dims[0], dims[1])
        return made

    def __init__(self, local: Tensor, tiles: Tiles, grid: Grid, dims: Sequence[int] = (2, 3)):
        pass

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"DistributedArray(shape {tuple(self.shape)}, of which this rank has {tuple(self.local.shape)})"

    @property
    def size_of_maps(self) -> tuple[int, int]:
        return self.shape[self.dims[0]], self.shape[self.dims[1]]

    @property
    def own(self) -> Tile:
        return self.tiles.of(self.grid.group.rank)

    def with_local(
        self, local: Tensor, tiles: Tiles | None = None, dims: Sequence[int] | None = None
    ) -> "DistributedArray":
        return DistributedArray(local, tiles or self.tiles, self.grid, dims or self.dims)

    def needed(self, need: Tiles) -> Tensor:
        """The tile that this rank needs, from whoever has it."""
        if need == self.tiles:
            return self.local
        return exchange_tiles(self.local, Trade(self.grid.group, self.tiles, need, self.dims))

    def whole(self) -> Tensor:
        """All of it, on all ranks, which go on to compute the same with it."""
        return gather_tiles(self.local, Trade(self.grid.group, self.tiles, self.tiles, self.dims))

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = name_of(func)
        if name in METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        call = Call(func, name, args, kwargs or {})
        if name in RULES:
            result = RULES[name](call)
            if result is not NotImplemented:
                return result
        return call.gathered()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # pyrefly: ignore[bad-override]
        raise NotImplementedError(f"{func} has come to an array below torch's functions: take its .whole().")


OF_THE_WHOLE = """
    shape ndim dtype device layout size dim numel nelement ndimension is_floating_point is_complex __len__ element_size
    names is_sparse is_quantized is_mkldnn is_meta is_nested is_cuda is_cpu itemsize is_signed get_device has_names
"""
METADATA = frozenset(OF_THE_WHOLE.split())


def name_of(func: Any) -> str:
    """That of a function or a method, or of an attribute that is read; operators and methods in place without their
    underscores.
    """
    name = getattr(func, "__name__", "")
    if name in ("__get__", "__set__"):
        name = ("set " if name == "__set__" else "") + func.__self__.__name__
    if name == "__len__":
        return name
    return name.strip("_") if name.startswith("__") else name.removesuffix("_")


class Call:
    """A call of one of torch's functions with arrays among its arguments; `array` is the first of them."""

    def __init__(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.func, self.name, self.args, self.kwargs = func, name, args, kwargs
        self.arrays = list(found(DistributedArray, (args, kwargs)))
        self.array = self.arrays[0]
        self.grid = self.array.grid

    def __repr__(self) -> str:
        return f"Call({self.name})"

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def on(self, change: Callable[[Any], Any]) -> Any:
        """The function of other values in place of all tensors and arrays."""
        return self.func(*replaced(self.args, change), **replaced(self.kwargs, change))

    def gathered(self) -> Any:
        """Of all of each array."""
        self.grid.gathered[self.name] = self.grid.gathered.get(self.name, 0) + 1
        return self.on(lambda value: value.whole() if isinstance(value, DistributedArray) else value)

    def copied(self, value: Any) -> Any:
        """A tensor that all ranks have alike, for what each computes of its tile: gradients are added up."""
        return copy_to_ranks(value, self.grid.group) if isinstance(value, Tensor) else value


def found(kind: type, values: Any) -> Iterator[Any]:
    if isinstance(values, kind):
        yield values
    elif isinstance(values, dict):
        yield from found(kind, list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from found(kind, value)


def replaced(values: Any, change: Callable[[Any], Any]) -> Any:
    """The same, each tensor changed."""
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, dict):
        return {key: replaced(value, change) for key, value in values.items()}
    if type(values) in (list, tuple):
        return type(values)(replaced(value, change) for value in values)
    return values


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Let a rule stand for functions of these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register
