"""What an optimizer keeps from step to step: its tensors apart from its numbers, by the index of their parameter."""

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

PREFIX = "optimizer."
GROUP = "group:"  # before the name of a value of a parameter group, which is kept for each parameter in it
OF_EXPERIMENT = ("params", "lr", "momentum", "weight_decay")  # in a group; these may change from run to run

Settings = list[dict[str, Any]]


def group_settings(optimizer: torch.optim.Optimizer) -> Settings:
    """A copy of the numbers and tensors in each parameter group, but for those that the Experiment gives."""
    return [
        {name: copy.deepcopy(value) for name, value in group.items() if name not in OF_EXPERIMENT and _is_plain(value)}
        for group in optimizer.param_groups
    ]


def pack_optimizer(optimizer: torch.optim.Optimizer, start: Settings) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state, and what of its `group_settings` is no longer as at the start, for JSON and safetensors.

    start: these settings before the first step. TypeError for a state that is neither a number, text, nor a tensor, nor
    a list, tuple or dict of such.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}

    def keep(index: int, name: str, value: Any) -> None:
        own: dict[str, Tensor] = {}
        packed = _packed(value, name, own)
        tensors.update({f"{PREFIX}{index}.{key}": tensor for key, tensor in own.items()})
        if not isinstance(value, Tensor):
            numbers[f"{index}.{name}"] = packed

    state = optimizer.state_dict()
    for index, values in state["state"].items():
        for name, value in values.items():
            keep(index, name, value)
    for group, settings, before in zip(state["param_groups"], group_settings(optimizer), start, strict=True):
        for name, value in settings.items():
            if name not in before or not _same(value, before[name]):
                for index in group["params"]:
                    keep(index, GROUP + name, value)
    return tensors, numbers


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Put back what `pack_optimizer` took. What others share with the optimizer, its dicts, stays theirs too."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    packed = {key.removeprefix(PREFIX): value for key, value in tensors.items() if key.startswith(PREFIX)}
    state: dict[int, dict[str, Any]] = {}
    settings: dict[int, dict[str, Any]] = {}

    def put(key: str, value: Any) -> None:
        index, name = int(key.split(".", 1)[0]), key.split(".", 1)[1]
        kept, name = (settings, name.removeprefix(GROUP)) if name.startswith(GROUP) else (state, name)
        kept.setdefault(index, {})[name] = value

    for key, value in numbers.items():
        index = key.split(".", 1)[0]
        put(key, _unpacked(value, lambda name, index=index: packed.pop(f"{index}.{name}")))
    for key, value in packed.items():
        put(key, _as_in_memory(value, parameters[int(key.split(".", 1)[0])]))
    own_state, own_groups = optimizer.state, optimizer.param_groups
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for index, values in state.items():  # torch has cast them all to the dtype of the parameter
        loaded = optimizer.state[parameters[index]]
        for name, value in values.items():
            device = loaded[name].device if isinstance(loaded.get(name), Tensor) else parameters[index].device
            loaded[name] = _on(value, device)
    _give_back(optimizer, own_state, own_groups)
    order = {id(parameter): index for index, parameter in enumerate(parameters)}
    for group in optimizer.param_groups:
        for parameter in group["params"][:1]:
            group.update(_on(settings.get(order[id(parameter)], {}), parameter.device))


def _give_back(optimizer: torch.optim.Optimizer, state: Any, groups: list[dict[str, Any]]) -> None:
    """Let the optimizer have the dicts that it had before it loaded others: one inside it may share them."""
    loaded_state, loaded_groups = optimizer.state, optimizer.param_groups
    if loaded_state is not state:
        state.clear()
        state.update(loaded_state)
    for own, loaded in zip(groups, loaded_groups, strict=True):
        own.update(loaded)
    with suppress(AttributeError):  # of a wrapper that shows those of another optimizer
        optimizer.state, optimizer.param_groups = state, groups


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(item is None or isinstance(item, bool | int | float | str) for item in value)
    return value is None or isinstance(value, bool | int | float | str | Tensor)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and not isinstance(one, Tensor) and one == other


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON holds it, in which each tensor is named, and put into `tensors`."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, list | tuple):
        items = [_packed(item, f"{name}.{number}", tensors) for number, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict):
        return {"dict": [[key, _packed(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is of type {type(value).__name__}")


def _unpacked(value: Any, tensor: Callable[[str], Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, tensor) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensor(inner)
    if kind == "tuple":
        return tuple(_unpacked(item, tensor) for item in inner)
    return {key: _unpacked(item, tensor) for key, item in inner}


def _as_in_memory(value: Tensor, parameter: Tensor) -> Tensor:
    """A tensor in the order in memory of its parameter, by which fused optimizers go, if it is of the same shape."""
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _on(value: Any, device: torch.device) -> Any:
    """The value, its tensors on the device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _on(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_on(item, device) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value
