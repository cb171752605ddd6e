"""An argument of one of torch's functions, by its place or by its name."""

from collections.abc import Mapping, Sequence
from typing import Any

NUMPY_NAMES = {"dim": "axis", "keepdim": "keepdims"}  # which functions of torch take too


def argument(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str, default: Any = None) -> Any:
    """By its place, or by its name, which may be NumPy's."""
    if len(args) > place:
        return args[place]
    return kwargs.get(name, kwargs.get(NUMPY_NAMES.get(name, name), default))
