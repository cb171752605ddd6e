"""Which draws a net makes by torch itself (Dropout, randn_like, ...), found by trial.

All that can be made for a part of a batch come down to the operators in `DRAWS`. Passes of two and of three images tell
which dimension of each draw counts images.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dlkit.core.global_generators import seeded, torch_state

aten = torch.ops.aten
IN_PLACE = {
    getattr(aten, name)
    for name in ("bernoulli_", "uniform_", "normal_", "exponential_", "geometric_", "cauchy_", "log_normal_", "random_")
}
BY_SHAPE = {aten.rand, aten.randn, aten.randint}
LIKE = {aten.rand_like, aten.randn_like, aten.randint_like}
BY_VALUES = {aten.bernoulli, aten.normal, aten.multinomial}  # the first argument holds probabilities or means
RRELU = {aten.rrelu_with_noise, aten.rrelu_with_noise_, aten.rrelu_with_noise_functional}
DRAWS = IN_PLACE | BY_SHAPE | LIKE | BY_VALUES | RRELU | {aten.native_dropout}


SEEDS = 8  # of passes that must draw alike


class Draw(NamedTuple):
    """A call of an operator that draws: its arguments, with tensors on the meta device, and the shape of what it draws.

    `module`: the class of the module in which it is made; `backward`: whether the backward pass makes it.
    """

    operator: Any
    args: tuple
    kwargs: dict[str, Any]
    shape: tuple[int, ...]
    device: torch.device
    module: str
    backward: bool

    @property
    def packet(self) -> Any:
        """The operator without its overload."""
        return self.operator.overloadpacket


@dataclass
class DrawPlan:
    """The draws of a pass, in their order: `shapes[k]` for no images, with `image_dims[k]`, the dimension that counts
    images and how many rows of it each has, or None. `functions`: the torch functions during which they are made.
    `modules`: the paths of modules without others inside, if all are made in these; None if some are made elsewhere.
    `complete`: is nothing left out that is drawn alike for any number of images?
    """

    draws: list[Draw]
    image_dims: list[tuple[int, int] | None]
    functions: set[Any]
    modules: list[str] | None = None
    complete: bool = True

    @property
    def recomputes(self) -> bool:
        """Are draws made in the backward pass, as under torch.utils.checkpoint?"""
        return any(draw.backward for draw in self.draws)

    @property
    def depends_on_values(self) -> bool:
        """Does a kernel draw for some values only, so that its numbers depend on the images?"""
        return any(draw.packet in RRELU for draw in self.draws)

    def make(self, number: int, images: int) -> None:
        """Make a draw for so many images, so that the generator is where it is after that."""
        draw, whole = self.draws[number], self.whole(number, images)

        def real(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                shape = [whole[0], value.shape[1]] if draw.packet is aten.multinomial else whole
                like = value.new_empty_strided(shape, strides_like(value, shape), device=draw.device)
                return like.fill_(-1.0 if draw.packet in RRELU else 0.5)
            return whole if draw.packet in BY_SHAPE and isinstance(value, list | tuple) else value

        draw.operator(*map(real, draw.args), **draw.kwargs)

    def strides(self, number: int, shape: Sequence[int]) -> list[int]:
        """Those of a tensor of this shape that is laid out in memory as in the trial: a draw fills it in that order."""
        like = next(value for value in self.draws[number].args if isinstance(value, torch.Tensor))
        return strides_like(like, shape)

    def whole(self, number: int, images: int) -> list[int]:
        """The shape of a draw for so many images."""
        shape = list(self.draws[number].shape)
        if (counts := self.image_dims[number]) is not None:
            shape[counts[0]] = images * counts[1]
        return shape


def plan_draws(run_pass: Callable[[int], nn.Module | None]) -> DrawPlan:
    """The plan for `run_pass(n)`, a pass forward and backward of n images from the same state, or forward alone.

    It may give the model that it is of. torch's generators are seeded for each pass, and are afterwards as before.

    ValueError, which names the draw, for one that cannot be made for a part of a batch.
    """
    (two, modules, functions), (three, _, more) = (_draws_of(run_pass, images) for images in (2, 3))
    functions |= more
    if any(_operators(_draws_of(run_pass, 2, seed)[0]) != _operators(two) for seed in range(1, SEEDS)):
        raise ValueError("it draws more often in one pass than in another, as layers do that are left out by chance")
    drawn = len(two)
    if len(two) == len(three):  # what is drawn alike for any number of images needs no part: all ranks draw it
        kept = [
            pair for pair in zip(two, three, strict=True) if pair[0].packet in DRAWS or pair[0].shape != pair[1].shape
        ]
        two, three = [pair[0] for pair in kept], [pair[1] for pair in kept]
    if _operators(two) != _operators(three):
        raise ValueError("it draws another number of times for another number of images")
    for draw in two:
        if draw.packet not in DRAWS:
            raise ValueError(f"what {draw.module} draws by {draw.packet} cannot be drawn for a part of a batch")
    return DrawPlan(
        two, [_image_dim(*pair) for pair in zip(two, three, strict=True)], functions, modules, len(two) == drawn
    )


def _draws_of(
    run_pass: Callable[[int], nn.Module | None], images: int, seed: int = 0
) -> tuple[list[Draw], list[str] | None, set[Any]]:
    """The draws of a pass; `modules` and `functions` as of a plan."""
    functions_seen = _CurrentFunction()
    seen = _Record(functions_seen)
    with seeded(seed, names=("torch",)), functions_seen, _modules_seen(seen), seen:
        model = run_pass(images)
    return seen.draws, _leaf_paths(model, seen.makers), seen.functions


def _operators(draws: Sequence[Draw]) -> list[Any]:
    return [draw.operator for draw in draws]


def _leaf_paths(model: nn.Module | None, makers: list[nn.Module | None]) -> list[str] | None:
    """The paths of these modules of the model, if each has one, and none has others inside."""
    if model is None:
        return None
    paths: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), []).append(path)
    if any(maker is None or len(paths.get(id(maker), ())) != 1 or any(maker.children()) for maker in makers):
        return None
    return sorted({paths[id(maker)][0] for maker in makers})


def count_draws(call: Callable[[], object]) -> int:
    """How many draws a call makes."""
    with (seen := _Record(_CurrentFunction())):
        call()
    return len(seen.draws)


def _image_dim(two: Draw, three: Draw) -> tuple[int, int] | None:
    """The dimension that counts images, and how many rows of it each has, by the draws of two images and of three."""
    dims = [dim for dim, sizes in enumerate(zip(two.shape, three.shape, strict=False)) if sizes[0] != sizes[1]]
    if not dims and len(two.shape) == len(three.shape):
        return None
    if len(dims) != 1 or len(two.shape) != len(three.shape) or two.shape[dims[0]] * 3 != three.shape[dims[0]] * 2:
        raise ValueError(f"no one dimension counts images in what {two.module} draws by {two.packet}, {two.shape}")
    return dims[0], two.shape[dims[0]] // 2


class _CurrentFunction(TorchFunctionMode):
    """Knows which torch function is being called."""

    current: Any = None

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.current = func
        try:
            return func(*args, **kwargs or {})
        finally:
            self.current = None


class _Record(TorchDispatchMode):
    """Notes draws, by whatever operator, and during which functions they are made."""

    def __init__(self, functions_seen: _CurrentFunction):
        super().__init__()
        self.functions_seen, self.functions, self.draws = functions_seen, set(), []
        self.modules: list[nn.Module] = []  # whose forward is going on
        self.makers: list[nn.Module | None] = []  # of each draw: the innermost of these

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        before = torch_state()
        output = func(*args, **kwargs or {})
        if torch_state() != before:
            result = output[0] if isinstance(output, tuple) else output
            maker = self.modules[-1] if self.modules else None
            self.makers.append(maker)
            module = "the learner" if maker is None else type(maker).__name__
            meta = tuple(_on_meta(value) for value in args)
            self.draws.append(
                Draw(func, meta, kwargs or {}, tuple(result.shape), result.device, module, _in_backward())
            )
            if self.functions_seen.current is not None:
                self.functions.add(self.functions_seen.current)
        return output


@contextmanager
def _modules_seen(record: _Record) -> Iterator[None]:
    """Context in which `record` knows the modules whose forward is going on."""
    begin = register_module_forward_pre_hook(lambda module, _: record.modules.append(module))

    def leave(*_: Any) -> None:
        record.modules.pop()

    end = register_module_forward_hook(leave, always_call=True)
    try:
        yield
    finally:
        begin.remove()
        end.remove()


def draws_globally(func: Any, kwargs: dict | None) -> bool:
    """Does this call of an operator draw from torch's own generator?"""
    return func.overloadpacket in DRAWS and not (kwargs and kwargs.get("generator") is not None)


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def _on_meta(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def strides_like(like: torch.Tensor, shape: Sequence[int]) -> list[int]:
    """Strides for this shape that lay it out in memory as `like` is."""
    strides, step = [0] * like.ndim, 1
    for dim in sorted(range(like.ndim), key=lambda dim: (like.stride(dim), -dim)):
        strides[dim] = step
        step *= max(shape[dim], 1)
    return strides
