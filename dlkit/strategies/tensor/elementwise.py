"""Functions of each element: what a rank has of their inputs gives what it has of their output."""

from dlkit.models.graph import Node
from dlkit.strategies.graph.exchanges import Layout
from dlkit.strategies.graph.plan import Walk
from dlkit.strategies.tensor.layouts import broadcast, for_broadcast


def split_elements(walk: Walk, node: Node, *, draws: bool = False) -> bool:
    """Compute each rank's part of a function of each element, or say False: all inputs must be split alike.

    An input that is whole is cut, or, where it is broadcast, copied. draws: whether it draws for each element, for
    which a rank's part must lie in one piece.
    """
    split = [taken for taken in node.inputs if walk.layout(taken) is not None]
    if not split or node.shape is None:
        return False
    first, shape = split[0], node.shape
    layout = walk.layout(first)
    if not isinstance(layout, Layout) or any(taken.shape is None for taken in node.inputs):
        return False
    wanted = broadcast(layout, first.shape or (), shape)
    if wanted is None or (draws and not wanted.in_order):
        return False

    def choose(taken: Node) -> Node:
        assert wanted is not None
        own = for_broadcast(wanted, taken.shape or (), shape)
        return walk.copied(taken) if own is None else walk.part(taken, own)

    walk.step(node, choose, layout=wanted, along="units")
    return True
