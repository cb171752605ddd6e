"""The generators that a program shares: torch's, numpy's and Python's own. A run lends them its seed for a while."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

NAMES = ("torch", "numpy", "random")


def torch_generators() -> list[torch.Generator]:
    """torch's default generators: that of the CPU, and where CUDA is in use those of all its devices."""
    return [torch.default_generator, *(torch.cuda.default_generators if torch.cuda.is_initialized() else ())]


class _Torch:
    def state(self) -> Any:
        return [generator.get_state() for generator in torch_generators()]

    def restore(self, state: Any) -> None:
        for generator, own in zip(torch_generators(), state, strict=False):
            generator.set_state(own)

    def seed(self, seed: int) -> None:
        for generator in torch_generators():
            generator.manual_seed(seed)


class _Numpy:
    def state(self) -> Any:
        return np.random.get_state()

    def restore(self, state: Any) -> None:
        np.random.set_state(state)

    def seed(self, seed: int) -> None:
        np.random.seed(seed)


class _Python:
    def state(self) -> Any:
        return random.getstate()

    def restore(self, state: Any) -> None:
        random.setstate(state)

    def seed(self, seed: int) -> None:
        random.seed(seed)


_KINDS: dict[str, Any] = dict(zip(NAMES, (_Torch(), _Numpy(), _Python()), strict=True))


@contextmanager
def seeded(*numbers: int, names: tuple[str, ...] = NAMES) -> Iterator[None]:
    """Context in which these generators start from a seed made of the numbers; afterwards they are as they were."""
    kinds = [_KINDS[name] for name in names]
    before = [kind.state() for kind in kinds]
    try:
        for kind in kinds:
            kind.seed(mixed(*numbers))
        yield
    finally:
        for kind, state in zip(kinds, before, strict=True):
            kind.restore(state)


def mixed(*numbers: int) -> int:
    """A seed of 32 bits, the most that all three take, which looks unrelated to those of other numbers.

    Source: Steele, Lea, Flood 2014, Fast splittable pseudorandom number generators, §4 (SplitMix64).
    """
    mask, seed = (1 << 64) - 1, 0
    for number in numbers:
        seed = (seed + number + 0x9E3779B97F4A7C15) & mask
        seed = ((seed ^ seed >> 30) * 0xBF58476D1CE4E5B9) & mask
        seed = ((seed ^ seed >> 27) * 0x94D049BB133111EB) & mask
        seed ^= seed >> 31
    return seed >> 32


def moved_by(call: Callable[[], object]) -> tuple[str, ...]:
    """The names of the generators from which a call draws."""
    with seeded(0):
        before = {name: _comparable(kind.state()) for name, kind in _KINDS.items()}
        call()
        return tuple(name for name, kind in _KINDS.items() if _comparable(kind.state()) != before[name])


def torch_states() -> list[torch.Tensor]:
    """The states of torch's default generators."""
    return _KINDS["torch"].state()


def restore_torch(states: list[torch.Tensor]) -> None:
    """Put back what `torch_states` gave."""
    _KINDS["torch"].restore(states)


def torch_state() -> bytes:
    """All of `torch_states`, to compare with others."""
    return b"".join(state.numpy().tobytes() for state in torch_states())


def _comparable(state: Any) -> Any:
    """A state, in which tensors and arrays are bytes."""
    if isinstance(state, torch.Tensor | np.ndarray):
        return np.asarray(state).tobytes()
    return [_comparable(item) for item in state] if isinstance(state, list | tuple) else state
