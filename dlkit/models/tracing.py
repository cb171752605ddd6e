"""One pass of a net, recorded: which modules and functions it calls, on what, by proxies that know their values.

torch.fx traces; its proxies here also hold what they stand for in a real pass on example images, so that a forward may
ask for shapes, dtypes and lengths. Modules of torch.nn, and layers that the kit knows, stay what they are.
"""

import linecache
import operator
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partialmethod
from typing import Any
from unittest.mock import patch

import torch
import torch.utils.checkpoint
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from dlkit.models.layer_kinds import KINDS

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
MADE_OF_LAYERS = (
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
)
MAKERS = frozenset(
    (
        torch.rand,
        torch.randn,
        torch.randint,
        torch.randperm,
        torch.zeros,
        torch.ones,
        torch.full,
        torch.empty,
        torch.arange,
        torch.linspace,
        torch.logspace,
        torch.eye,
        torch.tensor,
        torch.normal,
        torch.bernoulli,
        torch.tril_indices,
        torch.triu_indices,
        torch.hann_window,
        torch.hamming_window,
    )
)
NUMBERS = (bool, int, float, str, type(None), torch.Size, torch.dtype, torch.device, torch.layout)
CALLS = ("call_module", "call_function", "call_method")
RESHAPES_IN_PLACE = ("squeeze_", "unsqueeze_", "transpose_", "t_", "swapaxes_", "swapdims_")
ONE_AT_A_TIME = threading.RLock()  # fx changes nn.Module for all threads while it traces
ISINSTANCE = isinstance
MODULE_CALL, MODULE_GETATTR, APPLY = nn.Module.__call__, nn.Module.__getattr__, vars(torch.autograd.Function)["apply"]


def record(net: nn.Module, images: Tensor) -> tuple[fx.Graph, dict[fx.Node, Any]]:
    """What `net` calls for these images (batch, ...), in its order, and the value of each node. The net is changed.

    ValueError where the forward looks at a value, with the line of code, or does what cannot be recorded.
    """
    tracer = _Tracer(net, images)
    try:
        with ONE_AT_A_TIME, torch.enable_grad(), _Makers(tracer), _seen_through(tracer):
            return tracer.trace(net), tracer.values
    except ValueError:
        raise
    except Exception as error:
        text = str(error).split("\n")[0]
        raise ValueError(
            f"{type(net).__name__} cannot be read as a graph of its layers ({type(error).__name__}: {text}) at "
            f"{_line_of_reader(traceback.extract_tb(error.__traceback__))}: use DataParallel, which runs it as it is."
        ) from error


def detached(value: Any) -> Any:
    """The value, or the tensors in it, as torch.no_grad makes them."""
    if isinstance(value, tuple | list):
        return type(value)(map(detached, value)) if type(value) in (tuple, list) else value
    return value.detach() if isinstance(value, Tensor) else value


class AppliedFunction:
    """A torch.autograd.Function that a forward applies, as a function to be called."""

    def __init__(self, function: type[torch.autograd.Function]):
        self.function = function
        self.__name__ = self.__qualname__ = function.__name__
        self.__module__ = function.__module__

    def __call__(self, *args: Any) -> Any:
        return self.function.apply(*args)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AppliedFunction) and other.function is self.function

    def __hash__(self) -> int:
        return hash(self.function)


class _Known(fx.Proxy):
    """Stands for a tensor, or several, of which it knows the `value` in the pass that is recorded."""

    value: Any

    def __getattr__(self, k: str) -> Any:
        value = getattr(self.value, k)
        if isinstance(value, NUMBERS) or k.startswith("__") or k == "_is_param":
            return value
        if callable(value):
            return _Method(self, k)
        return self.tracer.create_proxy("call_function", getattr, (self, k), {})

    def __len__(self) -> int:
        return len(self.value)

    def __bool__(self) -> bool:
        raise _refusal(self.tracer, "which way it goes depends on the values of a tensor")

    def __int__(self) -> int:
        raise _refusal(self.tracer, "it takes a number out of a tensor")

    __float__ = __index__ = __complex__ = __int__

    def __contains__(self, item: Any) -> bool:
        raise _refusal(self.tracer, "which way it goes depends on the values of a tensor")

    def __iter__(self) -> Iterator[Any]:
        return iter([self[index] for index in range(len(self.value))])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def _changed(self, function: Any, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    __iadd__ = partialmethod(_changed, operator.iadd)  # fx makes `x + y` of `x += y`, which leaves x as it is
    __isub__ = partialmethod(_changed, operator.isub)
    __imul__ = partialmethod(_changed, operator.imul)
    __itruediv__ = partialmethod(_changed, operator.itruediv)
    __ifloordiv__ = partialmethod(_changed, operator.ifloordiv)
    __ipow__ = partialmethod(_changed, operator.ipow)

    def __eq__(self, other: object) -> Any:
        return self.tracer.create_proxy("call_function", operator.eq, (self, other), {})

    def __ne__(self, other: object) -> Any:
        return self.tracer.create_proxy("call_function", operator.ne, (self, other), {})

    def __hash__(self) -> int:
        return id(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class _Method:
    """A method of a proxy, to be called; what gives a number, as `x.size(0)`, is answered at once."""

    def __init__(self, proxy: _Known, name: str):
        self.proxy, self.name = proxy, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.name in ("item", "tolist", "numpy"):
            raise _refusal(self.proxy.tracer, "it takes a number out of a tensor")
        if self.name not in RESHAPES_IN_PLACE:
            return self.proxy.tracer.create_proxy("call_method", self.name, (self.proxy, *args), kwargs)
        made = self.proxy.tracer.create_proxy("call_method", self.name[:-1], (self.proxy, *args), kwargs)
        self.proxy.node, self.proxy.value = made.node, made.value  # a view, for which the proxy stands from now on
        return self.proxy


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def __init__(self, net: nn.Module, images: Tensor):
        super().__init__(autowrap_functions=())
        self.net, self.images = net, images
        self.values: dict[fx.Node, Any] = {}
        self.computing = 0
        self.thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """In other threads modules are called as ever."""
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if parametrize.is_parametrized(m) or type(m) in KINDS:
            return True
        return type(m).__module__.startswith("torch.nn.") and not isinstance(m, CONTAINERS + MADE_OF_LAYERS)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """The net's own `forward`, given images and nothing else, so that its defaults hold."""
        return root_fn, [self.root, self.create_proxy("placeholder", "images", (), {})]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Known(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        raise _refusal(self, "which way it goes depends on the values of a tensor")

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        return _Known.__iter__(obj)  # pyrefly: ignore[bad-argument-type]

    def create_arg(self, a: Any) -> Any:
        if type(a) is _Known:
            return a.node
        if isinstance(a, torch.Generator | torch.memory_format):
            return a
        return super().create_arg(a)

    def create_proxy(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *rest: Any, **more: Any
    ) -> Any:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        if kind == "output":
            return proxy
        node = proxy.node
        value = self.values[node] = self.computed(node)
        object.__setattr__(proxy, "value", value)
        if isinstance(value, NUMBERS) and target is not operator.setitem:
            if not node.users and not _in_place(target):
                self.graph.erase_node(node)
            return value
        if not torch.is_grad_enabled() and kind in CALLS and target is not detached:
            return self.create_proxy("call_function", detached, (proxy,), {})
        if isinstance(value, tuple | list) and type(value) in (tuple, list):
            return type(value)(proxy)  # its members, each by its index
        return proxy

    def computed(self, node: fx.Node) -> Any:
        """What the node gives in this pass."""
        args = fx.node.map_arg(node.args, self.value_of)
        kwargs = fx.node.map_arg(node.kwargs, self.value_of)
        taken = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        shapes = [value.shape for value in taken]
        value = self.called(node, args, kwargs)
        if shapes != [value.shape for value in taken]:
            raise _refusal(self, "it changes a tensor's shape in place")
        return value

    def called(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self.as_usual():
            if node.op == "placeholder":
                return self.images
            if node.op == "get_attr":
                return operator.attrgetter(str(node.target))(self.root)
            if node.op == "call_module":
                return self.root.get_submodule(str(node.target))(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            assert callable(node.target)
            return node.target(*args, **kwargs)

    def value_of(self, node: fx.Node) -> Any:
        if node not in self.values:  # a constant, for which fx makes a node and no proxy
            self.values[node] = operator.attrgetter(str(node.target))(self.root)
        return self.values[node]

    @contextmanager
    def as_usual(self) -> Iterator[None]:
        """Context in which modules are called as they are, in place of what fx puts there while it traces."""
        traced = nn.Module.__call__, nn.Module.__getattr__
        nn.Module.__call__, nn.Module.__getattr__ = MODULE_CALL, MODULE_GETATTR
        self.computing += 1
        try:
            yield
        finally:
            nn.Module.__call__, nn.Module.__getattr__ = traced
            self.computing -= 1


class _Makers(TorchFunctionMode):
    """Makes nodes of tensors that a forward makes of nothing; as constants they would be those of this pass."""

    def __init__(self, tracer: _Tracer):
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.tracer.computing and func in MAKERS:
            return self.tracer.create_proxy("call_function", func, args, kwargs)
        return func(*args, **kwargs)


@contextmanager
def _seen_through(tracer: _Tracer) -> Iterator[None]:
    """Context in which proxies are met by what looks past them: isinstance, autograd.Function, checkpoints.

    A torch.autograd.Function becomes a node; a checkpoint is what it runs. `__class__` of a proxy could not answer
    isinstance: torch's C code would take it for a tensor, and crash.
    """

    def apply(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
        if tracer.computing or not any(type(arg) is _Known for arg in args):
            return APPLY.__func__(cls, *args, **kwargs)
        if cls is torch.utils.checkpoint.CheckpointFunction:
            return args[0](*args[2:])
        return tracer.create_proxy("call_function", AppliedFunction(cls), args, kwargs)

    def uncheckpointed(*args: Any, **kwargs: Any) -> Iterator[None]:
        yield

    with (
        patch(
            "builtins.isinstance",
            lambda x, kind: ISINSTANCE(x, kind) or (type(x) is _Known and ISINSTANCE(x.value, kind)),
        ),
        patch.object(torch.autograd.Function, "apply", classmethod(apply)),
        patch("torch.utils.checkpoint._checkpoint_without_reentrant_generator", uncheckpointed),
    ):
        yield


def _in_place(target: Any) -> bool:
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return name.endswith("_") and not name.endswith("__")


def _refusal(tracer: Any, why: str) -> ValueError:
    return ValueError(
        f"{type(tracer.net).__name__} cannot be read as a graph of its layers, since {why} at "
        f"{_line_of_reader(traceback.extract_stack())}: use DataParallel, which runs it as it is."
    )


def _line_of_reader(frames: Any) -> str:
    """File, line and text of the innermost frame that is not of the tracing, of torch, or of checks of types."""
    for frame in reversed(frames):
        folders = frame.filename.replace("\\", "/").split("/")
        own = frame.filename == __file__ or not {"torch", "jaxtyping", "beartype"}.isdisjoint(folders)
        if not own and not frame.filename.startswith("<eval"):
            return f"{frame.filename}:{frame.lineno} ({linecache.getline(frame.filename, frame.lineno or 0).strip()})"
    return "a line of torch"
