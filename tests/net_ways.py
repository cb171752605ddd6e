"""A net by a way of splitting it, on ranks, held against one process in float64: equal, refused, wrong or failed."""

import copy
import math
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import nets
import torch
from averaged_experiment import average_in_turn
from nets import BATCH_NORM, DRAWS, MAPS, MIXES, NETS, NOTHING_TO_CUT, SPECTRAL_NORM
from ranks import stop_all, team
from torch import Tensor

import dlkit
from dlkit import Experiment, strategies
from dlkit.training import Learner

STEPS, EVERY = 20, 3
OF_GRADIENT, OF_STEPS, OF_NOISE = 1e-10, 1e-8, 10
SECONDS = 600.0  # until ranks that give no answer are ended
State = dict[str, Tensor]


@dataclass(frozen=True)
class Way:
    """`strategy` is made when it is asked for: one that is not there yet fails alone.

    kind: what it splits: "data", "neurons", "region", "pipeline"; or "averaging", which is held against a sequential
    one. changes: of `nets`, what is done to the net first. only: the nets that it is for, if not all.
    """

    strategy: Callable[[], Any]
    kind: str
    ranks: int = 2
    changes: tuple[Callable, ...] = ()
    only: Callable[[str], bool] = lambda name: True


def reduced(**settings: Any) -> Way:
    return Way(lambda: strategies.DataParallel(**settings), "data")


WAYS = {
    "naive": reduced(reduce="naive"),
    "ring": reduced(reduce="ring"),
    "bucketed": reduced(reduce="bucketed"),
    "ddp": reduced(reduce="ddp"),
    "shard optimizer": reduced(shard="optimizer"),
    "shard all": reduced(shard="all"),
    "tensor": Way(lambda: strategies.TensorParallel(), "neurons"),
    "region": Way(lambda: strategies.SpatialParallel(), "region"),
    "pipeline": Way(lambda: strategies.Pipeline(microbatches=2), "pipeline"),
    "pipeline, GroupNorm": Way(
        lambda: strategies.Pipeline(microbatches=2), "pipeline", changes=(nets.with_group_norm,),
        only=lambda name: BATCH_NORM in NETS[name].traits,
    ),
    "hybrid 1 x 2": Way(lambda: strategies.Hybrid(1, 2), "neurons"),
    "hybrid 2 x 2": Way(
        lambda: strategies.Hybrid(2, 2), "neurons", ranks=4,
        only=lambda name: name in ("U-Net", "MLP-Mixer", "vision transformer"),
    ),
    "weird trick": Way(lambda: strategies.OneWeirdTrick(), "neurons"),
    "averaging": Way(lambda: strategies.ModelAveraging(every=EVERY), "averaging"),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """`state`: "equal", "refused", "wrong" or "failed". The differences are relative, of all numbers as one vector.

    gradient: of the first gradient; steps: of parameters and buffers after 20 steps; noise: of one process against
    itself with the images of each batch in another order, where it was needed. sentence: of a refusal or a failure.
    """

    state: str
    gradient: float | None = None
    steps: float | None = None
    noise: float | None = None
    sentence: str = ""
    seconds: float = 0.0


def may_refuse(net: str, way: str) -> str:
    """Why there is no answer for this cell; "" if there is one."""
    traits, kind = NETS[net].traits, WAYS[way].kind
    if MIXES in traits:
        return MIXES
    if kind == "neurons" and NOTHING_TO_CUT in traits:
        return NOTHING_TO_CUT
    if kind == "region" and MAPS not in traits:
        return "it has no maps"
    alike = {BATCH_NORM, SPECTRAL_NORM} & traits if kind == "pipeline" else set()
    if WAYS[way].changes:
        alike.discard(BATCH_NORM)
    return "".join(sorted(alike))


def measure(net: str, way: str) -> Cell:
    """Train the net by this way, and as it is held against."""
    began = time.perf_counter()
    cell = compared(net, way)
    return replace(cell, seconds=round(time.perf_counter() - began, 1))


def compared(net: str, way: str) -> Cell:
    split = WAYS[way]
    changes = split.changes
    if split.kind == "averaging" and {BATCH_NORM, DRAWS} <= NETS[net].traits:
        changes = (*changes, nets.without_draws)  # the sequential one cannot draw for a part of a batch
    every = EVERY if split.kind == "averaging" else None
    expected = reference(net, changes, every)
    timer = threading.Timer(SECONDS, stop_all)
    timer.start()
    try:
        found = team(split.ranks).call(differences, nets.experiment(net, *changes), split.strategy, expected)
    except Stopped as stopped:
        return Cell(stopped.state, sentence=stopped.sentence)
    except (EOFError, ConnectionError):
        return Cell("failed", sentence=f"the ranks had ended, or gave no answer in {SECONDS:.0f} seconds")
    finally:
        timer.cancel()
        timer.join()  # or it would go on to end ranks that the next team has started
    gradient, steps = (max(of_rank) for of_rank in zip(*found, strict=True))
    own = noise(net, changes, every) if steps > OF_STEPS else None
    equal = gradient < OF_GRADIENT and (steps < OF_STEPS or steps < OF_NOISE * (own or 0))
    return Cell("equal" if equal else "wrong", gradient, steps, own)


class Stopped(Exception):
    """How a run ended on a rank: `state` is "refused" or "failed"."""

    def __init__(self, state: str, sentence: str):
        super().__init__(state, sentence)
        self.state, self.sentence = state, sentence


def differences(made: Experiment, strategy: Callable[[], Any], expected: Path) -> tuple[float, float]:
    """On a rank: of the first gradient, and after all steps. Stopped if the run has ended before."""
    states = torch.load(expected, mmap=True)
    try:
        first, last = trained(made, strategy())
    except Exception as error:
        raise Stopped(*told(error)) from None
    return of_gradient(states["start"], first, states["first"]), difference(states["last"], last)


def told(error: Exception) -> tuple[str, str]:
    """The state and the sentence: a refusal is a ValueError that the kit itself raises; all else has failed."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    file = Path(place.tb_frame.f_code.co_filename) if place is not None else Path()
    if type(error) is ValueError and file.is_relative_to(Path(dlkit.__file__).parent):
        return "refused", str(error)
    line = place.tb_lineno if place is not None else 0
    return "failed", f"{type(error).__name__}: {error} ({file.name}, line {line})"


def trained(made: Experiment, strategy: Any = None) -> tuple[State, State]:
    """The model's state after the first step, and after the last."""
    first: State = {}

    def keep(run: Any) -> None:
        if run.step == 1:
            first.update({name: value.detach().clone() for name, value in run.shard.model_state().items()})

    last = made.run(strategy=strategy, steps=STEPS, device="cpu", progress=False, on_step=keep)
    return first, last.model.state_dict()


def of_gradient(start: State, first: State, expected: State) -> float:
    """The difference of two first steps, which are lr times the gradient, relative to the expected one."""
    moved, other = (torch.cat([(one[name] - start[name]).flatten() for name in start]) for one in (expected, first))
    return finite(float((other - moved).norm() / moved.norm()))


def difference(expected: State, state: State) -> float:
    """Of all floating-point numbers as one vector, relative; infinite where names, shapes or whole numbers differ."""
    if expected.keys() != state.keys() or any(expected[name].shape != state[name].shape for name in expected):
        return math.inf
    whole = [name for name, value in expected.items() if not value.is_floating_point()]
    if any(not torch.equal(expected[name], state[name]) for name in whole):
        return math.inf
    numbers = [name for name in expected if name not in whole]
    one, other = (torch.cat([values[name].detach().flatten() for name in numbers]) for values in (expected, state))
    return finite(float((one - other).norm() / one.norm()))


def finite(number: float) -> float:
    """What is no number is infinitely far off."""
    return number if math.isfinite(number) else math.inf


_references: dict[tuple, Path] = {}  # of one net at a time: those of a large one take gigabytes


@cache
def _folder() -> tempfile.TemporaryDirectory:
    """Made where it is used, and so by no rank: what a rank makes is not taken away at its end."""
    return tempfile.TemporaryDirectory(prefix="dlkit-nets-")


def reference(net: str, changes: tuple[Callable, ...], every: int | None) -> Path:
    """A file with the states of one process at the start, after the first step and after the last."""
    key = (net, changes, every)
    if any(kept[0] != net for kept in _references):
        for path in _references.values():
            path.unlink()
        _references.clear()
    if key not in _references:
        path = Path(_folder().name) / f"{len(_references)}.pt"
        torch.save(alone(*key), path)
        _references[key] = path
    return _references[key]


def alone(net: str, changes: tuple[Callable, ...], every: int | None) -> dict[str, State]:
    made = nets.experiment(net, *changes)
    if every is None:
        first, last = trained(made)
    else:
        kept = average_in_turn(made, every, STEPS, keep=(1,))
        first, last = kept[1], kept[STEPS]
    parameters = made.initial_model().named_parameters()
    start = {name: parameter.detach() for name, parameter in parameters if parameter.requires_grad}
    return {"start": start, "first": first, "last": last}


@cache
def noise(net: str, changes: tuple[Callable, ...], every: int | None = None) -> float:
    """How far one process is from itself with the images of each batch in another order, draws left out.

    every: one that averages replicas so often, with the images of each part of a batch in another order.
    """
    changes = tuple(dict.fromkeys((*changes, nets.without_draws)))
    made = nets.experiment(net, *changes)
    if every is not None:
        return difference(*(average_in_turn(made, every, STEPS, turned=turned)[STEPS] for turned in (False, True)))
    _, last = trained(made)
    _, other = trained(replace(made, learner=reversing(made.learner)))
    return difference(last, other)


def reversing(learner: Learner) -> Learner:
    """The learner, given each batch's images from the last to the first: that changes rounding alone."""

    class Reversing(type(learner)):
        def fill_grad(self, model: Any, batch: Any, generator: Any) -> Any:
            order = torch.arange(len(batch) - 1, -1, -1)
            return super().fill_grad(model, type(batch)(batch.images[order], batch.labels[order]), generator)

    turned = copy.copy(learner)
    turned.__class__ = Reversing
    return turned
