"""What an Experiment refuses of its arguments before anything runs, each in a sentence with the mend."""

import inspect
from functools import partial
from operator import index
from typing import Any

import torch
from torch import nn

from dlkit.training.learner import Learner

LARGEST_SEED = 2**43  # times a million, from which the orders of the epochs are drawn, it is still an int64


def check_arguments(experiment: Any) -> None:
    """TypeError or ValueError for what a field of the Experiment cannot be."""
    _check_model(experiment.model)
    _check_learner(experiment.learner)
    for name in ("batch_size", "epochs"):
        check_count(name, getattr(experiment, name))
    if experiment.row_every is not None:
        check_count("row_every", experiment.row_every, " or None for a row an epoch")
    _check_seed(experiment.seed)
    if experiment.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype={experiment.dtype!r}: it is torch.float32, or torch.float64 for less rounding.")
    for name in ("lr", "momentum", "weight_decay"):
        value = getattr(experiment, name)
        if not (callable(value) and name != "weight_decay") and not (value is None and name == "momentum"):
            _check_number(name, value)
    _check_optimizer(experiment)


def check_count(name: str, value: Any, otherwise: str = "") -> None:
    """TypeError unless the value is a whole number, ValueError unless it is 1 or more."""
    value = _whole(name, value)
    if value < 1:
        raise ValueError(f"{name}={value}: it must be at least 1{',' if otherwise else ''}{otherwise}.")


def _whole(name: str, value: Any) -> int:
    try:
        return index(value)
    except TypeError:
        pass
    _check_number(name, value)
    more = " or, to end within an epoch, run(steps=...)" if name == "epochs" and value % 1 else ""
    raise TypeError(
        f"{name}={value!r} is of type {type(value).__name__}: give a whole number, {name}={round(value)}{more}."
    )


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, str):
        raise TypeError(f"{name}={value!r} is text: give the number, {name}={value or 0}.")
    try:
        float(value)
    except (TypeError, ValueError):
        function = "" if name == "weight_decay" else ", or a function of the epoch"
        raise TypeError(f"{name}={value!r} is no number: give one{function}.") from None


def _check_seed(seed: Any) -> None:
    if seed is None:
        raise TypeError("seed=None gives no random numbers that can be had again: give a number, such as seed=0.")
    if abs(_whole("seed", seed)) >= LARGEST_SEED:
        raise ValueError(f"seed={seed} is too large: give a smaller one, seed={seed % 2**32}.")


def _check_model(model: Any) -> None:
    if isinstance(model, nn.Module):
        kind = type(model).__name__
        raise TypeError(
            f"model= is itself a model, {kind}: give what makes one, partial({kind}, ...), or to go on from "
            "this one partial(copy.deepcopy, model)."
        )


def check_no_argument(model: Any) -> None:
    """TypeError if what is to make a model cannot be called so; asked late, as an Experiment may be a template."""
    if not callable(model):
        raise TypeError(f"model={model!r} cannot be called: give what makes a model, such as partial(RBM, 784, 500).")
    try:
        parameters = inspect.signature(model).parameters.values()
    except (TypeError, ValueError):  # of some built-in callables nothing is known
        return
    missing = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if missing:
        made = model.func if isinstance(model, partial) else model
        name = getattr(made, "__name__", type(made).__name__)
        needs = ", ".join(f"{argument}=..." for argument in missing)
        raise TypeError(f"model= is called with no argument, and {name} needs some: give partial({name}, {needs}).")


def _check_learner(learner: Any) -> None:
    if isinstance(learner, Learner):
        return
    if isinstance(learner, str):
        raise TypeError(f"learner={learner!r} is a name: give a learner, such as CrossEntropy() or Reconstruction().")
    if isinstance(learner, type) and not issubclass(learner, nn.Module):
        name = learner.__name__
        raise TypeError(f"learner={name} is the class itself: give a learner, {name}().")
    name = getattr(learner, "__name__", type(learner).__name__)
    if isinstance(learner, nn.Module) or callable(learner):
        raise TypeError(
            f"learner= is a loss, {name}, and no learner: give CrossEntropy() for the cross-entropy of logits, or for "
            'another loss a Backprop whose loss(output, batch) returns it, as `loss, {"loss": loss}`.'
        )
    raise TypeError(
        f"learner= is of class {name}, which is no Learner: derive it from "
        "dlkit.training.Learner, or, if it backpropagates a loss, from dlkit.training.Backprop."
    )


def _check_optimizer(experiment: Any) -> None:
    optimizer = experiment.optimizer
    if isinstance(optimizer, str):
        names = {name.lower(): name for name in dir(torch.optim) if isinstance(getattr(torch.optim, name), type)}
        name = names.get(optimizer.lower(), "Adam")
        raise TypeError(f"optimizer={optimizer!r} is a name: give the class, torch.optim.{name}.")
    if isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer= is made already, of the parameters of another model: give {_how_made(optimizer)}, and the "
            "Experiment makes it."
        )
    if not callable(optimizer):
        raise TypeError(f"optimizer={optimizer!r} cannot be called: give a class, such as torch.optim.Adam.")
    if isinstance(optimizer, partial):
        for name in ("lr", "momentum", "weight_decay"):
            own, given = getattr(experiment, name), optimizer.keywords.get(name)
            if given is not None and not callable(own) and own is not None and own != given:
                raise ValueError(
                    f"optimizer= has {name}={given}, and the Experiment {name}={own}, which is what counts: give "
                    f"{name}={given} to the Experiment."
                )


def _how_made(optimizer: torch.optim.Optimizer) -> str:
    """The arguments of an Experiment that make such an optimizer."""
    kind, settings = type(optimizer), dict(optimizer.defaults)
    usual = inspect.signature(kind).parameters
    of_experiment = [f"{name}={settings.pop(name)}" for name in ("lr", "momentum", "weight_decay") if name in settings]
    own = [f"{name}={value!r}" for name, value in settings.items() if name in usual and value != usual[name].default]
    name = f"torch.optim.{kind.__name__}" if hasattr(torch.optim, kind.__name__) else kind.__name__
    made = f"partial({', '.join([name, *own])})" if own else name
    return ", ".join([f"optimizer={made}", *of_experiment])
