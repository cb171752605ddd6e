"""Runs side by side: how much faster on more ranks, for how many bytes, and to the same loss."""

from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any

from dlkit.core import text_table
from dlkit.training.history import History

COLUMNS = (
    "run",
    "ranks",
    "seconds",
    "images/s",
    "speed-up",
    "efficiency",
    "sent a rank a step",
    "memory a rank",
    "loss",
)


@dataclass(frozen=True)
class ComparedRun:
    """One of several runs. `speed_up`: its images a second over the first run's; `efficiency`: that a rank.

    `bytes_sent`: by a rank in a step, the mean over ranks; `memory_bytes`: of parameters, gradients and optimizer state
    on the rank that has most, None where the run does not say; `curve`: (seconds, loss) at each row of the history.
    """

    name: str
    world_size: int
    seconds: float
    throughput: float
    speed_up: float
    efficiency: float
    bytes_sent: float
    memory_bytes: int | None
    loss: float | None
    curve: list[tuple[float, float]] = field(repr=False)


class Comparison(tuple[ComparedRun, ...]):
    """A ComparedRun for each run; shown, it is a table."""

    def _cells(self) -> list[list[str]]:
        return [
            [
                run.name,
                str(run.world_size),
                f"{run.seconds:.3g}",
                f"{run.throughput:,.0f}",
                f"{run.speed_up:.2f}",
                f"{run.efficiency:.0%}",
                text_table.format_bytes(run.bytes_sent),
                "" if run.memory_bytes is None else text_table.format_bytes(run.memory_bytes),
                "" if run.loss is None else f"{run.loss:.4g}",
            ]
            for run in self
        ]

    def __repr__(self) -> str:
        return text_table.as_text(COLUMNS, self._cells())

    def _repr_html_(self) -> str:
        return text_table.as_html(COLUMNS, self._cells())


def compare(*runs: Any, names: list[str] | None = None) -> Comparison:
    """The runs, alone or split, measured against the first; by default each has its strategy's name.

    Efficiency is the speed-up over the number of ranks for one of the first run's.
    ValueError for no runs, a run without a step, or another number of names.
    """
    if not runs:
        raise ValueError("no runs to compare: give two or more, the one to measure against first.")
    if names is not None and len(names) != len(runs):
        raise ValueError(f"{len(names)} names for {len(runs)} runs: give one a run.")
    named = list(zip(names or [_name(run) for run in runs], runs, strict=True))
    for name, run in named:
        if not run.throughput:
            raise ValueError(f"{name} has not taken a step, so that it has no speed: run it on first.")
    return Comparison(_compared(name, run, runs[0]) for name, run in named)


def _compared(name: str, run: Any, first: Any) -> ComparedRun:
    reports = getattr(run, "ranks", None) or []
    memory_bytes = max(rank.memory_bytes for rank in reports) if reports else getattr(run, "memory_bytes", None)
    curve = _curve(run.history, run.seconds)
    speed_up = run.throughput / first.throughput
    return ComparedRun(
        name,
        world_size=_ranks(run),
        seconds=run.seconds,
        throughput=run.throughput,
        speed_up=speed_up,
        efficiency=speed_up * _ranks(first) / _ranks(run),
        bytes_sent=sum(rank.bytes_sent for rank in reports) / _ranks(run) / run.step,
        memory_bytes=memory_bytes,
        loss=curve[-1][1] if curve else None,
        curve=curve,
    )


def _ranks(run: Any) -> int:
    return len(getattr(run, "ranks", None) or [run])


def _name(run: Any) -> str:
    """The strategy, with those of its settings that are not the usual ones."""
    strategy = getattr(run, "strategy", None)
    if strategy is None:
        return "alone"
    own = []
    for setting in fields(strategy) if is_dataclass(strategy) else ():
        usual = setting.default_factory() if setting.default_factory is not MISSING else setting.default
        value = getattr(strategy, setting.name)
        if value != usual:
            own.append(f"{setting.name}={value!r}")
    return f"{type(strategy).__name__}({', '.join(own)})" if own else type(strategy).__name__


def _curve(history: History, seconds: float) -> list[tuple[float, float]]:
    """(seconds, loss) at each row; a row's seconds follow from its steps and its speed, and all make up the run's."""
    points: list[tuple[float, float]] = []
    before, reached = 0.0, 0.0
    for row in history:
        step, rate, loss = (float(row[name] or 0.0) for name in ("step", "images_per_second", "loss"))
        reached += (step - before) / max(rate, 1e-9)
        before = step
        points.append((reached, loss))
    return [(at * seconds / reached, loss) for at, loss in points]
