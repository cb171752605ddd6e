"""BatchNorm where ranks have parts of a batch: it takes the statistics of the whole batch, as in one process.

Ranks exchange counts, means and squared deviations, which are combined in float64: sums of squares would lose all
digits where a mean is large. Source: Chan, Golub, LeVeque 1983, Algorithms for computing the sample variance, §2.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from dlkit.distributed.group import Group, ring_bytes

DOUBLE = 8  # bytes
FAR = 30  # deviations: means so far from zero cost no more than 4e-6 of a deviation in float32
Key = tuple[str, int]  # the layer's path, and its number among the calls of that layer in a step


@runtime_checkable
class Exchange(Protocol):
    """Where the statistics of the other parts of a batch come from; both are called by all ranks in one order."""

    def gather(self, key: Key, moments: Tensor) -> Tensor:
        """All parts' `moments`, a row each."""
        ...

    def sum(self, key: Key, sums: Tensor) -> Tensor:
        """The sum of all parts' `sums`, which are float64."""
        ...


class OverRanks:
    """The exchange with the ranks of a group: an all-gather of 2C + 2 doubles forward, an all-reduce of 2C backward."""

    def __init__(self, group: Group, paths: list[str]):
        """paths: of the layers, by whose numbers a rank tells which one it is at."""
        self.group = group
        self.paths = paths

    def gather(self, key: Key, moments: Tensor) -> Tensor:
        """RuntimeError, on all ranks, if one is at another layer."""
        own = torch.cat([moments.new_tensor([self.paths.index(key[0])]), moments])
        every = self.group.all_gather(own[None], [1] * self.group.world_size)
        if self.group.world_size > 1 and not (every[:, 0] == every[0, 0]).all():
            paths = " and of ".join(dict.fromkeys(self.paths[int(number)] for number in every[:, 0]))
            raise RuntimeError(
                f"ranks exchange the statistics of {paths} at one time: let all images pass all BatchNorm layers, or "
                "train in one process."
            )
        return every[:, 1:]

    def sum(self, key: Key, sums: Tensor) -> Tensor:
        self.group.all_reduce(sums)
        return sums


class Part(NamedTuple):
    """What a rank has of a batch. counts: whether its images do, as one does not that stands in where there is none.

    weight: by which the learner multiplies gradients after its backward pass; 1 if the loss is weighted.
    """

    counts: bool = True
    weight: float = 1.0


def batch_norms(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of a model, by path, that take their statistics from a batch as they are now."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
    }


def exchanged_bytes(norm: Any, world_size: int) -> tuple[int, int]:
    """What a rank sends for a BatchNorm layer that is shared, in one pass: forward, and backward."""
    forward, backward = exchanged_doubles(norm.num_features)
    return (world_size - 1) * forward, ring_bytes(backward, world_size, passes=2)


def exchanged_doubles(channels: int) -> tuple[int, int]:
    """Bytes of what a rank gathers forward, and of what is summed backward."""
    return DOUBLE * (2 * channels + 2), DOUBLE * 2 * channels


@contextmanager
def shared_statistics(model: nn.Module, exchange: Exchange, part: Part) -> Iterator[None]:
    """Context of the passes of a part of a batch: the model's BatchNorm layers take the whole batch's statistics.

    Gradients of weights and biases are this rank's share, as those of all other layers. The model is left as it was.
    """
    modules, calls = batch_norms(model), Counter[str]()
    own = {path: module.__dict__.get("forward") for path, module in modules.items()}
    try:
        for path, module in modules.items():
            module.__dict__["forward"] = _Shared(module.forward, path, calls, exchange, part)
        yield
    finally:
        for path, module in modules.items():
            module.__dict__.pop("forward", None)
            if own[path] is not None:
                module.__dict__["forward"] = own[path]


class _Shared:
    """The forward of one layer in this context; in a copy of the layer it is the layer's own."""

    def __init__(self, forward: Any, path: str, calls: Counter, exchange: Exchange, part: Part):
        self.forward, self.path, self.calls, self.exchange, self.part = forward, path, calls, exchange, part

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _Intercepted(self):
            return self.forward(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.forward, memo)

    def next_call(self) -> "_Call":
        self.calls[self.path] += 1
        return _Call((self.path, self.calls[self.path]), self.exchange, self.part)


class _Intercepted(TorchFunctionMode):
    """Around the forward of one layer, which so counts batches, and may be of a class of the reader's own."""

    def __init__(self, layer: _Shared):
        super().__init__()
        self.layer = layer

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.batch_norm:
            return self.normalised(*args, **kwargs or {})
        return func(*args, **kwargs or {})

    def normalised(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        averages = None if running_mean is None else (running_mean, running_var, momentum)
        return _Normalised.apply(input, weight, bias, eps, averages, self.layer.next_call())


class _Call(NamedTuple):
    key: Key
    exchange: Exchange
    part: Part


def moments(x: Tensor, *, counts: bool = True) -> Tensor:
    """Count, C means, C sums of squared deviations from them, of the channels of x (batch, C, ...), in float64."""
    channels, dims = x.shape[1], [0, *range(2, x.ndim)]
    count = x.numel() // channels if counts and channels else 0
    wide = torch.float32 if x.device.type == "mps" else torch.float64  # Apple's GPU has no float64
    if not count:
        return torch.zeros(1 + 2 * channels, dtype=torch.float64, device="cpu" if wide == torch.float32 else x.device)
    if (quick := _quick_moments(x)) is not None:
        mean, squares = quick[0].double(), quick[1].double() * count
    else:
        mean = x.mean(dims, dtype=wide)
        rounded = mean.to(computed_dtype(x))
        squares = (x - _shaped(rounded, x)).square().sum(dims, dtype=wide) - count * (mean - rounded).square()
    own = torch.cat([mean.new_full((1,), count), mean, squares])
    return own.cpu().double() if wide == torch.float32 else own


def _quick_moments(x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Means and variances in x's own precision, in half of the time; None where that would lose digits."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return None
    mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0)
    return (mean, variance) if are_near(mean, variance) else None


def are_near(mean: Tensor, variance: Tensor) -> bool:
    """Are all means within FAR deviations from zero?"""
    return bool((mean.square() <= FAR**2 * variance).all())


def combined(every: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of all parts' `moments`, a row each: the count, the means, and the squared deviations of the whole."""
    counts, means, squares = every.split([1, (every.shape[1] - 1) // 2, (every.shape[1] - 1) // 2], 1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    return total, mean, (squares + counts * (means - mean).square()).sum(0)


class _Normalised(torch.autograd.Function):
    """x normalised by statistics of which it gives a part: of (batch, C, ...), or of some rows of its maps."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        averages: tuple[Tensor, Tensor, float] | None,
        call: _Call,
    ) -> Tensor:
        own = moments(x, counts=call.part.counts)
        total, mean, squares = combined(call.exchange.gather(call.key, own))
        count = float(total)
        if count <= 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.size()}")
        if averages is not None:  # here, where a part that is computed again for a checkpoint comes by too
            for average, value in zip(averages[:2], (mean, squares / (count - 1)), strict=True):
                average.mul_(1 - averages[2]).add_(value.to(average), alpha=averages[2])
        kind, variance = computed_dtype(x), squares / count
        scale = (variance + eps).rsqrt()
        whole = _Whole(mean.to(x.device, kind), variance.to(x.device, kind), eps, are_near(mean, variance))
        scale = scale if weight is None else scale * weight.to(scale)
        shift = (whole.mean.to(mean) - mean) * scale  # what rounding has taken from the mean
        shift = shift if bias is None else shift + bias.to(shift)
        ctx.save_for_backward(x, weight, whole.mean, whole.variance)
        ctx.count, ctx.call, ctx.rest = count, call, whole[2:]
        ctx.dtypes = [None if p is None else p.dtype for p in (weight, bias)]
        return whole.normalised(x.to(kind), weight, shift).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        if torch.is_grad_enabled():
            raise ValueError(
                f"{ctx.call.key[0]}, a BatchNorm whose batch is split, gives no gradient of a gradient: use "
                "nn.GroupNorm, or train in one process."
            )
        (grad,), (x, weight, *of_whole) = grad_outputs, ctx.saved_tensors
        whole, wide = _Whole(*of_whole, *ctx.rest), x.to(computed_dtype(x))
        scale = torch.ones_like(whole.mean) if weight is None else weight.to(wide)
        grad_x, of_weight, of_bias = whole.gradients(grad.to(wide), wide, scale)
        if ctx.needs_input_grad[0]:
            means = _of_statistics(ctx, torch.cat([of_bias, of_weight]))
            if means is not None:
                of_mean, of_variance = (-value * scale * whole.rstd for value in means.to(scale).chunk(2))
                grad_x += whole.normalised(wide, of_variance, of_mean)
            grad_x = grad_x.to(x.dtype)
        needed = zip((of_weight, of_bias), ctx.needs_input_grad[1:3], ctx.dtypes, strict=True)
        wanted = (value.to(dtype) if needs else None for value, needs, dtype in needed)
        return grad_x if ctx.needs_input_grad[0] else None, *wanted, None, None, None


def normalised_by(
    exchange: Exchange,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    averages: tuple[Tensor, Tensor, float] | None,
) -> Tensor:
    """x (batch, C, ...), of whose places this rank has some, normalised by the statistics of all ranks' together.

    averages: the running mean and variance, which are changed in place, and their momentum.
    """
    return _Normalised.apply(x, weight, bias, eps, averages, _Call(("", 0), exchange, Part()))


class _Whole(NamedTuple):
    """The statistics of a whole batch, as torch's kernels for evaluation take them."""

    mean: Tensor
    variance: Tensor
    eps: float
    near: bool

    @property
    def rstd(self) -> Tensor:
        return (self.variance + self.eps).rsqrt()

    def normalised(self, x: Tensor, weight: Tensor | None, bias: Tensor) -> Tensor:
        weight, bias = None if weight is None else weight.to(x), bias.to(x)
        if self.near:
            return F.batch_norm(x, self.mean, self.variance, weight, bias, False, 0.0, self.eps)
        scale = self.rstd if weight is None else self.rstd * weight  # torch's kernel takes scale * mean from scale * x
        return torch.addcmul(_shaped(bias, x), x - _shaped(self.mean, x), _shaped(scale, x))

    def gradients(self, grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of x, weight and bias, where the statistics are constants."""
        statistics = self.mean, self.variance, None, None
        return torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, *statistics, False, self.eps, [True, True, True]
        )


def _of_statistics(ctx: Any, sums: Tensor) -> Tensor | None:
    """Of the whole batch, the means of gradients, and of these times what is normalised; None for what does not count.

    They are what the mean and the variance take from the gradient of each image that counts.
    """
    counts, weight = ctx.call.part
    sums = (sums.cpu() if sums.device.type == "mps" else sums).double()
    sums = ctx.call.exchange.sum(ctx.call.key, sums * (weight if counts else 0.0))
    return sums / (ctx.count * weight) if counts else None


def computed_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which values like these are computed."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def _shaped(of_channels: Tensor, x: Tensor) -> Tensor:
    return of_channels.view(1, -1, *[1] * (x.ndim - 2))
