"""The feature maps of all layers of a net: their values for an image, receptive fields and connections."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dlkit.analysis.examining import examines
from dlkit.analysis.features import (
    Region,
    TopImages,
    direct_convolutions,
    find_module,
    forward_hooks,
    map_layers,
    nan_lines,
    output_of,
    touched_region,
)
from dlkit.core.evaluation import forward_eval
from dlkit.models.convnet import ScaledTanh
from dlkit.models.convolution import SparseConv2d

TOP = 16  # number of images that `FeatureMaps.top_images` returns
SEARCHED = 2_000  # number of images that it searches
SATURATING = (ScaledTanh, nn.Tanh, nn.Sigmoid, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid)


class LayerView(NamedTuple):
    """One layer for one image: its output maps, its input maps, and the layer that gave these.

    `inputs` and `below` are None if the input is no maps, or comes from no layer of the list.
    """

    output: Float[Tensor, "maps high wide"]
    inputs: Float[Tensor, "below height width"] | None
    below: str | None

    def __repr__(self) -> str:
        maps, high, wide = self.output.shape
        return f"LayerView({maps} maps of {high}x{wide}, inputs from {self.below})"


class FeatureMaps:
    """The layers `names` of a net that give maps for images like these; one forward pass serves all of them.

    The images that excite a map most are searched among the first 2,000. What it gives is on the CPU, to be looked at.
    ValueError if the net does not take these images, or gives no maps.
    """

    @examines
    def __init__(self, net: nn.Module, images: Float[Tensor, "images *maps height width"]):
        if len(images) == 0:
            raise ValueError("no images to look at: give one at least.")
        self.net, self._image = net, images[0]
        self.names = map_layers(net, self._image)
        self.ranked_by = {name: before_activation(net, name) for name in self.names}
        self.searched = min(len(images), SEARCHED)
        self._touched = self._touched_lines()
        self._largest = self._search(images[: self.searched])
        self._connections: dict[str, Tensor | None] = {}

    def __repr__(self) -> str:
        return f"FeatureMaps({type(self.net).__name__}: {', '.join(self.names)})"

    def views(self, image: Float[Tensor, "*maps height width"]) -> dict[str, LayerView]:
        """Input and output maps of each layer for the image."""
        return layer_views(self.net, image, self.names)

    def receptive_field(self, name: str, row: int, column: int) -> Region:
        """The receptive field of a unit, as by `features.receptive_field`."""
        return touched_region(self._touched[name][:, row, column], self._image.shape[-2])

    def top_images(self, name: str, number: int) -> TopImages:
        """The 16 images that excite the map most, as by `features.top_images` of module `ranked_by[name]`."""
        largest, positions = self._largest[name]
        values, images = largest[:, number].topk(min(TOP, self.searched))
        position, width = positions[images, number], self._touched[name].shape[2]
        return TopImages(images, position // width, position % width, values)

    def connections(self, name: str) -> Bool[Tensor, "maps below"] | None:
        """`map_connections` of the layer."""
        if name not in self._connections:
            self._connections[name] = map_connections(self.net, self._image, name)
        return self._connections[name]

    def _touched_lines(self) -> dict[str, Tensor]:
        """For each layer, which rows and columns of the image each unit depends on: bool (lines, high, wide)."""
        touched: dict[str, Tensor] = {}

        def record(name: str, _inputs: Tensor | None, output: Tensor) -> None:
            touched[name] = output.isnan().any(1).cpu()

        with direct_convolutions():
            _forward(self.net, nan_lines(self._image), self.names, record)
        return touched

    def _search(self, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """For each layer the largest value of each map for each image, and its position: both (images, maps)."""
        largest: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.names}
        layer = {by: name for name, by in self.ranked_by.items()}

        def record(by: str, _inputs: Tensor | None, output: Tensor) -> None:
            value, position = output.flatten(2).max(2)
            largest[layer[by]].append((value.float().cpu(), position.cpu()))

        for batch in images.split(250):
            _forward(self.net, batch, layer, record)
        return {
            name: (torch.cat([value for value, _ in batches]), torch.cat([position for _, position in batches]))
            for name, batches in largest.items()
        }


def layer_views(
    net: nn.Module, image: Float[Tensor, "*maps height width"], names: Iterable[str]
) -> dict[str, LayerView]:
    """Input and output maps of each of these layers for the image, by one forward pass."""
    views: dict[str, LayerView] = {}
    outputs: dict[str, Tensor] = {}

    inputs_of: dict[nn.Module, Tensor] = {}

    def copy_inputs(module: nn.Module, args: tuple) -> None:  # now: the module may change them in place
        maps = _maps_in(args)
        if maps is not None:
            inputs_of.setdefault(module, _copy(maps))

    def record(name: str, inputs: Tensor | None, output: Tensor) -> None:
        below = next((other for other in reversed(outputs) if outputs[other] is inputs), None)
        outputs[name] = output
        views[name] = LayerView(_copy(output), inputs_of.get(find_module(net, name)), below)

    names = list(names)
    with ExitStack() as stack:
        for name in names:
            stack.callback(find_module(net, name).register_forward_pre_hook(copy_inputs).remove)
        _forward(net, image[None], names, record, "image")
    return views


def _forward(
    net: nn.Module,
    images: Tensor,
    modules: Iterable[str],
    record: Callable[[str, Tensor | None, Tensor], None],
    given: str = "images",
) -> None:
    """Run the net, and call `record(name, inputs, output)` at the first use of each of these modules."""
    names = {find_module(net, name): name for name in modules}

    def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        if module in names:
            record(names.pop(module), _maps_in(inputs), output)

    with forward_hooks(list(names), hook):
        forward_eval(net, images, given)


def before_activation(net: nn.Module, name: str) -> str:
    """The module whose values rank a layer's units: in a Sequential that ends in a SATURATING one, that before it.

    Saturated values are equal: tanh of 10 and of 20 are both 1 in float32.
    """
    module = find_module(net, name)
    children = list(module.named_children()) if isinstance(module, nn.Sequential) else []
    return f"{name}.{children[-2][0]}" if len(children) > 1 and isinstance(children[-1][1], SATURATING) else name


def map_connections(
    net: nn.Module, image: Float[Tensor, "*maps height width"], name: str
) -> Bool[Tensor, "maps below"] | None:
    """Which input maps each output map of a module depends on; None if its input is no maps.

    Found by trial, like a receptive field: each input map in turn is set to NaN, and output maps that depend on it
    become NaN. For a SparseConv2d its table is used, because its missing connections may be multiplications by 0.
    """
    module = find_module(net, name)
    inputs: list[Tensor | None] = []
    _forward(net, image[None], [name], lambda _name, maps, _output: inputs.append(maps), "image")
    if not inputs or inputs[0] is None:
        return None
    below = inputs[0].shape[1]

    def set_nan(_module: nn.Module, args: tuple) -> tuple:
        handles[0].remove()  # of a module that is used twice, the first use counts
        diagonal = torch.eye(below, dtype=torch.bool, device=args[0].device)
        return args[0].masked_fill(diagonal[:, :, None, None], torch.nan), *args[1:]

    def spread_by_table(module: SparseConv2d, args: tuple, output: Tensor) -> Tensor:
        sees = module.weight.new_zeros(module.out_maps, module.in_maps)
        for o, row in enumerate(module.table):
            sees[o, list(row)] = 1
        touched = args[0].isnan().flatten(2).any(2).to(sees) @ sees.T > 0
        return torch.zeros_like(output).masked_fill(touched[:, :, None, None], torch.nan)

    sparse = [layer for layer in module.modules() if isinstance(layer, SparseConv2d)]
    handles = [
        module.register_forward_pre_hook(set_nan),
        *(layer.register_forward_hook(spread_by_table) for layer in sparse),
    ]
    try:
        with direct_convolutions():
            maps = output_of(net, image.expand(below, *image.shape), name)
    finally:
        for handle in handles:
            handle.remove()
    return maps.isnan().flatten(2).any(2).T.cpu()


def _copy(maps: Float[Tensor, "1 maps height width"]) -> Float[Tensor, "maps height width"]:
    """A copy on the CPU, because the next module may change the maps in place."""
    return maps[0].float().cpu().clone()


def _maps_in(args: tuple) -> Tensor | None:
    """The first argument of a module, if it is maps (batch, maps, height, width)."""
    return args[0] if args and isinstance(args[0], Tensor) and args[0].ndim == 4 else None
