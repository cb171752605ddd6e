"""Which modules of a net can have their parameters gathered for their own forward alone, found by trial on a copy."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from dlkit.models.sequence import is_sequential
from dlkit.training.trial import Passes, few_images

ASK = ("__set__", "__delete__", "__hash__", "size", "dim", "numel", "stride", "is_floating_point", "is_complex")
SMALLEST = 100  # a unit has at least this part of the net: each costs exchanges of its own


def candidates(net: nn.Module) -> dict[str, nn.Module]:
    """Modules with parameters, by path, none in another: children, and in place of chains and lists what is in them.

    Not so small ones, nor those that share a parameter with what is outside of them.
    """
    uses = Counter(id(p) for module in net.modules() for p in module.parameters(recurse=False))
    whole = sum(p.nbytes for p in net.parameters())

    def is_unit(module: nn.Module) -> bool:
        own = Counter(id(p) for inner in module.modules() for p in inner.parameters(recurse=False))
        size = sum(p.nbytes for p in module.parameters())
        return size * SMALLEST >= max(whole, 1) and all(uses[key] == count for key, count in own.items())

    return {path: module for path, module in _blocks(net, "") if is_unit(module)}


def _blocks(net: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in net.named_children():
        name = f"{path}.{name}" if path else name
        if isinstance(child, nn.ModuleList | nn.ModuleDict) or is_sequential(child):
            yield from _blocks(child, name)
        elif any(True for _ in child.parameters()):
            yield name, child


def units_of(run: Any) -> list[str]:
    """The paths of those candidates that are called once in a pass, and use their parameters then alone.

    ValueError if the net itself is not called: only for that are parameters gathered that are in no unit.
    """
    passes = Passes(run, few_images(run))
    units = candidates(passes.model)
    watch = _Watch(passes.model, units)
    try:
        with watch:
            passes()
    finally:
        watch.close()
    if not watch.calls[""]:
        raise ValueError(
            f"{type(run.learner).__name__} does not call the net, for which shards are gathered, but parts of it: let "
            "it call the net, or leave out shard=."
        )
    return [path for path in units if path not in watch.outside and watch.calls[path] == 1]


class _Watch(TorchFunctionMode):
    """Notes how often modules are called, and those whose parameters or inputs are not used as a unit's may be."""

    def __init__(self, net: nn.Module, units: dict[str, nn.Module]):
        super().__init__()
        self.calls, self.outside, self.active = Counter[str](), set[str](), Counter[str]()
        self.owner = {id(p): "" for p in net.parameters()}
        self.owner |= {id(p): path for path, unit in units.items() for p in unit.parameters()}
        self.versions: dict[str, list[tuple[Tensor, int]]] = {}
        self.hooks = []
        for path, module in {"": net, **units}.items():
            self.hooks.append(module.register_forward_pre_hook(self._entered(path), with_kwargs=True, prepend=True))
            self.hooks.append(module.register_forward_hook(self._left(path), always_call=True))

    def _entered(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.calls[path] += 1
            self.active[path] += 1
            given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            self.versions[path] = [(x, x._version) for x in given if x.requires_grad]

        return hook

    def _left(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self.active[path] -= 1
            if any(x._version != version for x, version in self.versions.pop(path, ())):
                self.outside.add(path)  # its input is changed in place, which torch's hooks on it do not stand

        return hook

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **kwargs or {})
        if not _only_asks(func, result):
            for x in tree_leaves((args, kwargs or {})):
                if isinstance(x, nn.Parameter) and not self.active[self.owner.get(id(x), "")]:
                    self.outside.add(self.owner.get(id(x), ""))
        return result

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()


def _only_asks(func: Any, result: Any) -> bool:
    """Does the function look at none of a tensor's values, or at its gradient?"""
    name = func.__name__
    if name == "__get__":
        return not isinstance(result, Tensor) or getattr(func, "__self__", None) is Tensor.grad
    return name in ASK
