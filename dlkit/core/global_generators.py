"""The generators that a program shares: torch's, numpy's and Python's own. A run lends them its seed for a while.

Its threads share them too: one has them at a time, or two runs at once would draw from each other's.
"""

import ctypes
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

NAMES = ("torch", "numpy", "random")


def torch_generators() -> list[torch.Generator]:
    """torch's default generators: that of the CPU, where CUDA is in use those of all its devices, and Apple's GPU's."""
    generators = [torch.default_generator, *(torch.cuda.default_generators if torch.cuda.is_initialized() else ())]
    return [*generators, torch.mps._get_default_mps_generator()] if torch.backends.mps.is_available() else generators


class _Torch:
    def state(self) -> Any:
        return [generator.get_state() for generator in torch_generators()]

    def restore(self, state: Any) -> None:
        for generator, own in zip(torch_generators(), state, strict=False):
            generator.set_state(own)

    def seed(self, seed: int) -> None:
        for generator in torch_generators():
            generator.manual_seed(seed)

    def mark(self) -> Any:
        return torch_state()


class _Numpy:
    def state(self) -> Any:
        return np.random.get_state()

    def restore(self, state: Any) -> None:
        np.random.set_state(state)

    def seed(self, seed: int) -> None:
        np.random.seed(seed)

    def mark(self) -> Any:
        bits = np.random.get_bit_generator()
        if isinstance(bits, np.random.MT19937):  # 624 words of 4 bytes, and the next one's place; `state` takes 40 µs
            return ctypes.string_at(bits.ctypes.state_address, 625 * 4)
        return repr(bits.state)


class _Python:
    def state(self) -> Any:
        return random.getstate()

    def restore(self, state: Any) -> None:
        random.setstate(state)

    def seed(self, seed: int) -> None:
        random.seed(seed)

    def mark(self) -> Any:
        return random.getstate()


_turn = threading.RLock()
_KINDS: dict[str, Any] = dict(zip(NAMES, (_Torch(), _Numpy(), _Python()), strict=True))


@contextmanager
def seeded(*numbers: int, names: tuple[str, ...] = NAMES) -> Iterator[None]:
    """Context in which these generators start from a seed made of the numbers; afterwards they are as they were."""
    kinds = [_KINDS[name] for name in names]
    with undisturbed() if kinds else nullcontext():
        before = [kind.state() for kind in kinds]
        try:
            for kind in kinds:
                kind.seed(mixed(*numbers))
            yield
        finally:
            for kind, state in zip(kinds, before, strict=True):
                kind.restore(state)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Context in which no run in another thread lends the generators its seed: for what may draw from them."""
    with _turn:
        yield


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
        before = marks()
        call()
        return moved_since(before)


def marks(names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """What tells of each of these generators whether somebody has drawn from it; in a few µs."""
    return {name: _KINDS[name].mark() for name in names}


def moved_since(before: dict[str, Any]) -> tuple[str, ...]:
    """The names of the generators from which somebody has drawn since `marks` gave this."""
    return tuple(name for name, mark in before.items() if _KINDS[name].mark() != mark)


def torch_states() -> list[torch.Tensor]:
    """The states of torch's default generators."""
    return _KINDS["torch"].state()


def restore_torch(states: list[torch.Tensor]) -> None:
    """Put back what `torch_states` gave."""
    _KINDS["torch"].restore(states)


def torch_state() -> bytes:
    """All of `torch_states`, to compare with others."""
    return b"".join(state.numpy().tobytes() for state in torch_states())
