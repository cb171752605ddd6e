"""A tensor whose rows and columns are split over a grid of ranks, and that a layer reads as if it were whole.

Source: Coates, Huval, Wang, Wu, Catanzaro, Ng 2013, Deep learning with COTS HPC systems, whose
"simple distributed array abstraction" hides all communication.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from dlkit.core.arguments import argument
from dlkit.distributed.arrays.bill import Bill, borrowed, copied, cut, gathered
from dlkit.distributed.arrays.tile_exchange import Trade, cut_tile, exchange_tiles, gather_tiles
from dlkit.distributed.arrays.tiles import Tile, Tiles, even_tiles, is_local
from dlkit.distributed.autograd import copy_to_ranks
from dlkit.distributed.group import Group

Rule = Callable[["Call"], Any]  # gives the call's result, or NotImplemented: everything is gathered then
RULES: dict[str, Rule] = {}
QUICK: set[str] = set()  # names of functions of each element
NO_NAMES: frozenset[str] = frozenset()
IN_PLACE_OPERATORS = {"iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"}
PLAIN = frozenset([int, float, bool, str, type(None), torch.dtype, torch.Size])
STARTERS = {"conv2d", "conv_transpose2d", "locally_connected"}  # from which on what all have alike is split


class Grid:
    """p x q ranks, of which each has a tile of every array: rank r that of row r // q and column r % q.

    overlaps: whether outputs that need nothing of others are computed while the rest is on its way, which costs a
    little where the way is short.
    gathered: what needed everything, by its name, and how often. bill: of each exchange, in their order, what ranks
    send; None where nobody wants it. uses: of each of a net's parameters that `parameter` has made arrays, how a rank
    takes it: "whole", as all ranks do alike, for its "tile", or Tiles, those of its places that it takes. added_up: the
    parameters whose gradients are added up over ranks after the backward pass, by whoever has named them here.
    ValueError for a grid of another number of ranks.
    """

    def __init__(self, group: Group, shape: tuple[int, int], *, overlaps: bool = False):
        if len(shape) != 2 or min(shape) < 1 or shape[0] * shape[1] != group.world_size:
            raise ValueError(
                f"a grid of {' x '.join(map(str, shape))} for {group.world_size} ranks: its rows times its columns "
                "must be the number of ranks."
            )
        self.group, self.shape, self.overlaps = group, (int(shape[0]), int(shape[1])), overlaps
        self.gathered: dict[str, int] = {}
        self.bill: list[Bill] | None = None
        self.uses: dict[str, set[Any]] = defaultdict(set)
        self.added_up: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"Grid({self.shape[0]} x {self.shape[1]}, rank {self.group.rank})"

    @property
    def place(self) -> tuple[int, int]:
        """This rank's row and column of the grid."""
        return divmod(self.group.rank, self.shape[1])

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

    def parameter(self, name: str, value: Tensor, tiles: Tiles | None = None) -> "DistributedArray":
        """A net's parameter as an array that knows its name, as does what is computed of such alone.

        tiles: of its first two dimensions, where `value` is this rank's.
        """
        names = frozenset([name])
        if tiles is None:
            return DistributedArray(self, None, None, source=value, of_parameters=names)
        return DistributedArray(self, value, tiles, (0, 1), of_parameters=names)

    def cut(self, whole: Tensor, dims: Sequence[int] = (2, 3)) -> "DistributedArray":
        """What all ranks have alike, each of which goes on with a tile of these dimensions."""
        return DistributedArray(self, None, self.tiles([whole.shape[dim] for dim in dims]), dims, source=whole)

    def use_whole(self, parameters: frozenset[str]) -> None:
        """Note that all ranks alike take what is computed of these parameters.

        RuntimeError if their gradients, added up, would be counted by every rank.
        """
        for name in parameters:
            self.uses[name].add("whole")
        if parameters & self.added_up:
            raise RuntimeError(
                f"{', '.join(sorted(parameters))}: the net takes it otherwise than for its first images, so that "
                "gradients would be counted more than once: let all images go one way, or use DataParallel."
            )

    def note(self, make: Callable[..., Bill], *arguments: Any) -> None:
        """An exchange, for the bill."""
        if self.bill is not None:
            self.bill.append(make(*arguments))


class DistributedArray(Tensor):
    """A tensor whose rows and columns, which are dimensions `dims`, are split over the ranks of a grid.

    Its shape is the whole's. local: this rank's tile, `tiles.of(rank)`. torch's functions, and layers made of them,
    take an array as they take a tensor: what they need of other ranks comes from there, and its gradients go back. What
    no rule splits has everything gathered, and gives an array that all ranks have alike: `tiles` is None then, and
    `source` all of it. of_parameters: the names of parameters that it is computed of alone.
    """

    grid: Grid
    tiles: Any
    dims: tuple[int, int]
    source: Tensor | None
    of_parameters: frozenset[str]
    _size: torch.Size
    _local: Tensor | None
    _version_cut = 0
    _copies: list["ViewCopy"]  # of parts of it, which torch would give views of
    _part_of: "ViewCopy | None" = None  # where it is one of these itself
    _became: "DistributedArray | None" = None  # of another shape, in place
    _some_became = False  # has any array?

    @staticmethod
    def __new__(
        cls,
        grid: Grid,
        local: Tensor | None,
        tiles: Tiles | None,
        dims: Sequence[int] = (2, 3),
        source: Tensor | None = None,
        of_parameters: frozenset[str] = NO_NAMES,
    ) -> "DistributedArray":
        given = source if local is None else local
        assert given is not None
        shape = list(given.shape)
        if local is not None and tiles is not None:
            for dim, parts in zip(dims, (tiles.rows, tiles.columns), strict=True):
                shape[dim] = sum(map(len, parts))
        grad = torch.is_grad_enabled() and given.requires_grad  # so that what does not see arrays leaves a trace
        made = Tensor._make_wrapper_subclass(
            cls, torch.Size(shape), dtype=given.dtype, device=given.device, requires_grad=grad
        )
        made._size = torch.Size(shape)
        made.grid, made.tiles, made.dims = grid, tiles, (dims[0], dims[1])
        made.source, made._local, made.of_parameters = source, local, of_parameters
        made._copies = []
        return made

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        has = "all" if self.tiles is None else f"{tuple(self.local.shape)}"
        return f"DistributedArray(shape {tuple(self.shape)}, of which this rank has {has})"

    @property
    def shape(self) -> torch.Size:  # pyrefly: ignore[bad-override]
        """As a tensor's, without the way through torch, as rules ask for it again and again."""
        return self._size

    @property
    def ndim(self) -> int:  # pyrefly: ignore[bad-override]
        return len(self._size)

    @property
    def local(self) -> Tensor:
        """This rank's tile."""
        if self._local is None:
            assert self.source is not None
            trade = self._trade(self.tiles)
            if torch.is_grad_enabled() and self.source.requires_grad:
                self.grid.note(cut, self.source, trade)
            self._local = cut_tile(self.source, trade)
            self._version_cut = self._local._version
        return self._local

    def _forget_source(self) -> None:
        """If the tile has since been changed in place, perhaps through a view, it is here alone."""
        if self._local is not None and self.tiles is not None and self._local._version != self._version_cut:
            self.source = None

    @property
    def version(self) -> int:
        """Grows with each change in place."""
        return sum(tensor._version for tensor in (self._local, self.source) if tensor is not None)

    def catch_up(self) -> None:
        """Be what copies of its parts have been changed to, as their views would have been.

        RuntimeError if it is such a copy, and what it is of has been changed.
        """
        if not self._copies and self._part_of is None:
            return
        copies, self._copies = self._copies, []
        for copy in copies:
            if copy.tensor._version != copy.version:
                copy.write_back()
                copy.version, copy.base_version = copy.tensor._version, self.version
        self._copies += copies
        part = self._part_of
        if part is not None and part.base.version != part.base_version:
            raise RuntimeError(
                "an array was changed in place after a part of it was taken, which a view would show and this part "
                "does not: take the part again, or change a clone."
            )

    def copied_part(self, tensor: Tensor, write_back: Callable[[], None]) -> "ViewCopy":
        """Note a copy, where torch would give a view. write_back: gives this array what the copy was changed to."""
        self._copies.append(ViewCopy(self, self.version, tensor, tensor._version, write_back))
        return self._copies[-1]

    def take_over(self, whole: Tensor) -> None:
        """Be this, in place, which all ranks have."""
        if self.source is not whole:
            if torch.is_grad_enabled() and whole.requires_grad:
                self.grid.note(cut, whole, self._trade(self.tiles))
            self.local.copy_(cut_tile(whole, self._trade(self.tiles)))

    @property
    def size_of_maps(self) -> tuple[int, int]:
        return self.shape[self.dims[0]], self.shape[self.dims[1]]

    @property
    def split_dims(self) -> tuple[int, ...]:
        """Those of `dims` that are in more than one part."""
        return tuple(dim for dim, count in zip(self.dims, self.grid.shape, strict=True) if count > 1)

    @property
    def own(self) -> Tile:
        return self.tiles.of(self.grid.group.rank)

    def with_local(
        self, local: Tensor, tiles: Tiles | None = None, dims: Sequence[int] | None = None
    ) -> "DistributedArray":
        made = DistributedArray(self.grid, local, tiles or self.tiles, dims or self.dims)
        if self._part_of is not None and self._local is not None and is_view_of(local, self._local):
            made._part_of = self._part_of
        return made

    def like(self, local: Tensor) -> "DistributedArray":
        """With other numbers in the same places."""
        made = Tensor._make_wrapper_subclass(
            DistributedArray,
            self._size,
            dtype=local.dtype,
            device=local.device,
            requires_grad=local.requires_grad and torch.is_grad_enabled(),
        )
        made._size, made.grid, made.tiles, made.dims = self._size, self.grid, self.tiles, self.dims
        made.source, made._local, made.of_parameters, made._copies = None, local, NO_NAMES, []
        return made

    def moved(self, local: Tensor, place: Callable[[int], int | None], tiles: Tiles | None = None) -> Any:
        """Another tensor split likewise. place: of a dimension, in the new one; None if it is gone.

        Where one that is in one part is gone, another takes its place. NotImplemented if one in several parts is.
        """
        places: list[Any] = [place(dim) for dim in self.dims]
        split = [count > 1 for count in self.grid.shape]
        if any(each is None and is_split for each, is_split in zip(places, split, strict=True)):
            return NotImplemented
        for number, each in enumerate(places):
            if each is None:
                other = places[1 - number]
                beside = [] if other is None else [other + (1 if number else -1)]
                free = (dim for dim in (*beside, *range(local.ndim)) if 0 <= dim < local.ndim and dim not in places)
                places[number] = next(free, None)
        if any(each is None for each in places):
            return NotImplemented if any(split) else local
        parts = tiles or self.tiles
        lines = [
            own if is_split else (range(local.shape[dim]),)
            for own, is_split, dim in zip((parts.rows, parts.columns), split, places, strict=True)
        ]
        return self.with_local(local, Tiles(*lines), places)

    def part_of(self, value: Tensor, offset: int = 0) -> Tensor:
        """Of a tensor that all ranks have, with dimensions like these, this rank's part. offset: of its dimensions."""
        for dim, places, length in zip(self.dims, self.own, self.size_of_maps, strict=True):
            if dim in self.split_dims and dim + offset >= 0 and value.shape[dim + offset] == length:
                value = value.narrow(dim + offset, places.start if places else 0, len(places))
        return value

    def alike(self, other: "DistributedArray") -> Tensor | None:
        """This rank's part of it, split as another array is; None if it cannot be."""
        shift = self.ndim - other.ndim
        if self.split_dims == tuple(dim + shift for dim in other.split_dims):
            lines = (zip(self.grid.shape, (a.rows, a.columns), strict=True) for a in (self.tiles, other.tiles))
            mine, theirs = ([own for count, own in each if count > 1] for each in lines)
            if mine == theirs:
                return self.local
        if self.dims == tuple(dim + shift for dim in other.dims) and self.size_of_maps == other.size_of_maps:
            return self.needed(other.tiles)
        return None

    def needed(self, need: Tiles) -> Tensor:
        """The tile that this rank needs, from whoever has it."""
        if need == self.tiles:
            return self.local
        self._forget_source()
        if self.source is not None and not self.source.requires_grad:
            return cut_tile(self.source, Trade(self.grid.group, need, need, self.dims))
        trade = self._trade(need)
        if not is_local(trade.have, trade.need):
            self.grid.note(borrowed, self.local, trade)
        return exchange_tiles(self.local, trade)

    def whole(self) -> Tensor:
        """All of it, on all ranks, which go on to compute the same with it."""
        self._refuse_foreign()
        self.catch_up()
        self._forget_source()
        if self.source is not None:
            return self.source
        trade = self._trade(self.tiles)
        self.grid.note(gathered, self.local, trade)
        return gather_tiles(self.local, trade)

    def _refuse_foreign(self) -> None:
        """RuntimeError if a function that torch does not tell of arrays has made it: its gradient would be lost."""
        with torch._C.DisableTorchFunction():
            made_by = self.grad_fn
        if made_by is not None:
            raise RuntimeError(
                f"{type(made_by).__name__.removesuffix('Backward')}.apply does not know arrays, and would lose their "
                "gradient: give it x.whole(), and take what it gives as it is."
            )

    def _trade(self, need: Tiles) -> Trade:
        return Trade(self.grid.group, self.tiles, need, self.dims)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = name_of(func), kwargs or {}
        if name in QUICK and (result := quickly(func, args, kwargs)) is not None:
            return result
        if cls._some_became:
            args, kwargs = replaced(args, latest), replaced(kwargs, latest)
        if name in METADATA:
            with torch._C.DisableTorchFunction():
                return func(*args, **kwargs)
        call = Call(func, name, args, kwargs)
        if name in RULES and (call.arrays or name in STARTERS) and not call.fills_a_tensor:
            result = RULES[name](call)
            if result is not NotImplemented:
                return call.finished(result)
            call.begin_again()
        return call.finished(call.gathered())

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # pyrefly: ignore[bad-override]
        raise NotImplementedError(f"{func} has come to an array below torch's functions: take its .whole().")


def quickly(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> DistributedArray | None:
    """A function of each element, of arrays that are split alike and of numbers; None where there is more to it."""
    first, given = None, []
    for value in args:
        if type(value) in PLAIN:
            given.append(value)
            continue
        if type(value) is not DistributedArray or value._local is None or value.source is not None:
            return None
        if value._copies or value._part_of is not None or value._became is not None or value.of_parameters:
            return None
        if first is None:
            first = value
        elif value._size != first._size or value.dims != first.dims or value.tiles != first.tiles:
            return None
        value._refuse_foreign()
        given.append(value._local)
    if first is None or any(type(value) not in PLAIN for value in kwargs.values()):
        return None
    result = func(*given, **kwargs)
    return first if result is first._local else first.like(result)


@dataclass(eq=False)
class ViewCopy:
    """A copy of a part of an array, where torch would give a view."""

    base: DistributedArray
    base_version: int
    tensor: Tensor
    version: int
    write_back: Callable[[], None]


APPLY = vars(torch.autograd.Function)["apply"]


def functions_of_the_whole() -> AbstractContextManager[Any]:
    """Context in which functions of autograd that somebody wrote, `apply` and all, get all of each array."""

    def apply(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        function = APPLY.__get__(None, cls)
        if not found(DistributedArray, (args, kwargs)):
            return function(*args, **kwargs)
        call = Call(function, cls.__name__, args, kwargs)
        return call.finished(call.gathered())

    return patch.object(torch.autograd.Function, "apply", classmethod(apply))


OF_THE_WHOLE = """
    shape ndim dtype device layout size dim numel nelement ndimension is_floating_point is_complex __len__ element_size
    names is_sparse is_quantized is_mkldnn is_meta is_nested is_cuda is_cpu itemsize is_signed get_device has_names
"""
METADATA = frozenset(OF_THE_WHOLE.split())


@lru_cache(maxsize=4096)
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


@lru_cache(maxsize=4096)
def is_in_place(func: Any) -> bool:
    own = getattr(func, "__name__", "")
    return own.strip("_") in IN_PLACE_OPERATORS if own.startswith("__") else own.endswith("_")


class Call:
    """A call of one of torch's functions with arrays among its arguments.

    `arrays` are those that are split, but for parameters, `array` the first of them; what all ranks have alike stands
    among the arguments as plain tensors.
    """

    def __init__(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.func, self.name, self._given = func, name, args
        every: list[DistributedArray] = found(DistributedArray, args)
        if kwargs:
            every += found(DistributedArray, kwargs)
        self.grid = every[0].grid
        self.arrays: list[DistributedArray] = []
        self._split: list[DistributedArray] = []
        self._alike: dict[int, DistributedArray] = {}
        names = every[0].of_parameters
        for array in every:
            array._refuse_foreign()
            array.catch_up()
            if array.tiles is None:
                self._alike[id(array.source)] = array
            else:
                self._split.append(array)
                if not array.of_parameters:
                    self.arrays.append(array)
            names = names | array.of_parameters if names and array.of_parameters else NO_NAMES
        self.of_parameters = names
        self._bills = len(self.grid.bill or ())
        self.begin_again()
        self._viewed: ViewCopy | None = None
        if self._alike:
            args, kwargs = replaced(args, as_plain), replaced(kwargs, as_plain)
        self.args, self.kwargs = args, kwargs

    def __repr__(self) -> str:
        return f"Call({self.name})"

    def begin_again(self) -> None:
        """Forget what a rule has noted that then could not split the call."""
        self._taken: set[int] = set()  # what all ranks have alike that is taken for a tile
        self._uses: list[tuple[str, Any]] = []  # of parameters
        if self.grid.bill:
            del self.grid.bill[self._bills :]

    @property
    def array(self) -> DistributedArray:
        return self.arrays[0]

    @property
    def fills_a_tensor(self) -> bool:
        """Does it change a tensor in place that is no array, and so is whole?"""
        first = self.args[0] if is_in_place(self.func) and self.args else None
        out = self.kwargs.get("out")
        return out is not None or (isinstance(first, Tensor) and not isinstance(first, DistributedArray))

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        return argument(self.args, self.kwargs, place, name, default)

    def maps(self) -> DistributedArray | None:
        """The first argument, if it is maps whose rows and columns are split, or can be from here on."""
        x = self.argument(0, "input")
        if isinstance(x, DistributedArray):
            return x if len(self.arrays) == 1 and x.ndim == 4 and x.dims == (2, 3) else None
        if self.of_parameters or self.arrays or x.ndim != 4:
            return None
        if any(n < count for n, count in zip(x.shape[2:], self.grid.shape, strict=True)):
            return None
        return self.grid.cut(x)

    def on(self, change: Callable[[Any], Any]) -> Any:
        """The function of other values in place of all tensors and arrays."""
        return self.func(*replaced(self.args, change), **replaced(self.kwargs, change))

    def gathered(self) -> Any:
        """Of all of each array."""
        if not self._split:
            return self.func(*self.args, **self.kwargs)
        self.grid.gathered[self.name] = self.grid.gathered.get(self.name, 0) + 1
        wholes = {id(array): array.whole() for array in self._split}
        before = {id(array): wholes[id(array)]._version for array in self._split}
        result = self.on(lambda value: wholes[id(value)] if isinstance(value, DistributedArray) else value)
        for array in self._split:
            whole = wholes[id(array)]
            if whole._version != before[id(array)]:
                array.take_over(whole)
                self._alike[id(whole)] = array
            elif any(is_view_of(value, whole) for value in found(Tensor, result)) and array.source is not whole:
                self._viewed = array.copied_part(whole, partial(array.take_over, whole))
        return result

    def copied(self, value: Any) -> Any:
        """A tensor that all ranks have alike, for what each computes of its tile: gradients are added up."""
        if not isinstance(value, Tensor) or self._is_added_up(value, "tile"):
            return value
        self.grid.note(copied, value, self.grid.group.world_size, self._names(value))
        return copy_to_ranks(value, self.grid.group)

    def take(self, value: Tensor, need: Tiles, dims: Sequence[int], *, is_place: bool = False) -> Tensor:
        """The tile that this rank needs of what all have alike. is_place: has another rank no use for it?"""
        trade = Trade(self.grid.group, need, need, (dims[0], dims[1]))
        if not self._is_added_up(value, need if is_place else "tile"):
            self.grid.note(copied, value, self.grid.group.world_size, self._names(value))
            value = copy_to_ranks(value, self.grid.group)
        return trade.select(value, trade.own, trade.everything(value)).contiguous()

    def _names(self, value: Tensor) -> frozenset[str]:
        return self._alike[id(value)].of_parameters if id(value) in self._alike else frozenset()

    def _is_added_up(self, value: Tensor, use: Any) -> bool:
        """Are its gradients, this rank's alone, added up later? `use` is noted."""
        names = self._names(value)
        self._taken.add(id(value))
        if use != "tile" and not (len(names) == 1 and value.is_leaf):
            use = "tile"
        self._uses += [(name, use) for name in names]
        return bool(names) and names <= self.grid.added_up

    def finished(self, result: Any) -> Any:
        """What the caller gets: of a function in place, what it was given."""
        result, first = self.wrapped(result), next(iter(self._given), None)
        if is_in_place(self.func) and isinstance(first, DistributedArray) and isinstance(result, DistributedArray):
            if result is not first:
                first._became, DistributedArray._some_became = result, True
            return first
        return result

    def wrapped(self, result: Any) -> Any:
        """Tensors as arrays that all ranks have alike; those that were changed in place stay what they were."""
        for name, use in self._uses:
            self.grid.uses[name].add(use)
        if not self.of_parameters:
            for array in self._alike.values():
                if array.of_parameters and id(array.source) not in self._taken:
                    self.grid.use_whole(array.of_parameters)

        def as_array(value: Tensor) -> Tensor:
            if isinstance(value, DistributedArray):
                return value
            if id(value) in self._alike:
                return self._alike[id(value)]
            made = DistributedArray(self.grid, None, None, source=value, of_parameters=self.of_parameters)
            made._part_of = self._viewed
            return made

        return replaced(result, as_array)


def latest(value: Tensor) -> Tensor:
    """An array whose shape has been changed in place as what it is now."""
    while isinstance(value, DistributedArray) and value._became is not None:
        value = value._became
    return value


def is_view_of(tensor: Tensor, other: Tensor) -> bool:
    return tensor._is_view() and tensor._base is (other._base if other._is_view() else other)


def as_plain(value: Tensor) -> Tensor:
    """What all ranks have alike as the tensor that it is."""
    return value.source if isinstance(value, DistributedArray) and value.tiles is None else value  # type: ignore[return-value]


def found(kind: type, values: Any) -> list[Any]:
    """All of this kind among these values."""
    if isinstance(values, kind):
        return [values]
    if type(values) in PLAIN:
        return []
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list | tuple):
        return [each for value in values if type(value) not in PLAIN for each in found(kind, value)]
    return []


def replaced(values: Any, change: Callable[[Any], Any]) -> Any:
    """The same, each tensor changed."""
    if type(values) in PLAIN:
        return values
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, dict):
        return {key: replaced(value, change) for key, value in values.items()} if values else values
    if isinstance(values, list | tuple):
        items = [value if type(value) in PLAIN else replaced(value, change) for value in values]
        return type(values)(*items) if hasattr(values, "_fields") else type(values)(items)
    return values


def rule(*names: str, quick: bool = False) -> Callable[[Rule], Rule]:
    """Let a rule stand for functions of these names. quick: are these of each element?"""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        QUICK.update(names if quick else ())
        return function

    return register
