"""The part of a net's graph that is one stage: what it is given, what it calls, and what it hands on."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from dlkit.models.graph import NetGraph, Node
from dlkit.models.program import program
from dlkit.strategies.pipeline.measuring import SOURCES, state_of


def alive(graph: NetGraph, index: int) -> list[Node]:
    """The nodes before this index whose values are taken there or later; what the net has is read where it is used."""
    later = set(graph.nodes[index:])
    return [
        node
        for node in graph.nodes[:index]
        if node.op not in SOURCES and any(user in later for user in graph.users[node])
    ]


class StageProgram:
    """Nodes `begin` to `end` of the graph. `inputs` and `outputs`: those whose values it is given and hands on; of the
    last stage no outputs, since it gives what the net does."""

    def __init__(self, graph: NetGraph, begin: int, end: int):
        self.is_last = end == len(graph.nodes)
        self.inputs = alive(graph, begin) if begin else [node for node in graph.nodes if node.op == "images"]
        self.outputs = [] if self.is_last else alive(graph, end)
        self.own = [node for node in graph.nodes[begin:end] if node.op not in (*SOURCES, "images")]
        self.nodes: list[Node] = []
        for node in self.own:
            self.nodes += [taken for taken in node.inputs if taken.op in SOURCES and taken not in self.nodes]
            self.nodes.append(node)
        if not self.is_last:
            self.nodes.append(Node("output", "output", "output", (tuple(self.outputs),)))
        self._program = program(self.nodes, self.inputs)

    def run(self, net: nn.Module, images: int, inputs: Iterable[Tensor]) -> Any:
        """The values of `outputs`, or what the net gives, for these of `inputs`, which are of so many images."""
        return self._program(net, images, *inputs)


def keep_stage(net: nn.Module, graph: NetGraph, own: StageProgram, is_first: bool) -> None:
    """Leave the net what this stage uses, in place; what no stage uses stays with the first.

    A module of which nothing is left becomes nn.Identity, and other parameters and buffers None, so that all that stay
    keep their names.
    """
    kept = _used(graph, own.nodes)
    if is_first:
        kept |= {id(value) for _, value in state_of(net)} - _used(graph, graph.nodes)
    called = {id(graph.module_of(node)) for node in own.nodes}
    foreign = {id(module) for node in graph.nodes if (module := graph.module_of(node)) is not None} - called
    gone: list[str] = []
    for path, module in net.named_modules(remove_duplicate=False):
        state = state_of(module)
        of_others = id(module) in foreign or (state and id(module) not in called and not any(module.children()))
        if of_others and path and not any(id(value) in kept for _, value in state):
            gone.append(path)
    for path in gone:
        if not any(path.startswith(f"{other}.") for other in gone):
            net.set_submodule(path, nn.Identity())
    for module in [*net.modules()]:
        for values in (module._parameters, module._buffers):
            for name, value in values.items():
                if value is not None and id(value) not in kept:
                    values[name] = None


def _used(graph: NetGraph, nodes: Sequence[Node]) -> set[int]:
    """The ids of the parameters and buffers that these nodes use."""
    found: set[int] = set()
    for node in nodes:
        module = graph.module_of(node)
        if module is not None:
            found |= {id(value) for _, value in state_of(module)}
        if node.op == "attribute":
            found.add(id(graph.attribute(node)))
    return found
