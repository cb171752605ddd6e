"""Nets that are nothing but an nn.Sequential: which modules an image passes, one after another."""

from collections.abc import Iterator

from torch import nn

from dlkit.models.graph import has_hooks


def is_sequential(module: nn.Module) -> bool:
    """Does it do nothing but pass its input through its children, in their order? What a hook does cannot be known."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and not has_hooks(module)


def modules_of(net: nn.Module, user: str) -> list[tuple[str, nn.Module]]:
    """The modules, with their paths, that an image passes one after another; nn.Sequentials inside are taken apart.

    ValueError, in which `user` is who asks, if the net is none, or has a forward or hooks of its own.
    """
    if not is_sequential(net):
        raise ValueError(
            f"{type(net).__name__} is no nn.Sequential, or has a forward or hooks of its own, so that {user} cannot "
            "tell in which order images pass its layers: put layers that follow each other into an nn.Sequential, or "
            "use DataParallel."
        )
    return list(_walk(net))


def _walk(net: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, module in net._modules.items():  # named_children() leaves out the second use of a module
        assert module is not None
        name = f"{path}.{name}" if path else name
        if is_sequential(module):
            yield from _walk(module, name)
        else:
            yield name, module


def refuse_shared_parameters(net: nn.Module, why: str) -> None:
    """ValueError, which says `why`, if two layers of the net share a parameter."""
    names: dict[int, str] = {}
    for name, parameter in net.named_parameters(remove_duplicate=False):
        if id(parameter) in names:
            raise ValueError(f"{names[id(parameter)]} and {name} are one parameter, {why}: give each layer its own.")
        names[id(parameter)] = name
