"""The outputs of a net's modules, and what its units see: receptive fields, and the images that excite a unit most."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dlkit.analysis.examining import examines
from dlkit.core.evaluation import forward_eval


@examines
def module_output(net: nn.Module, images: Float[Tensor, "batch ..."], name: str) -> Float[Tensor, "batch ..."]:
    """The output of the module of this name, such as "c1" or "c1.0", for these images, in evaluation mode.

    For a module that is used more than once, the output of its first use. ValueError if there is no such module, if the
    net does not use it, or if its output is not one tensor.
    """
    return output_of(net, images, name)


def output_of(net: nn.Module, images: Tensor, name: str, given: str = "images") -> Tensor:
    """`module_output`; `given`: what the reader gave, "images" or one "image"."""
    outputs: list[Tensor] = []

    def record(_module: nn.Module, _inputs: object, output: object) -> None:
        if not isinstance(output, Tensor):
            raise ValueError(f"{name!r} gives a {type(output).__name__}, no maps: take a module before it.")
        outputs.append(output.clone())  # the next module may change it in place

    with forward_hooks([find_module(net, name)], record):
        forward_eval(net, images, given)
    if not outputs:
        raise ValueError(
            f"no image passes {name!r}: nothing calls it, though its weights may be used: take another module."
        )
    return outputs[0]


def _feature_maps(
    net: nn.Module, images: Float[Tensor, "batch ..."], name: str
) -> Float[Tensor, "batch maps height width"]:
    """`module_output` of a module that gives maps, else ValueError."""
    output = output_of(net, images, name)
    if output.ndim != 4:
        raise ValueError(f"{name!r} gives {tuple(output.shape[1:])} for an image, no maps: take a module before it.")
    return output


@examines
def map_layers(net: nn.Module, image: Float[Tensor, "..."]) -> list[str]:
    """The names of the modules that give maps for an image: the net's children or, if none of these does, all modules.

    Modules that only pass the image on are left out: those before the first weights that do not make it smaller.
    ValueError if no module gives maps.
    """
    modules: list[nn.Module] = []

    def record(module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            has_weights = next(module.parameters(), None) is not None
            if modules or has_weights or output.shape[2] < image.shape[-2]:
                modules.append(module)

    names = {module: name for name, module in net.named_modules() if name}
    with forward_hooks(names, record):
        forward_eval(net, image[None], "image")
    all_names = [names[module] for module in dict.fromkeys(modules)]
    if not all_names:
        convolves = any(isinstance(module, nn.Conv2d) for module in net.modules())
        mend = "give images[:, None], or begin it with nn.Unflatten" if convolves else "it has no convolutions"
        raise ValueError(f"{type(net).__name__} gives no maps for images of shape {tuple(image.shape)}: {mend}.")
    return [name for name in all_names if "." not in name] or all_names


@contextmanager
def forward_hooks(modules: Iterable[nn.Module], hook: Callable[..., None]) -> Iterator[None]:
    """Context in which `hook(module, inputs, output)` is called after each forward of one of the modules."""
    handles: list[RemovableHandle] = []
    try:
        handles.extend(module.register_forward_hook(hook) for module in modules)
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_module(net: nn.Module, name: str) -> nn.Module:
    """The module of this name. ValueError, which lists all names, if there is none."""
    modules = dict(net.named_modules(remove_duplicate=False))
    modules.pop("", None)
    if name not in modules:
        if not modules:
            raise ValueError(f"a {type(net).__name__} has no modules inside: take its own output.")
        near = difflib.get_close_matches(name, modules, 1)
        guess = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no module is named {name!r}: there are {', '.join(modules)}{guess}")
    return modules[name]


class Region(NamedTuple):
    """A rectangle of pixels: `image[..., region.rows, region.columns]`."""

    rows: slice
    columns: slice


@examines
def receptive_field(
    net: nn.Module, image: Float[Tensor, "... height width"], name: str, row: int, column: int
) -> Region:
    """The region of an image that the unit at (row, column) of the module's maps depends on.

    It is found by trial, so it works for nearly any net: each row of the image in turn is set to NaN, then each column;
    units that depend on it become NaN. Operations that hide NaN, such as torch.where, or that mix the images of a batch
    give wrong results. ValueError for a unit that does not exist, or a module that gives no maps.
    """
    with direct_convolutions():
        touched = _feature_maps(net, nan_lines(image), name).isnan().any(1)
    high, wide = touched.shape[1:]
    if not (0 <= row < high and 0 <= column < wide):
        raise ValueError(f"no unit at ({row}, {column}): the maps of {name!r} have {high} rows and {wide} columns.")
    return touched_region(touched[:, row, column], image.shape[-2])


@contextmanager
def direct_convolutions() -> Iterator[None]:
    """Context without Winograd and Fourier convolutions, which spread NaN beyond the receptive field."""
    with torch.backends.nnpack.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
        yield


def nan_lines(image: Float[Tensor, "... height width"]) -> Float[Tensor, "lines ... height width"]:
    """Copies of the image: first each with one row set to NaN, then each with one column set to NaN."""
    height, width = image.shape[-2:]
    lines = image.repeat(height + width, *[1] * image.ndim)
    for y in range(height):
        lines[y, ..., y, :] = torch.nan
    for x in range(width):
        lines[height + x, ..., x] = torch.nan
    return lines


def touched_region(touched: Bool[Tensor, " lines"], height: int) -> Region:
    """The receptive field of a unit, given which of the `nan_lines` of an image of this height make it NaN."""
    return Region(_extent(touched[:height]), _extent(touched[height:]))


def _extent(touched: Tensor) -> slice:
    """From the first to the last touched line; empty if there is none."""
    lines = touched.nonzero()[:, 0]
    return slice(int(lines[0]), int(lines[-1]) + 1) if len(lines) else slice(0, 0)


class TopImages(NamedTuple):
    """The images that excite one map most, the largest value first.

    `images` are their indices; `rows` and `columns` the position of the unit with the largest value, and `values` that
    value.
    """

    images: Int64[Tensor, " count"]
    rows: Int64[Tensor, " count"]
    columns: Int64[Tensor, " count"]
    values: Float[Tensor, " count"]

    def __repr__(self) -> str:
        return f"TopImages(images {', '.join(map(str, self.images.tolist()))})"


@examines
def top_images(
    net: nn.Module, images: Float[Tensor, "batch ..."], name: str, number: int, count: int = 16
) -> TopImages:
    """The `count` images in which the largest value of map `number` of a module is largest.

    Choose a module before the activation function ("c1.0", not "c1"): saturated values are equal.
    """
    values, positions = [], []
    for batch in images.split(1000):
        maps = _feature_maps(net, batch, name)
        if not 0 <= number < maps.shape[1]:
            raise ValueError(f"no map {number}: {name!r} has {maps.shape[1]}, 0 to {maps.shape[1] - 1}.")
        width = maps.shape[3]
        value, position = maps[:, number].flatten(1).max(1)
        values.append(value)
        positions.append(position)
    largest, indices = torch.cat(values).topk(min(count, len(images)))
    position = torch.cat(positions)[indices]
    return TopImages(indices, position // width, position % width, largest)
