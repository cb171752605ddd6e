"""A split on paper: a walk over a net's graph in which rules say, node by node, what of it each rank computes.

`Rules` are a strategy's. What they do not know gathers first, and says so. A plan needs no processes: costs and
explanations are read off it, and `on_rank` makes a rank's part of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from dlkit.distributed.group import Group
from dlkit.models.graph import NetGraph, Node, map_nodes
from dlkit.strategies.graph.exchanges import Copy, Exchange, Gather, Layout, Noted, Split, Take
from dlkit.strategies.graph.in_place import changed_input, changed_through_views

Narrow = Callable[[nn.Module, int], None]  # of a module and a rank
Call = Callable[[nn.Module, Group], Callable[..., Any]]  # what a rank calls in a node's place, made from its net


@dataclass
class Made:
    """An exchange that a plan makes of the value of `node`, or of the one of its tensors with this index."""

    node: Node
    exchange: Exchange | Noted
    index: int | None = None


@dataclass
class Step:
    """A node as the ranks compute it.

    layout: of what it gives; None if that is whole on all ranks. along: what of it a rank computes, as in `LayerCost`:
    "units", "inputs", "rows", "layer"; or the one rank that computes it, such as "rank 1". why: why it is not split, or
    why something is gathered for it; "" if that needs no word. made: the exchanges for it, in their order. parameters:
    how each is cut, by its path. summed: the paths of those of which each rank has the gradient of what it computes
    alone, to be summed after a backward pass.
    narrow: tells the module that it has this rank's part alone. replicas: over how many groups of ranks, each of which
    computes the step so, a batch's images are shared out. rest: what rank 0 sends beside what is `made`, for no image
    in particular, such as gradients: in words, and in bytes.
    """

    node: Node
    layout: Any = None
    along: str = "layer"
    why: str = ""
    made: list[Made] = field(default_factory=list)
    parameters: Mapping[str, Split] = field(default_factory=dict)
    summed: tuple[str, ...] = ()
    narrow: Narrow | None = None
    replicas: int = 1
    rest: list[tuple[str, int]] = field(default_factory=list)


@runtime_checkable
class Rules(Protocol):
    """What a strategy does with a node."""

    def visit(self, walk: "Walk", node: Node) -> None:
        """Make one step for the node, by `walk.step` or `walk.step_whole`."""
        ...


@dataclass
class Plan:
    """A split of `graph`: the steps, and the program of a rank, in which `Bound` targets wait for a group."""

    graph: NetGraph
    world_size: int
    steps: list[Step]
    program: list[Node]

    @property
    def parameters(self) -> dict[str, Split]:
        """How each parameter or buffer that is cut is cut, by its path."""
        return {path: layout for step in self.steps for path, layout in step.parameters.items()}

    @property
    def summed(self) -> list[str]:
        """The parameters whose gradients are to be summed over ranks, each once."""
        return list(dict.fromkeys(path for step in self.steps for path in step.summed))


@dataclass(frozen=True)
class Bound:
    """A target that a rank makes: of an exchange, or what it calls in place of a module or function."""

    make: Call
    name: str

    @property
    def __name__(self) -> str:
        return self.name


def plan_split(graph: NetGraph, world_size: int, rules: Rules) -> Plan:
    """Walk over the graph by these rules."""
    walk, pinned = Walk(graph, world_size), changed_through_views(graph)
    for node in graph.nodes:
        if node.op in ("images", "attribute", "constant"):
            walk.step(node)
        elif node in pinned:
            walk.step_whole(node, "it is changed in place through a view")
        elif node.op == "output" or node.kwargs.get("out") is not None:
            walk.step_whole(node)
        else:
            rules.visit(walk, node)
    return Plan(graph, world_size, walk.steps, walk.program)


class Walk:
    """A plan in the making: `value` of a node of the net is the node of the program that stands for it just now."""

    def __init__(self, graph: NetGraph, world_size: int):
        self.graph, self.world_size = graph, world_size
        self.program: list[Node] = []
        self.steps: list[Step] = []
        self._values: dict[Node, tuple[Node, Any]] = {}  # and how it is split
        self._exchanged: dict[tuple[Node, Node, Exchange], Node] = {}  # by what of the net it stands for, and of what
        self._pending: list[Made] = []

    def layout(self, node: Any) -> Any:
        """How a node's value is split; None for one that is whole, and for what is no node."""
        return self._values[node][1] if isinstance(node, Node) else None

    def as_it_is(self, node: Node) -> Node:
        """What each rank has of the value."""
        return self._values[node][0]

    def exchanged(self, node: Node, exchange: Exchange, of: Node | None = None) -> Node:
        """The value after an exchange, which is made once however many take it. of: the value after another one."""
        source = of or self.as_it_is(node)
        key = (node, source, exchange)
        if key not in self._exchanged:
            made = self._append(f"{node.name} {exchange.name}", bound_exchange(exchange), source)
            self._pending.append(Made(node, exchange))
            self._exchanged[key] = made
        return self._exchanged[key]

    def whole(self, node: Node) -> Node:
        """The whole value, which is the same on all ranks, as is what they go on to compute of it."""
        layout = self.layout(node)
        return self.as_it_is(node) if layout is None else self.exchanged(node, self.gathering(layout))

    def gathering(self, layout: Any) -> Exchange:
        """The exchange that makes a value split so whole."""
        return layout.gathering() if hasattr(layout, "gathering") else Gather(layout)

    def copied(self, node: Node) -> Node:
        """The whole value for ranks that each go on with a part of what comes next."""
        return self.exchanged(node, Copy(), self.whole(node)) if may_require_grad(node) else self.whole(node)

    def part(self, node: Node, layout: Layout) -> Node:
        """The value split so; it is cut if it is whole, and gathered first if it is split otherwise."""
        if self.layout(node) == layout:
            return self.as_it_is(node)
        return self.exchanged(node, Take(layout), self.whole(node))

    def step(
        self,
        node: Node,
        inputs: Callable[[Node], Node] | None = None,
        *,
        layout: Any = None,
        along: str = "layer",
        why: str = "",
        parameters: dict[str, Layout] | None = None,
        call: Call | None = None,
        then: Exchange | None = None,
        finish: Call | None = None,
        narrow: Narrow | None = None,
        summed: tuple[str, ...] = (),
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        """The node is computed of `inputs(node)` of each node that it takes: by default of what each rank has.

        call: makes what is called in the node's place, of the module, if it is one, and the arguments. then: an
        exchange of what it gives; finish: as `call`, of the module and what that gives. args and kwargs, if they are
        others than the net's, are given with the net's nodes in them.
        """
        taken = inputs or self.as_it_is
        changed = node.args if args is None else args, node.kwargs if kwargs is None else kwargs
        chosen: dict[Node, Node] = {}

        def choose(own: Node) -> Node:
            if own not in chosen:
                chosen[own] = taken(own)
            return chosen[own]

        own_args, own_kwargs = map_nodes(changed, choose)
        target, op = node.target, node.op
        if call is not None:
            target, op, own_args = Bound(call, node.called), "function", (*self._module(node), *own_args)
        made = Node(node.name, op, target, own_args, own_kwargs, node.value, node.images_dim)
        self.program.append(made)
        if (changed := changed_input(self.graph, node)) is not None:
            self._changed_in_place(changed, chosen, layout)
        made_for, self._pending = self._pending, []
        if then is not None:
            made = self._append(f"{node.name} {then.name}", bound_exchange(then), made)
            made_for += then.made(node) if hasattr(then, "made") else [Made(node, then)]
        if finish is not None:
            made = self._append(f"{node.name} finished", Bound(finish, node.called), *self._module(node), made)
        self._values[node] = made, layout
        self.steps.append(Step(node, layout, along, why, made_for, parameters or {}, summed, narrow))

    def _append(self, name: str, target: Bound, *args: Node) -> Node:
        self.program.append(Node(name, "function", target, args))
        return self.program[-1]

    def _module(self, node: Node) -> tuple[Node, ...]:
        """The module that the node calls, as a node; nothing if it calls none."""
        if node.op != "module":
            return ()
        self.program.append(Node(f"{node.name} itself", "attribute", node.target))
        return (self.program[-1],)

    def step_whole(self, node: Node, why: str = "") -> None:
        """All ranks compute all of the node, of whole inputs."""
        gathers = node.op != "output" and any(self.layout(taken) is not None for taken in node.inputs)
        module = self.graph.module_of(node)
        what = node.called if module is None else type(module).__name__
        self.step(node, self.whole, why=why or (f"no rule splits {what} here: it sees all" if gathers else ""))

    def _changed_in_place(self, first: Node, chosen: dict[Node, Node], layout: Any) -> None:
        """What a node changes is from now on what it has changed, and is exchanged anew."""
        self._exchanged = {key: made for key, made in self._exchanged.items() if not key[0].storage & first.storage}
        if chosen[first] is not self.as_it_is(first):
            self._values[first] = chosen[first], layout


def bound_exchange(exchange: Exchange) -> Bound:
    return Bound(lambda net, group: exchange.on(group), exchange.name)


def may_require_grad(node: Node) -> bool:
    """Could a gradient go back through its value? That of images may be wanted, though nobody trains them."""
    if node.op in ("attribute", "constant"):
        return requires_grad(node)
    return not isinstance(node.value, Tensor) or node.value.is_floating_point() or node.value.is_complex()


def requires_grad(node: Node) -> bool:
    """Does a gradient go back through its value?"""
    return bool(getattr(node.value, "requires_grad", False))
