"""The nodes of a graph as a program: Python that calls them in turn, and lets go of what nobody takes any more."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from dlkit.models.graph import ByMode, ImageRows, Node


class GraphForward:
    """A forward of `net` that calls these nodes: `net.forward = GraphForward(...)`. A copy of the net has its own.

    `calls`: the paths of the modules that it calls; in others there may be functions that it calls in their place.

    ValueError for images of another shape than the graph was recorded with, whose sizes are part of it.
    """

    def __init__(self, net: nn.Module, nodes: Sequence[Node], image_shape: tuple[int, ...]):
        self.net, self.image_shape = net, image_shape
        self.program = program(nodes)
        self.calls = {str(node.target) for node in nodes if node.op == "module"}

    def __call__(self, images: Tensor) -> Any:
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"images of {tuple(images.shape[1:])} for a net that was split for images of {self.image_shape}: give "
                "all batches one shape."
            )
        return self.program(self.net, images)


def program(nodes: Sequence[Node], inputs: Sequence[Node] | None = None) -> Callable[..., Any]:
    """A function of the net and of images that calls these nodes, the last of which is the output.

    inputs: nodes before these whose values it is given in place of images, after the net and the number of images.
    """
    writer = _Writer(nodes, inputs)
    exec(compile(writer.source(), "<graph of a net>", "exec"), writer.names)
    return writer.names["forward"]


class _Writer:
    """Writes the function; what its lines cannot say, such as functions, they take from `names`."""

    def __init__(self, nodes: Sequence[Node], inputs: Sequence[Node] | None):
        self.nodes, self.inputs = nodes, inputs
        self.names: dict[str, Any] = {}
        self.variables = {node: f"v{number}" for number, node in enumerate((*(inputs or ()), *nodes))}
        self.last_use: dict[Node, Node] = {}
        for node in nodes:
            self.last_use[node] = node
            for taken in node.inputs:
                self.last_use[taken] = node

    def source(self) -> str:
        lines = [line for node in self.nodes for line in self.lines_of(node)]
        if self.inputs is None:
            head = ["def forward(net, images):", "    count = images.shape[0]"]
        else:
            head = [f"def forward({', '.join(['net', 'count', *(self.variables[node] for node in self.inputs)])}):"]
        return "".join(f"{line}\n" for line in (*head, *(f"    {line}" for line in lines)))

    def lines_of(self, node: Node) -> list[str]:
        if node.op == "output":
            return [f"return {self.expression(node.args[0])}"]
        done = [taken for taken in (node, *node.inputs) if self.last_use[taken] is node]
        line = f"{self.variables[node]} = {self.call_of(node)}"
        return [line, f"del {', '.join(self.variables[taken] for taken in done)}"] if done else [line]

    def call_of(self, node: Node) -> str:
        if node.op == "images":
            return "images"
        if node.op == "constant":
            return self.name_for(node.target)
        if node.op == "attribute":
            path, _, name = node.target.rpartition(".")
            return f"getattr({module_at(path)}, {name!r})"
        given = [self.expression(arg) for arg in node.args]
        named = {key: self.expression(arg) for key, arg in node.kwargs.items()}
        if node.op == "method":
            function = f"{given.pop(0)}.{node.target}"
        else:
            function = module_at(node.target) if node.op == "module" else self.name_for(node.target)
        return f"{function}({', '.join([*given, *(f'{key}={value}' for key, value in named.items())])})"

    def expression(self, value: Any) -> str:
        """The value in Python."""
        if isinstance(value, Node):
            return self.variables[value]
        if isinstance(value, ImageRows):
            return f"({value.per_image} * count + {value.more})"
        if isinstance(value, ByMode):
            return f"({self.expression(value.training)} if net.training else {self.expression(value.evaluating)})"
        if isinstance(value, slice):
            return f"slice({', '.join(self.expression(end) for end in (value.start, value.stop, value.step))})"
        if type(value) is tuple:
            return f"({''.join(f'{self.expression(item)}, ' for item in value)})"
        if type(value) is list:
            return f"[{', '.join(map(self.expression, value))}]"
        if type(value) is dict:
            return f"{{{', '.join(f'{key!r}: {self.expression(item)}' for key, item in value.items())}}}"
        if isinstance(value, tuple):  # a named one
            return f"{self.name_for(type(value))}({', '.join(map(self.expression, value))})"
        if value is None or type(value) in (bool, int, str):
            return repr(value)
        return self.name_for(value)

    def name_for(self, value: Any) -> str:
        name = f"c{len(self.names)}_{re.sub(r'[^0-9a-zA-Z_]', '', getattr(value, '__name__', ''))}"
        self.names[name] = value
        return name


def module_at(path: str) -> str:
    """The net's submodule of this path, in Python."""
    return "net" + "".join(f"._modules[{name!r}]" for name in path.split(".") if name)
