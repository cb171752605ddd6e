"""All layers of a net that give maps at once: what each makes of an image, sees, and is made of."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dlkit.analysis.features import (
    Best,
    Field,
    direct_convolutions,
    field_of,
    layers,
    maps,
    named,
    spoiled_lines,
    watching,
)
from dlkit.core.evaluation import forward_eval
from dlkit.models.convnet import ScaledTanh
from dlkit.models.convolution import SparseConv2d

EXCITING = 16  # images that excite a map
SEARCHED = 2_000  # images that they are looked for among
SQUASHES = (ScaledTanh, nn.Tanh, nn.Sigmoid, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid)


class LayerView(NamedTuple):
    """What a layer gives for an image, the maps that come into it, if it is maps, and the layer that they are of."""

    given: Float[Tensor, "maps high wide"]
    inputs: Float[Tensor, "below height width"] | None
    below: str | None


class Inside:
    """The layers of a net that give maps, `names`, for images like these; a pass through the net looks into all.

    What excites a map is looked for among the first 2,000 images. ValueError if the net does not take them, or gives
    no maps.
    """

    def __init__(self, net: nn.Module, images: Float[Tensor, "images *maps height width"]):
        if len(images) == 0:
            raise ValueError("no images to look at: give one at least.")
        self.net, self._image = net, images[0]
        self.names = layers(net, self._image)
        self.ranked_by = {name: unsquashed(net, name) for name in self.names}
        self.searched = min(len(images), SEARCHED)
        self._touched = self._trial()
        self._largest = self._search(images[: self.searched])
        self._tables: dict[str, Tensor | None] = {}

    def look(self, image: Float[Tensor, "*maps height width"]) -> dict[str, LayerView]:
        """What each layer makes of the image."""
        return look(self.net, image, self.names)

    def field(self, name: str, row: int, column: int) -> Field:
        """What the unit sees, as `receptive_field` has it."""
        return field_of(self._touched[name][:, row, column], self._image.shape[-2])

    def best(self, name: str, number: int) -> Best:
        """The 16 images that excite the map most, as `top_images` has them of `ranked_by[name]`."""
        most, where = self._largest[name]
        values, images = most[:, number].topk(min(EXCITING, self.searched))
        place, wide = where[images, number], self._touched[name].shape[2]
        return Best(images, place // wide, place % wide, values)

    def table(self, name: str) -> Bool[Tensor, "maps below"] | None:
        """`connections` of the layer."""
        if name not in self._tables:
            self._tables[name] = connections(self.net, self._image, name)
        return self._tables[name]

    def _trial(self) -> dict[str, Tensor]:
        """The trial of `receptive_field` for all layers at once: which lines touch each unit, (lines, high, wide)."""
        touched: dict[str, Tensor] = {}

        def see(name: str, _came: Tensor | None, given: Tensor) -> None:
            touched[name] = given.isnan().any(1).cpu()

        with direct_convolutions():
            _pass(self.net, spoiled_lines(self._image), self.names, see)
        return touched

    def _search(self, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """For each layer the largest value of each map for each image, (images, maps), and at which unit it is."""
        found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.names}
        layer = {by: name for name, by in self.ranked_by.items()}

        def see(by: str, _came: Tensor | None, given: Tensor) -> None:
            value, place = given.flatten(2).max(2)
            found[layer[by]].append((value.float().cpu(), place.cpu()))

        for part in images.split(250):
            _pass(self.net, part, layer, see)
        return {
            name: (torch.cat([value for value, _ in parts]), torch.cat([place for _, place in parts]))
            for name, parts in found.items()
        }


def look(net: nn.Module, image: Float[Tensor, "*maps height width"], names: Iterable[str]) -> dict[str, LayerView]:
    """What each of these layers makes of the image, by one pass through the net."""
    found: dict[str, LayerView] = {}
    outputs: dict[str, Tensor] = {}

    def see(name: str, inputs: Tensor | None, given: Tensor) -> None:
        below = next((other for other in reversed(outputs) if outputs[other] is inputs), None)
        outputs[name] = given
        found[name] = LayerView(_kept(given), None if inputs is None else _kept(inputs), below)

    _pass(net, image[None], names, see)
    return found


def _pass(
    net: nn.Module, images: Tensor, watched: Iterable[str], see: Callable[[str, Tensor | None, Tensor], None]
) -> None:
    """Call `see(name, inputs, given)` when something passes a watched module for the first time."""
    names = {named(net, name): name for name in watched}

    def hook(module: nn.Module, inputs: tuple, given: Tensor) -> None:
        if module in names:
            see(names.pop(module), _maps_in(inputs), given)

    with watching(list(names), hook):
        forward_eval(net, images)


def unsquashed(net: nn.Module, name: str) -> str:
    """The module to rank a layer's units by: in a Sequential that ends in one of SQUASHES, the one before it.

    Squashed values tie: tanh of 10 and of 20 are both 1 in float32.
    """
    module = named(net, name)
    parts = list(module.named_children()) if isinstance(module, nn.Sequential) else []
    return f"{name}.{parts[-2][0]}" if len(parts) > 1 and isinstance(parts[-1][1], SQUASHES) else name


def connections(
    net: nn.Module, image: Float[Tensor, "*maps height width"], name: str
) -> Bool[Tensor, "maps below"] | None:
    """Which of the maps that come into the module of this name each of its maps sees; None if no maps come into it.

    Found by trial, as a receptive field is: one map after the other is made NaN, and what sees it becomes NaN. A
    SparseConv2d answers by its table, as it may compute with zeros for what it does not see.
    """
    module = named(net, name)
    inputs: list[Tensor | None] = []
    _pass(net, image[None], [name], lambda _name, given, _output: inputs.append(given))
    if not inputs or inputs[0] is None:
        return None
    below = inputs[0].shape[1]

    def spoil(_module: nn.Module, given: tuple) -> tuple:
        hooks[0].remove()  # of a module that is used twice, the first use
        one = torch.eye(below, dtype=torch.bool, device=given[0].device)
        return given[0].masked_fill(one[:, :, None, None], torch.nan), *given[1:]

    def spread(module: SparseConv2d, given: tuple, output: Tensor) -> Tensor:
        sees = module.weight.new_zeros(module.out_maps, module.in_maps)
        for o, row in enumerate(module.table):
            sees[o, list(row)] = 1
        touched = given[0].isnan().flatten(2).any(2).to(sees) @ sees.T > 0
        return torch.zeros_like(output).masked_fill(touched[:, :, None, None], torch.nan)

    sparse = [part for part in module.modules() if isinstance(part, SparseConv2d)]
    hooks = [module.register_forward_pre_hook(spoil), *(part.register_forward_hook(spread) for part in sparse)]
    try:
        with direct_convolutions():
            found = maps(net, image.expand(below, *image.shape), name)
    finally:
        for hook in hooks:
            hook.remove()
    return found.isnan().flatten(2).any(2).T.cpu()


def _kept(given: Float[Tensor, "one maps height width"]) -> Float[Tensor, "maps height width"]:
    """A copy for the CPU, as the next module may work in place."""
    return given[0].float().cpu().clone()


def _maps_in(given: tuple) -> Tensor | None:
    """The maps that a module is given first, if it is given maps."""
    return given[0] if given and isinstance(given[0], Tensor) and given[0].ndim == 4 else None
