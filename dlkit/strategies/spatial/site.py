"""A node that a walk is at, and what rules over rows ask of it and do there."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dlkit.distributed.group import Group
from dlkit.models.graph import NetGraph, Node, has_hooks, on_meta
from dlkit.models.tracing import AppliedFunction
from dlkit.strategies.graph.exchanges import Copy, Exchange, Layout, Take
from dlkit.strategies.graph.plan import Walk, requires_grad
from dlkit.strategies.spatial.bands import Bands, Ranges, is_partition, rows_of
from dlkit.strategies.spatial.halo import Halo

Work = Callable[[Group], Callable[..., Any]]  # what a rank does in a node's place; of a module, its first argument


class Site:
    """`source`: the value that the node works on, its first argument, and `bands`: how that is split.

    `module`, `source` and `bands` are None where there is none; rules, which are chosen by kind, know what they have.
    """

    def __init__(self, walk: Walk, node: Node):
        self.walk, self.node, self.graph, self.ranks = walk, node, walk.graph, walk.world_size
        self.module: Any = self.graph.module_of(node)
        first = node.args[0] if node.args else next(iter(node.inputs), None)
        self.source: Any = first if isinstance(first, Node) else None
        self.bands: Any = walk.layout(self.source)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor that the node gives."""
        return shape_of(self.node)

    @property
    def split(self) -> Bands:
        """`bands`, where the source is split."""
        assert self.bands is not None
        return self.bands

    @property
    def kind(self) -> Any:
        return kind_of_call(self.graph, self.node)

    @property
    def is_alone(self) -> bool:
        """Does nothing else take the module's parameters?"""
        return self.graph.is_alone(self.node)

    def even(self, height: int) -> Ranges:
        return rows_of(height, self.ranks)

    # Values for what a rank computes.

    def rows(self, node: Node, dim: int, need: Ranges) -> Node:
        """Rows `need` of the value, which is whole, or split in some way."""
        assert node.shape is not None
        layout, height = self.walk.layout(node), node.shape[dim]
        if isinstance(layout, Bands) and layout.dim == dim:
            if layout.parts == need:
                return self.walk.as_it_is(node)
            return self.walk.exchanged(node, Halo(dim, layout.parts, need))
        if not requires_grad(node):
            whole = self.whole_for_rows(node)
            return self.walk.exchanged(node, Halo(dim, (range(height),) * self.ranks, need), whole)
        if is_partition(need, height):
            return self.walk.part(node, Bands(dim, need))
        even = self.even(height)
        part = self.walk.part(node, Bands(dim, even))
        return self.walk.exchanged(node, Halo(dim, even, need), part)

    def whole_for_rows(self, node: Node) -> Node:
        """The whole value, for ranks that each compute some rows with it: gradients are summed."""
        is_float = isinstance(node.value, Tensor) and node.value.is_floating_point()
        return self.walk.copied(node) if is_float else self.walk.whole(node)

    def parameter(self, name: str, layout: Layout | None = None) -> Node:
        """A parameter of the module, for ranks that each compute some rows with it: its gradient is whole on all.

        layout: how it is cut, if a rank needs a part.
        """
        assert self.module is not None
        path = f"{self.node.target}.{name}"
        value = on_meta(self.module.get_parameter(name))
        node = self.attribute(path, value)
        exchange: Exchange = Copy() if layout is None else Take(layout)
        return self.walk.exchanged(node, exchange, node) if value.requires_grad or layout else node

    def attribute(self, path: str, value: Any = None) -> Node:
        """Of the net, made once."""
        found = next((node for node in self.walk.program if node.op == "attribute" and node.target == path), None)
        if found is None:
            found = Node(path, "attribute", path, value=value)
            self.walk.program.append(found)
        return found

    # Steps.

    def step(
        self,
        bands: Bands | None,
        inputs: Mapping[Node, Node],
        work: Work | None = None,
        *,
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        then: Exchange | None = None,
        parameters: dict[str, Layout] | None = None,
        along: str = "rows",
        why: str = "",
    ) -> None:
        """Each rank computes its rows of the node, of `inputs`; other values that it takes must be whole.

        work: what it does in the node's place, given the module, if it is one, and args and kwargs.
        parameters: how those of the module are cut by rows.
        """
        chosen = {node: inputs[node] if node in inputs else self.whole_for_rows(node) for node in self.node.inputs}
        chosen |= {node: node for node in inputs.values()}
        args = self.node.args if args is None else args
        summed: tuple[str, ...] = ()
        if self.module is not None:
            trained = [name for name, p in self.module.named_parameters() if p.requires_grad]
            if parameters or not trained:
                own = None
            elif self.is_alone:
                own, summed = None, tuple(f"{self.node.target}.{name}" for name in trained)
            else:
                own = {name: self.parameter(name) for name in trained}
                chosen |= {node: node for node in own.values()}
            if own is not None:
                args, work = (own, *args), _with_parameters(work or (lambda group: _called))
        call = None if work is None else (lambda net, group: work(group))
        self.walk.step(
            self.node,
            chosen.__getitem__,
            layout=bands,
            along=along,
            why=why,
            parameters=parameters,
            summed=summed,
            call=call,
            then=then,
            args=args,
            kwargs=kwargs,
        )

    def step_whole(self, why: str = "") -> bool:
        """All ranks compute all of it: True, as of a rule that has made its step."""
        self.walk.step_whole(self.node, why)
        return True


def shape_of(node: Node) -> tuple[int, ...]:
    """Of the tensor that the node gives."""
    assert node.shape is not None
    return node.shape


def kind_of_call(graph: NetGraph, node: Node) -> Any:
    """The class of the module that is called, or the name of the function or method; None if nothing is known.

    A module whose weights are computed of others, by torch.nn.utils.parametrize, is of the class that it was.
    """
    module = graph.module_of(node)
    if module is not None:
        if has_hooks(module):
            return None
        return type(module).__mro__[1] if parametrize.is_parametrized(module) else type(module)
    if isinstance(node.target, AppliedFunction) or (node.op == "function" and not is_torch_s(node)):
        return None
    return node.called if node.op in ("function", "method") else None


def is_torch_s(node: Node) -> bool:
    """Is the function torch's or Python's own?"""
    home = getattr(node.target, "__module__", None) or type(node.target).__module__
    known = ("torchvision.ops.stochastic_depth", "dlkit.models.tracing")
    return home.split(".")[0] in ("torch", "_operator", "builtins") or home in known


def no_rows(x: Tensor, shape: tuple[int, ...], dim: int, *others: Tensor) -> Tensor:
    """What a rank gives that has no rows: nothing, but with all that autograd asks of the other ranks too."""
    empty = x.new_zeros((len(x), *shape[1:dim], 0, *shape[dim + 1 :]))
    return empty * sum((other.sum() for other in others), x.sum())


def _called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return module(*args, **kwargs)


class _Applied(nn.Module):
    """A function of a module, as a module, whose parameters torch can replace for a call."""

    def __init__(self, function: Callable[..., Any], module: nn.Module):
        super().__init__()
        self.function, self.module = function, module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.module, *args, **kwargs)


def _with_parameters(work: Work) -> Work:
    """The same, given the module, the parameters that it is to have, and the rest."""

    def run(function: Any, module: nn.Module, parameters: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        values = {f"module.{name}": value for name, value in parameters.items()}
        return torch.func.functional_call(_Applied(function, module), values, args, kwargs)

    return lambda group: partial(run, work(group))
