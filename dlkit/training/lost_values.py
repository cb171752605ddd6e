"""What a checkpoint would lose: attributes of the optimizer, the net and the learner; and how that is said."""

import pickle
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from inspect import isroutine
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dlkit.core.apple import off_apple

SKIPPED = ("state", "param_groups", "defaults", "_parameters", "_modules", "_buffers")  # kept, or looked at otherwise


MENDS = {
    "optimizer": "keep that in self.state[parameter] or in the parameter groups, and let an optimizer inside it "
    "have self.state",
    "net": "keep that in a buffer, by register_buffer",
    "learner": "keep that as a tensor in self.state",
}


class Place(NamedTuple):
    """Where an attribute is. who: "optimizer", "net" or "learner"; path: of the module in the net."""

    who: str
    path: str
    name: str

    def __str__(self) -> str:
        return f"`{self.path}.{self.name}`" if self.path else f"`{self.name}`"


def owner(run: Any, place: Place) -> Any:
    """The object that has the attribute."""
    return run.model.get_submodule(place.path) if place.who == "net" else getattr(run, place.who)


def attributes(run: Any) -> Iterator[tuple[Place, Any]]:
    """All attributes of the three, and the net's buffers that are not in its state_dict."""
    for who in ("optimizer", "learner"):
        for name, value in vars(getattr(run, who)).items():
            if name not in SKIPPED and not isroutine(value):
                yield Place(who, "", name), value
    for path, module in run.model.named_modules():
        for name, value in vars(module).items():
            if name not in SKIPPED:
                yield Place("net", path, name), value
        for name in module._non_persistent_buffers_set:
            yield Place("net", path, name), module._buffers[name]


def differing(one: Any, other: Any, who: str) -> list[Place]:
    """The places of the optimizer, net or learner whose value in one run is not that in the other."""
    others = dict(attributes(other))
    places = [place for place, value in attributes(one) if place.who == who and not alike(value, others.get(place))]
    return [place for place in places if not place.name.startswith("_")] or places


def numbers(run: Any) -> dict[Place, float]:
    """The attributes that are numbers."""
    return {place: value for place, value in attributes(run) if type(value) in (int, float)}


def alike(one: Any, other: Any, seen: set[tuple[int, int]] | None = None) -> bool:
    """Whether two values are the same as far as can be seen: tensors to the bit, objects by their attributes."""
    seen = set() if seen is None else seen
    if one is other or (id(one), id(other)) in seen:
        return True
    seen.add((id(one), id(other)))
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        exact = torch.equal(one, other)
        return exact or (one.is_floating_point() and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True))
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, torch.Generator):
        return torch.equal(one.get_state(), other.get_state())
    if isinstance(one, dict):  # the keys may be parameters, each of its own run
        one, other = [*one.keys(), *one.values()], [*other.keys(), *other.values()]
    if isinstance(one, list | tuple | deque):
        return len(one) == len(other) and all(alike(*pair, seen) for pair in zip(one, other, strict=True))
    if isinstance(one, nn.Module) or (hasattr(one, "__dict__") and not callable(one)):
        return alike(vars(one), vars(other), seen)
    with suppress(Exception):  # of what cannot be pickled nothing is known
        return pickle.dumps(one) == pickle.dumps(other)
    return True


def name_of(run: Any, who: str) -> str:
    kept = run.model if who == "net" else getattr(run, who)
    return type(kept).__name__


def lost_by(who: str, before: Any, after: Any) -> str:
    """The sentence on what the optimizer, net or learner has lost."""
    names = " and ".join(str(place) for place in differing(before, after, who)[:3])
    return sentence(who, f"{names or 'a value'} of {name_of(before, who)}")


def sentence(who: str, what: str) -> str:
    return (
        f"a checkpoint would not keep {what}, and a run that goes on from it would give other results: {MENDS[who]}, "
        "or leave checkpoint out."
    )


def distances(expected: dict[str, Any], found: dict[str, Any]) -> dict[str, float]:
    """How far off each value is, of those that are."""
    distances = {name: _distance(expected.get(name), found.get(name)) for name in expected | found}
    return {name: distance for name, distance in distances.items() if distance}


def _distance(one: Any, other: Any) -> float:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return 0.0 if one == other else float("inf")
    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    if alike(one, other):
        return 0.0
    one, other = (off_apple(value).double() for value in (one, other))
    return float((one - other).abs().nan_to_num(float("inf")).max())
