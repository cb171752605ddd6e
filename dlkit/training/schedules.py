"""Values that change as training goes on: functions of the epoch, which may be a fraction."""

from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[float], float]


@dataclass(frozen=True)
class linear_schedule:
    """From `start` at epoch 0 to `stop` at epoch `epochs`, and `stop` from then on."""

    start: float
    stop: float
    epochs: float

    def __call__(self, epoch: float) -> float:
        return self.start + (self.stop - self.start) * min(1.0, epoch / self.epochs)


@dataclass(frozen=True)
class piecewise_constant:
    """Constant stretches: {0: 0.5, 5: 0.9} is 0.5 up to epoch 5, then 0.9."""

    values: dict[float, float]

    def __post_init__(self):
        if 0 not in self.values:
            raise ValueError(f"piecewise_constant({self.values}): say the value at epoch 0 too.")

    def __call__(self, epoch: float) -> float:
        return self.values[max(start for start in self.values if start <= epoch)]


def at(value: float | Schedule, epoch: float) -> float:
    """The value at this epoch of a number or a schedule."""
    return value(epoch) if callable(value) else value
