"""What all analyses of a model share: a sentence for what they cannot take, and a model that is left as it was."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

import torch

from dlkit.core.evaluation import check_images, check_net, evaluating
from dlkit.core.global_generators import torch_state

P = ParamSpec("P")
R = TypeVar("R")
PICTURES = {"image", "images", "v", "start", "baseline", "train", "validation"}  # arguments that must be tensors


def examines(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator of an analysis whose first argument is a model, or models one after another.

    It is in evaluation mode meanwhile, and afterwards as before. TypeError, with the mend, for a Run in its place, or
    images that are no tensor. A warning if it draws random numbers in evaluation mode.
    """
    names = list(signature(function).parameters)
    of_class = names[0] == "self"

    @wraps(function)
    def examine(*args: P.args, **kwargs: P.kwargs) -> R:
        given = dict(zip(names, args, strict=False)) | kwargs
        model = given.get(names[of_class])
        models: Sequence[Any] = model if isinstance(model, list | tuple) else [model]
        for each in models:
            check_net(each)
        for name in PICTURES & given.keys():
            if given[name] is not None:
                check_images(given[name], name)
        before = torch_state()
        with ExitStack() as stack:
            for each in models:
                stack.enter_context(evaluating(each))
            result = function(*args, **kwargs)
        asked_to_draw = any(isinstance(value, torch.Generator) for value in given.values())
        if torch_state() != before and not asked_to_draw:
            warnings.warn(
                f"{type(model).__name__} draws random numbers in evaluation mode, so that each look at it gives "
                "something else: let it draw where `self.training` is true alone.",
                stacklevel=2,
            )
        return result

    return examine


def check_class(label: Any, classes: int) -> int:
    """The number of a class that a net has a logit for. ValueError, with the mend, for any other."""
    if isinstance(label, str):
        mend = f"give {int(label)}" if label.strip().isdecimal() else f"give the number of a class, 0 to {classes - 1}"
        raise ValueError(f"label {label!r} is text: {mend}.")
    if not 0 <= label < classes:
        raise ValueError(f"label {label}: the net has {classes} classes, 0 to {classes - 1}.")
    return int(label)
