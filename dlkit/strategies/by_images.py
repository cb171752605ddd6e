"""Rules for nodes that each rank computes for its images of a batch, up to a cut behind which all have all images."""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from dlkit.core.slices import slice_of
from dlkit.distributed.autograd import gather_from_ranks, scatter_to_ranks
from dlkit.distributed.group import Group
from dlkit.models.graph import ImageRows, NetGraph, Node
from dlkit.strategies.graph.plan import Call, Rules, Walk


@dataclass(frozen=True, eq=False)
class OwnImages:
    """How a tensor is split of which each rank has the rows of its images; `batch` notes how many a pass has."""

    rows: int = 1  # of an image
    bytes_of_image: int = 0
    batch: list[int] = field(default_factory=lambda: [0])

    def gathering(self) -> "GatherImages":
        return GatherImages(self)


@dataclass(frozen=True)
class TakeImages:
    """This rank's images of a whole batch; their gradients are gathered."""

    own: OwnImages
    name = "cut"

    def on(self, group: Group) -> Callable[[Tensor], Tensor]:
        def take(images: Tensor) -> Tensor:
            self.own.batch[0] = len(images)
            return scatter_to_ranks(images, _counts(len(images), 1, group), 0, group)

        return take

    def sent(self, size: int, rank: int, world_size: int) -> tuple[int, int]:
        return 0, _longest(self.own, size, world_size)


@dataclass(frozen=True)
class GatherImages:
    """What all ranks have of their images, in the order of the batch."""

    own: OwnImages
    name = "gathered"

    def on(self, group: Group) -> Callable[[Tensor], Tensor]:
        return lambda x: gather_from_ranks(x, _counts(self.own.batch[0], self.own.rows, group), 0, group)

    def sent(self, size: int, rank: int, world_size: int) -> tuple[int, int]:
        return _longest(self.own, size, world_size), 0


def _counts(images: int, rows: int, group: Group) -> list[int]:
    return [rows * slice_of(images, rank, group.world_size).count for rank in range(group.world_size)]


def _longest(own: OwnImages, size: int, world_size: int) -> int:
    """Bytes that a rank sends when all gather: those of the most images that one has, to each of the others."""
    images = size // max(own.bytes_of_image, 1)
    return (world_size - 1) * slice_of(images, 0, world_size).count * own.bytes_of_image


class ImagesThenRules:
    """Up to `cut`, an index of the graph's nodes, each rank computes its images; then `rules` are followed.

    `parameters`: those before the cut, by path. ValueError where what crosses the cut cannot be told by images, or if a
    parameter is used on both of its sides.
    """

    def __init__(self, graph: NetGraph, cut: int, rules: Rules, strategy: str):
        self.rules, self.own = rules, OwnImages()
        depending = depending_on_images(graph.nodes)
        self.images = graph.nodes[0]
        self.before = {node for node in graph.nodes[:cut] if node in depending and node.op != "images"}
        for node in self.before:
            crosses = any(user not in self.before for user in graph.users[node])
            counts = node.op == "module" and has_rows((node.args, node.kwargs))
            if node.images_dim is None or counts or (crosses and (node.shape is None or node.images_dim != 0)):
                raise ValueError(
                    f"what {node.name} gives in {type(graph.net).__name__} cannot be told by images, so that "
                    f"{strategy} cannot compute it for some of a batch: use DataParallel or TensorParallel."
                )
        behind = [node for node in graph.nodes if node in depending and node not in self.before]
        self.parameters = parameters_for(graph, self.before)
        both = sorted(self.parameters & parameters_for(graph, behind, self.before))
        if both:
            raise ValueError(
                f"{both[0]} is used by the convolutions and behind them, which {strategy} splits otherwise: use "
                "DataParallel or TensorParallel."
            )

    def visit(self, walk: Walk, node: Node) -> None:
        if node not in self.before:
            self.rules.visit(walk, node)
            return
        rows = 1 if node.shape is None or node.images_dim != 0 else node.shape[0] // 2  # values are for two images
        layout = OwnImages(rows, bytes_of_image(node), self.own.batch)
        args, call = node.args, None
        if has_rows((node.args, node.kwargs)):
            args, call = (self.images, *replaced(node.args)), _counting(node)
        kwargs = replaced(node.kwargs)
        walk.step(
            node, lambda x: self.own_part(walk, x), layout=layout, along="images", call=call, args=args, kwargs=kwargs
        )

    def own_part(self, walk: Walk, node: Node) -> Node:
        if node is not self.images:
            return walk.as_it_is(node)
        return walk.exchanged(node, self.take)

    @cached_property
    def take(self) -> TakeImages:
        return TakeImages(OwnImages(1, bytes_of_image(self.images), self.own.batch))


def depending_on_images(nodes: Sequence[Node]) -> set[Node]:
    """Images, and what is computed from them, or from their number."""
    found: set[Node] = set()
    for node in nodes:
        counts = has_rows((node.args, node.kwargs))
        if node.op == "images" or counts or any(taken in found for taken in node.inputs):
            found.add(node)
    return found


def parameters_for(graph: NetGraph, nodes: Iterable[Node], but: Container[Node] = ()) -> set[str]:
    """The paths of the parameters that these nodes take, or what they take does, `but` for these."""
    todo, seen, found = list(nodes), set[Node](), set[int]()
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        todo += [taken for taken in node.inputs if taken not in but]
        module = graph.module_of(node)
        found |= {id(parameter) for parameter in module.parameters()} if module is not None else set()
        found |= {id(graph.attribute(node))} if node.op == "attribute" else set()
    return {path for path, parameter in graph.net.named_parameters() if id(parameter) in found}


def bytes_of_image(node: Node) -> int:
    tensors = (leaf for leaf in pytree.tree_leaves(node.value) if isinstance(leaf, Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) // 2


@dataclass(frozen=True)
class _Rows:
    """A number that grows with the images of a rank."""

    counted: ImageRows


def replaced(value: Any, images: int | None = None) -> Any:
    """With `_Rows` in place of what grows with a batch; with numbers in place of these, for so many images."""
    if isinstance(value, ImageRows):
        return _Rows(value)
    if isinstance(value, _Rows) and images is not None:
        return value.counted.per_image * images + value.counted.more
    if isinstance(value, slice):
        return slice(*(replaced(end, images) for end in (value.start, value.stop, value.step)))
    if type(value) in (tuple, list):
        return type(value)(replaced(item, images) for item in value)
    return {key: replaced(item, images) for key, item in value.items()} if type(value) is dict else value


def has_rows(value: Any) -> bool:
    if isinstance(value, slice):
        return any(isinstance(end, ImageRows) for end in (value.start, value.stop, value.step))
    if isinstance(value, tuple | list):
        return any(map(has_rows, value))
    return any(map(has_rows, value.values())) if isinstance(value, dict) else isinstance(value, ImageRows)


def _counting(node: Node) -> Call:
    """Calls the node's function by numbers that this rank's images give."""

    def call(images: Tensor, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = replaced(args, len(images)), replaced(kwargs, len(images))
        if node.op == "method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        return node.target(*args, **kwargs)

    return lambda net, group: call
