"""The model that a run begins with: made, its lazy layers given their sizes, and looked at before it is trained."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dlkit.core.evaluation import eval_no_grad
from dlkit.data.batch import Batch
from dlkit.training.arguments import check_no_argument
from dlkit.training.learner import Backprop

M = TypeVar("M", bound=nn.Module)


def make_model(make: Callable[[], M], learner: Any, data: Callable[[], Batch], dtype: torch.dtype) -> M:
    """The model, in float64 if that is `dtype`. Lazy layers get their sizes by one image of `data()`."""
    check_no_argument(make)
    model = make()
    if not isinstance(model, nn.Module):
        raise TypeError(f"model= gives a {type(model).__name__} when it is called, not a model: let it return one.")
    if dtype == torch.float64:
        model.double()
    if any(is_lazy(tensor) for _, tensor in _tensors(model)):
        image = Batch(data().images[:1].clone())
        x = image.images
        if isinstance(learner, Backprop):  # which may give the net its images in another shape
            x = copy.deepcopy(learner).inputs(image, torch.Generator().manual_seed(0))
        with eval_no_grad(model):
            model(x)
    return model


def on_its_own(model: M, make: Callable[[], M]) -> M:
    """The model, or a copy if it has frozen parameters or buffers in common with what the next call of `make` gives.

    The global generators must be lent, as `make` draws from them.

    ValueError if parameters that are trained are the next one's too: each run would go on from the one before.
    """
    other = make()
    theirs = {key for _, tensor in _tensors(other) for key in _keys(tensor)}
    common = [(name, tensor) for name, tensor in _tensors(model) if theirs.intersection(_keys(tensor))]
    for name, tensor in common:
        if tensor.requires_grad:
            what = "the same model" if model is other else f"models that have {name} in common"
            raise ValueError(
                f"model= gives {what} each time it is called, so that a run would go on from the one before it: give "
                "partial(copy.deepcopy, net) for a net that is there already, or copy.deepcopy of a part of it."
            )
    return copy.deepcopy(model) if common else model


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _keys(tensor: Tensor) -> Iterator[tuple[str, int]]:
    """By which a tensor is known to be another one, or to share its memory."""
    yield "tensor", id(tensor)
    if not is_lazy(tensor) and tensor.layout is torch.strided and tensor.numel():
        yield "memory", tensor.untyped_storage().data_ptr()


def check_trainable(model: nn.Module, dtype: torch.dtype, split: bool) -> None:
    """ValueError for a model without trained parameters, or with some that cannot learn from images of `dtype`."""
    parameters, kind = dict(model.named_parameters()), type(model).__name__
    if not parameters:
        raise ValueError(
            f"the {kind} has no parameters, and so nothing to train: give a model with layers that have some."
        )
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError(
            f"all parameters of the {kind} are frozen, and so nothing is trained: `requires_grad_(True)` those that "
            "are to learn."
        )
    for name, parameter in parameters.items():
        if parameter.is_complex():
            raise ValueError(
                f"{name} is {parameter.dtype}: hold its parts as floats, nn.Parameter(torch.view_as_real(...)), and "
                "take torch.view_as_complex of it in forward."
            )
        if parameter.is_floating_point() and parameter.dtype != dtype:
            made = {torch.float32: "float", torch.float64: "double"}.get(dtype, "float")
            raise ValueError(f"{name} is {parameter.dtype} and the images {dtype}: make the model .{made}().")
    for name, module in model.named_modules():
        if split and isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            raise ValueError(
                f"the gradient of {name} is sparse, which a split run does not take: make it with sparse=False."
            )
