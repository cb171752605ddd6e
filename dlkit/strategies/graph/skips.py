"""Which layers take a value that has gone past others: the skips of a net, as a table or a picture shows them."""

from collections.abc import Sequence

from dlkit.models.graph import NetGraph, Node

IMAGES = -1  # in the place of a layer: the images themselves


def skips_of(graph: NetGraph, layers: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (from, to) of indices of `layers`, of which `to` takes what `from` gives, past others.

    layers: names of modules, or of nodes that are none, in the graph's order.
    """
    sources: dict[Node, set[int]] = {}
    skips: dict[tuple[int, int], None] = {}
    number = 0
    for node in graph.nodes:
        before = set().union(*(sources[taken] for taken in node.inputs))
        name = node.target if node.op == "module" else node.name
        if number < len(layers) and name == layers[number]:
            skips |= dict.fromkeys((source, number) for source in sorted(before) if source < number - 1)
            before, number = {number}, number + 1
        elif node.op == "images":
            before = {IMAGES}
        sources[node] = before
    return list(skips)
