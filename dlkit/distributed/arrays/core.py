"""A tensor whose rows and columns are split over a grid of ranks, and that a layer reads as if it were whole.

Source: Coates, Huval, Wang, Wu, Catanzaro, Ng 2013, Deep learning with COTS HPC systems, whose
"simple distributed array abstraction" hides all communication.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dlkit.distributed.arrays.tile_exchange import Trade, cut_tile, exchange_tiles, gather_tiles
from dlkit.distributed.arrays.tiles import Tile, Tiles, even_tiles
from dlkit.distributed.autograd import copy_to_ranks
from dlkit.distributed.group import Group

Rule = Callable[["Call"], Any]  # gives the call's result, or NotImplemented: everything is gathered then
RULES: dict[str, Rule] = {}
STARTERS = {"conv2d", "conv_transpose2d", "locally_connected"}  # from which on what all have alike is split


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

    def everywhere(self, whole: Tensor) -> "DistributedArray":
        """What all ranks have alike, as an array: it is split where a layer with weights of windows takes it."""
        return DistributedArray(self, None, None, source=whole)

    def cut(self, whole: Tensor, dims: Sequence[int] = (2, 3)) -> "DistributedArray":
        """What all ranks have alike, each of which goes on with a tile of these dimensions."""
        return DistributedArray(self, None, self.tiles([whole.shape[dim] for dim in dims]), dims, source=whole)

    def take(self, whole: Tensor, need: Tiles, dims: Sequence[int] = (2, 3)) -> Tensor:
        """The tile that this rank needs of what all have alike. Gradients of all ranks are added up, backward."""
        trade = Trade(self.group, need, need, (dims[0], dims[1]))
        return trade.select(copy_to_ranks(whole, self.group), trade.own, trade.everything(whole)).contiguous()


class DistributedArray(Tensor):
    """A tensor whose rows and columns, which are dimensions `dims`, are split over the ranks of a grid.

    Its shape is the whole's. local: this rank's tile, `tiles.of(rank)`. torch's functions, and layers made of them,
    take an array as they take a tensor: what they need of other ranks comes from there, and its gradients go back. What
    no rule splits has everything gathered, and gives an array that all ranks have alike: `tiles` is None then, and
    `source` all of it.
    """

    grid: Grid
    tiles: Any
    dims: tuple[int, int]
    source: Tensor | None
    _local: Tensor | None
    _version_cut = 0

    @staticmethod
    def __new__(
        cls,
        grid: Grid,
        local: Tensor | None,
        tiles: Tiles | None,
        dims: Sequence[int] = (2, 3),
        source: Tensor | None = None,
    ) -> "DistributedArray":
        given = source if local is None else local
        assert given is not None
        shape = list(given.shape)
        if local is not None and tiles is not None:
            for dim, parts in zip(dims, (tiles.rows, tiles.columns), strict=True):
                shape[dim] = sum(map(len, parts))
        made = Tensor._make_wrapper_subclass(cls, torch.Size(shape), dtype=given.dtype, device=given.device)
        made.grid, made.tiles, made.dims = grid, tiles, (dims[0], dims[1])
        made.source, made._local = source, local
        return made

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        has = "all" if self.tiles is None else f"{tuple(self.local.shape)}"
        return f"DistributedArray(shape {tuple(self.shape)}, of which this rank has {has})"

    @property
    def local(self) -> Tensor:
        """This rank's tile."""
        if self._local is None:
            assert self.source is not None
            self._local = cut_tile(self.source, self._trade(self.tiles))
            self._version_cut = self._local._version
        return self._local

    def _forget_source(self) -> None:
        """If the tile has since been changed in place, perhaps through a view, it is here alone."""
        if self._local is not None and self.tiles is not None and self._local._version != self._version_cut:
            self.source = None

    @property
    def size_of_maps(self) -> tuple[int, int]:
        return self.shape[self.dims[0]], self.shape[self.dims[1]]

    @property
    def own(self) -> Tile:
        return self.tiles.of(self.grid.group.rank)

    def with_local(
        self, local: Tensor, tiles: Tiles | None = None, dims: Sequence[int] | None = None
    ) -> "DistributedArray":
        return DistributedArray(self.grid, local, tiles or self.tiles, dims or self.dims)

    def needed(self, need: Tiles) -> Tensor:
        """The tile that this rank needs, from whoever has it."""
        if need == self.tiles:
            return self.local
        self._forget_source()
        if self.source is not None and not self.source.requires_grad:
            return cut_tile(self.source, Trade(self.grid.group, need, need, self.dims))
        return exchange_tiles(self.local, self._trade(need))

    def whole(self) -> Tensor:
        """All of it, on all ranks, which go on to compute the same with it."""
        self._forget_source()
        return gather_tiles(self.local, self._trade(self.tiles)) if self.source is None else self.source

    def _trade(self, need: Tiles) -> Trade:
        return Trade(self.grid.group, self.tiles, need, self.dims)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = name_of(func), kwargs or {}
        if name in METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        call = Call(func, name, args, kwargs)
        if name in RULES and (call.arrays or name in STARTERS):
            result = RULES[name](call)
            if result is not NotImplemented:
                return call.wrapped(result)
        return call.wrapped(call.gathered())

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
    """A call of one of torch's functions with arrays among its arguments.

    `arrays` are those that are split, `array` the first of them; others stand among the arguments as plain tensors.
    """

    def __init__(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.func, self.name = func, name
        every = list(found(DistributedArray, (args, kwargs)))
        self.grid = every[0].grid
        self.arrays = [array for array in every if array.tiles is not None]
        self._alike = {id(array.source): array for array in every if array.tiles is None}
        self.args, self.kwargs = (
            (replaced(values, as_plain) for values in (args, kwargs)) if self._alike else (args, kwargs)
        )

    def __repr__(self) -> str:
        return f"Call({self.name})"

    @property
    def array(self) -> DistributedArray:
        return self.arrays[0]

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def maps(self) -> DistributedArray | None:
        """The first argument, if it is maps whose rows and columns are split, or can be from here on."""
        x = self.argument(0, "input")
        if isinstance(x, DistributedArray):
            return x if len(self.arrays) == 1 and x.ndim == 4 and x.dims == (2, 3) else None
        if self.arrays or x.ndim != 4 or any(n < count for n, count in zip(x.shape[2:], self.grid.shape, strict=True)):
            return None
        return self.grid.cut(x)

    def on(self, change: Callable[[Any], Any]) -> Any:
        """The function of other values in place of all tensors and arrays."""
        return self.func(*replaced(self.args, change), **replaced(self.kwargs, change))

    def gathered(self) -> Any:
        """Of all of each array."""
        if not self.arrays:
            return self.func(*self.args, **self.kwargs)
        self.grid.gathered[self.name] = self.grid.gathered.get(self.name, 0) + 1
        wholes = {id(array): array.whole() for array in self.arrays}
        before = {id(array): wholes[id(array)]._version for array in self.arrays}
        result = self.on(lambda value: wholes[id(value)] if isinstance(value, DistributedArray) else value)
        for array in self.arrays:
            if (whole := wholes[id(array)])._version != before[id(array)]:  # what is changed in place is so everywhere
                array.tiles, array.source, array._local = None, whole, None
                self._alike[id(whole)] = array
        return result

    def copied(self, value: Any) -> Any:
        """A tensor that all ranks have alike, for what each computes of its tile: gradients are added up."""
        return copy_to_ranks(value, self.grid.group) if isinstance(value, Tensor) else value

    def wrapped(self, result: Any) -> Any:
        """Tensors as arrays that all ranks have alike; those that were changed in place stay what they were."""

        def as_array(value: Tensor) -> Tensor:
            if isinstance(value, DistributedArray):
                return value
            return self._alike[id(value)] if id(value) in self._alike else self.grid.everywhere(value)

        return replaced(result, as_array)


def as_plain(value: Tensor) -> Tensor:
    """What all ranks have alike as the tensor that it is."""
    return value.source if isinstance(value, DistributedArray) and value.tiles is None else value  # type: ignore[return-value]


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
    if isinstance(values, list | tuple):
        items = [replaced(value, change) for value in values]
        return type(values)(*items) if hasattr(values, "_fields") else type(values)(items)
    return values


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Let a rule stand for functions of these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register
