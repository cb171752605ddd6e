"""What a net draws by torch itself for a part of a batch: drawn for the whole batch, of which a rank keeps its part."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, has_torch_function_unary
from torch.utils._python_dispatch import TorchDispatchMode

from dlkit.core.draw_plan import BY_SHAPE, IN_PLACE, RRELU, DrawPlan, aten, draws_globally, strides_like
from dlkit.core.global_generators import torch_state

OTHERWISE = (
    "the net draws otherwise than in a trial on the first images, so that ranks cannot keep in step: draw as often, "
    "and by the same functions, for all images, or train in one process."
)


@dataclass(repr=False)
class ShardedDraws:
    """Makes the draws of a pass for the whole batch, and keeps a rank's part of each.

    Along the dimension that counts images the part is given (`part_of`). Where a rank has some units or rows of maps,
    `locate` tells, of a draw of this shape, where its part begins in each dimension, and how long all parts are
    together; ranks call it together. `model`: that whose modules, if all is drawn in these, are to make their draws so;
    else torch functions are watched, which costs more.
    """

    plan: DrawPlan
    locate: Callable[[Sequence[int]], tuple[list[int], list[int]]] | None = None
    model: nn.Module | None = None
    takes_any_dtype: ClassVar[bool] = True  # may a pass be of another dtype than the plan's?
    _located: dict[tuple[int, int], tuple[list[int], list[int]]] = field(default_factory=dict)  # by number and images
    _numbers: dict[bytes, int] = field(default_factory=dict)  # of draws, by the state that they were made from
    _next: int = 0
    _images: tuple[int, int, int] = (0, 0, 0)  # the first, how many, of how many

    def __repr__(self) -> str:
        return f"ShardedDraws({len(self.plan.draws)} draws)"

    @contextmanager
    def part_of(self, start: int, count: int, whole: int) -> Iterator[None]:
        """Context of a pass for images start to start + count of a batch of `whole`.

        RuntimeError if the pass makes other draws than the trial's: ranks would no longer be in step.
        """
        self._images, self._next, self._numbers = (start, count, whole), 0, {}
        part = _Part(self)
        if self.plan.recomputes:
            context: AbstractContextManager[object] = part
        elif self._modules is not None:
            context = _in_modules(self._modules, part)
        else:
            context = _Around(self.plan.functions, part)
        with context:
            yield
        if self._next != self.expected():
            raise RuntimeError(OTHERWISE)

    @cached_property
    def _modules(self) -> list[nn.Module] | None:
        """Those that make all draws, if they are in the model at the paths where the trial's were."""
        if self.model is None or self.plan.modules is None:
            return None
        modules = dict(self.model.named_modules())
        found = [modules[path] for path in self.plan.modules if path in modules]
        return found if len(found) == len(self.plan.modules) else None

    def expected(self) -> int:
        """How many draws a pass makes on this rank, those that the backward pass only makes again left out."""
        return sum(not draw.backward for draw in self.plan.draws)

    def make(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """One draw, in place of `func(*args, **kwargs)`."""
        packet = func.overloadpacket
        number = self._number()
        if number >= len(self.plan.draws) or packet is not self.plan.draws[number].packet:
            raise RuntimeError(OTHERWISE)
        if packet in BY_SHAPE:
            at = next(i for i, value in enumerate(args) if isinstance(value, list | tuple))
            whole, place = self._place(number, args[at])
            return self._mine(func(*args[:at], whole, *args[at + 1 :], **kwargs), place)
        like = next(value for value in args if isinstance(value, Tensor))
        if packet is aten.multinomial:
            whole, place = self._place(number, (like.shape[0], args[1]))
            probabilities = like.new_full((whole[0], like.shape[1]), 0.5)
            self._view(probabilities, place[:1]).copy_(like)
            return self._mine(func(probabilities, *args[1:], **kwargs), place)
        whole, place = self._place(number, like.shape)
        if packet in RRELU:
            return self._rrelu(number, func, args, kwargs, whole, place)
        if packet is aten.native_dropout:
            _, kept = func(like.new_ones(whole), *args[1:], **kwargs)
            mask = self._mine(kept, place)
            return like * mask / (1 - args[1]), mask
        strides = self.plan.strides(number, whole)
        if whole == list(like.shape) and strides == strides_like(like, whole):
            return func(*args, **kwargs)

        def widen(value: Any) -> Any:
            """A tensor of the whole batch's shape, with this rank's values in their place."""
            if not isinstance(value, Tensor):
                return value
            everything = value.new_empty_strided(whole, strides)
            if not (packet in IN_PLACE and value is like):  # which is only filled
                self._view(everything.fill_(0.5), place).copy_(value.expand(like.shape))
            return everything

        everything = func(*map(widen, args), **kwargs)
        return like.copy_(self._view(everything, place)) if packet in IN_PLACE else self._mine(everything, place)

    def _rrelu(self, number: int, func: Any, args: tuple, kwargs: dict, whole: list[int], place: list) -> Any:
        """Slopes are drawn for all values, not only for those below 0, which depend on the images."""
        x, noise = args[:2]
        everywhere = x.new_empty_strided(whole, self.plan.strides(number, whole)).fill_(-1.0)
        slopes = torch.empty_like(everywhere)
        aten.rrelu_with_noise(everywhere, slopes, *args[2:], **kwargs)
        slopes = self._view(slopes, place)
        output = torch.where(x <= 0, x * slopes, x)
        own_noise = torch.where(x <= 0, slopes, torch.ones_like(slopes))
        if func.overloadpacket is aten.rrelu_with_noise_functional:
            return output, own_noise
        noise.copy_(own_noise)
        return x.copy_(output) if func.overloadpacket is aten.rrelu_with_noise_ else output

    def _number(self) -> int:
        """Which draw this is: a part of the forward pass that is computed again draws from the state that it had."""
        if not self.plan.recomputes:
            self._next += 1
            return self._next - 1
        state = torch_state()
        if state not in self._numbers:
            self._numbers[state] = self._next
            self._next += 1
        return self._numbers[state]

    def _place(self, number: int, own: Any) -> tuple[list[int], list[tuple[int, int, int]]]:
        """The whole draw's shape; and of each dimension of which this rank has a part its number, begin, and size."""
        start, count, images = self._images
        whole, counts = self.plan.whole(number, images), self.plan.image_dims[number]
        if len(own) != len(whole):
            raise RuntimeError(f"a draw of shape {tuple(own)}, where the whole net makes one of {tuple(whole)}.")
        begins, together = [0] * len(whole), whole
        if self.locate is not None:
            if (number, images) not in self._located:
                self._located[number, images] = self.locate(own)
            begins, together = map(list, self._located[number, images])
        if counts is not None and own[counts[0]] == count * counts[1] != whole[counts[0]]:
            begins[counts[0]], together[counts[0]] = start * counts[1], whole[counts[0]]
        place = [(dim, begins[dim], own[dim]) for dim in range(len(whole)) if own[dim] != whole[dim]]
        if any(together[dim] != whole[dim] for dim, _, _ in place):
            raise RuntimeError(f"ranks draw parts {tuple(own)} that do not make up the whole net's {tuple(whole)}.")
        return whole, place

    def _view(self, whole: Tensor, place: list[tuple[int, int, int]]) -> Tensor:
        for dim, start, size in place:
            whole = whole.narrow(dim, start, size)
        return whole

    def _mine(self, whole: Tensor, place: list[tuple[int, int, int]]) -> Tensor:
        return self._view(whole, place).clone() if place else whole


class _Part(TorchDispatchMode):
    """Has `ShardedDraws` make the draws."""

    def __init__(self, draws: ShardedDraws):
        super().__init__()
        self.draws = draws

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if draws_globally(func, kwargs):
            return self.draws.make(func, args, kwargs or {})
        return func(*args, **kwargs or {})


@contextmanager
def _in_modules(modules: Sequence[nn.Module], part: _Part) -> Iterator[None]:
    """Context in which the forward of each of these modules makes its draws by `part`."""
    own = [module.__dict__.get("forward") for module in modules]
    try:
        for module in modules:
            module.__dict__["forward"] = partial(_forward, module, module.forward, part)
        yield
    finally:
        for module, forward in zip(modules, own, strict=True):
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward


def _forward(module: nn.Module, forward: Callable[..., Any], part: _Part, *args: Any, **kwargs: Any) -> Any:
    if type(module) is nn.Dropout and len(args) == 1 and not kwargs:
        dropped = _dropout(part.draws, args[0], module.p, module.training, module.inplace)
        if dropped is not None:
            return dropped
    with part:
        return forward(*args, **kwargs)


class _Around(TorchFunctionMode):
    """Enters `_Part` around the functions that draw; all others cost one look at a set."""

    def __init__(self, functions: set[Any], part: _Part):
        super().__init__()
        self.functions, self.part = functions, part

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func not in self.functions:
            return func(*args, **kwargs or {})
        if func is F.dropout and (dropped := _dropout(self.part.draws, *args, **kwargs or {})) is not None:
            return dropped
        with self.part:
            return func(*args, **kwargs or {})


def _dropout(
    draws: ShardedDraws, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor | None:
    """As torch's own, `x * bernoulli(1 - p) / (1 - p)`, but in fewer calls; None where it is not the usual case."""
    if not training or not 0 < p < 1 or x.device.type != "cpu" or has_torch_function_unary(x):
        return None
    mask = draws.make(aten.bernoulli_.float, (torch.empty_like(x), 1 - p), {}).div_(1 - p)
    return x.mul_(mask) if inplace else x * mask
