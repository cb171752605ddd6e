"""A net as the layers that an image passes, one after another: what strategies, counts and costs walk over."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from dlkit.core.evaluation import eval_no_grad
from dlkit.models.layer_kinds import LayerKind, kind_of


class Layer(NamedTuple):
    """A module that is no plain nn.Sequential, its path in the net, and shapes of its input and output for an image.

    `needs_input_grad`: whether something before it is trained, so that a gradient goes on to its input.
    """

    name: str
    module: nn.Module
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    needs_input_grad: bool

    @property
    def kind(self) -> LayerKind:
        return kind_of(self.module)


def is_sequential(module: nn.Module) -> bool:
    """Does it do nothing but pass its input through its children, in their order? What a hook does cannot be known."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and not has_hooks(module)


def has_hooks(module: nn.Module) -> bool:
    forward = module._forward_pre_hooks or module._forward_hooks
    return bool(forward or module._backward_pre_hooks or module._backward_hooks)


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


def layers_of(net: nn.Module, images: Tensor, user: str) -> list[Layer]:
    """The net's layers; `images` (batch, ...) are its input, for their shape alone. ValueError as `modules_of`."""
    layers: list[Layer] = []
    x, trained = images.clone(), False
    with eval_no_grad(net):
        for name, module in modules_of(net, user):
            input_shape, x = tuple(x.shape[1:]), module(x)
            if not isinstance(x, Tensor):
                raise ValueError(
                    f"{name}, of class {type(module).__name__}, gives a {type(x).__name__}, and {user} goes along "
                    "layers that give one tensor: put it and what takes its output into one module."
                )
            layers.append(Layer(name, module, input_shape, tuple(x.shape[1:]), trained))
            trained = trained or any(parameter.requires_grad for parameter in module.parameters())
    return layers


def refuse_shared_parameters(net: nn.Module, why: str, *, trained_only: bool = False) -> None:
    """ValueError, which says `why`, if two layers of the net share a parameter (that is trained)."""
    names: dict[int, str] = {}
    for name, parameter in net.named_parameters(remove_duplicate=False):
        if trained_only and not parameter.requires_grad:
            continue
        if id(parameter) in names:
            raise ValueError(f"{names[id(parameter)]} and {name} are one parameter, {why}: give each layer its own.")
        names[id(parameter)] = name
