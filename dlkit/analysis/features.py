"""Inside a net, yours or ours: the output of any module by its name, and the part of an image that a unit sees."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from dlkit.core.evaluation import forward_eval


def maps(net: nn.Module, images: Float[Tensor, "batch ..."], name: str) -> Float[Tensor, "batch ..."]:
    """What the module of this name, such as "c1" or "c1.0", gives for these images; the net is left as it was.

    Of a module that is used more than once, its first use. ValueError if there is no such module, if the images do not
    pass it, or if it gives something else than one tensor.
    """
    found: list[Tensor] = []

    def see(_module: nn.Module, _given: object, output: object) -> None:
        if not isinstance(output, Tensor):
            raise ValueError(f"{name!r} gives a {type(output).__name__}, no maps: take a module before it.")
        found.append(output.clone())  # the next module may work in place

    with watching([named(net, name)], see):
        forward_eval(net, images)
    if not found:
        raise ValueError(f"no image passes {name!r}: the net's forward does not use it.")
    return found[0].to(images.device)


def _feature_maps(
    net: nn.Module, images: Float[Tensor, "batch ..."], name: str
) -> Float[Tensor, "batch maps height width"]:
    """`maps`, or ValueError if they have no rows and columns."""
    found = maps(net, images, name)
    if found.ndim != 4:
        raise ValueError(f"{name!r} gives {tuple(found.shape[1:])} for an image, no maps: take a module before it.")
    return found


def layers(net: nn.Module, image: Float[Tensor, "..."]) -> list[str]:
    """The names of the modules that give maps for an image: those a step below the net, or if there are none, all.

    Left out is what gives the image itself: what comes before the first weights, and makes it no smaller. ValueError if
    no module gives maps.
    """
    found: list[nn.Module] = []

    def see(module: nn.Module, _given: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            weights = next(module.parameters(), None) is not None
            if found or weights or output.shape[2] < image.shape[-2]:
                found.append(module)

    names = {module: name for name, module in net.named_modules() if name}
    with watching(names, see):
        forward_eval(net, image[None])
    every = [names[module] for module in dict.fromkeys(found)]
    giving = [name for name in every if "." not in name] or every
    if not giving:
        some = any(isinstance(module, nn.Conv2d) for module in net.modules())
        why = "give images[:, None], or begin it with nn.Unflatten" if some else "it has no convolutions to look into"
        raise ValueError(f"{type(net).__name__} gives no maps of images of shape {tuple(image.shape)}: {why}.")
    return giving


@contextmanager
def watching(modules: Iterable[nn.Module], see: Callable[..., None]) -> Iterator[None]:
    """Call `see(module, given, output)` whenever something passes one of the modules; the hooks always come off."""
    hooks = [module.register_forward_hook(see) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def named(net: nn.Module, name: str) -> nn.Module:
    """The module of this name. ValueError, with the names there are, if there is none."""
    modules = dict(net.named_modules(remove_duplicate=False))
    modules.pop("", None)
    if name not in modules:
        if not modules:
            raise ValueError(f"a {type(net).__name__} has no modules inside: take its own output.")
        near = difflib.get_close_matches(name, modules, 1)
        mean = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no module is named {name!r}: there are {', '.join(modules)}{mean}")
    return modules[name]


class Field(NamedTuple):
    """Rows and columns of an image: `image[..., field.rows, field.columns]`."""

    rows: slice
    columns: slice


def receptive_field(
    net: nn.Module, image: Float[Tensor, "... height width"], name: str, row: int, column: int
) -> Field:
    """The part of an image of this size that the unit at (row, column) of the module's maps sees.

    Found by trial, and so for nearly any net: one row of the image after the other, and one column, is made NaN, and
    what sees it becomes NaN. Functions that hide NaN, such as torch.where, deceive it, and so do those that look across
    the batch. ValueError for a unit that is not there, or if the module gives no maps.
    """
    with direct_convolutions():
        touched = _feature_maps(net, spoiled_lines(image), name).isnan().any(1)
    high, wide = touched.shape[1:]
    if not (0 <= row < high and 0 <= column < wide):
        raise ValueError(f"no unit at ({row}, {column}): the maps of {name!r} have {high} rows and {wide} columns.")
    return field_of(touched[:, row, column], image.shape[-2])


@contextmanager
def direct_convolutions() -> Iterator[None]:
    """Convolutions by plain sums: those by transforms, Winograd's or Fourier's, spread NaN over more than they see."""
    with torch.backends.nnpack.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
        yield


def spoiled_lines(image: Float[Tensor, "... height width"]) -> Float[Tensor, "lines ... height width"]:
    """Copies of the image with one row each made NaN, and then with one column each."""
    height, width = image.shape[-2:]
    lines = image.repeat(height + width, *[1] * image.ndim)
    for y in range(height):
        lines[y, ..., y, :] = torch.nan
    for x in range(width):
        lines[height + x, ..., x] = torch.nan
    return lines


def field_of(touched: Bool[Tensor, " lines"], height: int) -> Field:
    """The field of a unit that these of the `spoiled_lines` of an image of this height touch."""
    return Field(_extent(touched[:height]), _extent(touched[height:]))


def _extent(touched: Tensor) -> slice:
    places = touched.nonzero()[:, 0]
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


class Best(NamedTuple):
    """Images that excite one map most, the best first: their numbers, where in the map, and how much."""

    images: Int64[Tensor, " count"]
    rows: Int64[Tensor, " count"]
    columns: Int64[Tensor, " count"]
    values: Float[Tensor, " count"]


def top_images(net: nn.Module, images: Float[Tensor, "batch ..."], name: str, number: int, count: int = 16) -> Best:
    """The `count` images that excite map `number` of a module most, each with the unit that it excites most.

    Take a module before its squashing ("c1.0", not "c1"): values that are squashed to the limit tie.
    """
    values, places = [], []
    for part in images.split(1000):
        found = _feature_maps(net, part, name)
        if not 0 <= number < found.shape[1]:
            raise ValueError(f"no map {number}: {name!r} has {found.shape[1]}, 0 to {found.shape[1] - 1}.")
        wide = found.shape[3]
        value, place = found[:, number].flatten(1).max(1)
        values.append(value)
        places.append(place)
    most, best = torch.cat(values).topk(min(count, len(images)))
    place = torch.cat(places)[best]
    return Best(best, place // wide, place % wide, most)
