"""A run on the engines of a cluster: what each of them is told, and the one run that comes back."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from dlkit.cluster.engine_set import ClusterError, EngineSet
from dlkit.data.sources import resolve
from dlkit.distributed.group import emulating
from dlkit.distributed.links import Link
from dlkit.distributed.timeline import Span, Timeline
from dlkit.training import checkpoint as files
from dlkit.training.experiment import Experiment
from dlkit.training.history import History
from dlkit.training.interrupt import on_interrupt
from dlkit.training.run import Callback, Run
from dlkit.training.shard import Strategy

M = TypeVar("M", bound=nn.Module)
OFTEN = 0.2  # seconds between two words of rank 0 on how far it is


@dataclass(frozen=True)
class RankReport:
    """What one rank had of a run: bytes sent, bytes of parameters, gradients and optimizer state held, and spans."""

    bytes_sent: int
    memory_bytes: int
    spans: list[Span] = field(repr=False)


@dataclass(frozen=True)
class SplitRun(Generic[M]):
    """What came of a run on a cluster: as `Run`, and what each rank had of it. `model` is whole, and on the CPU."""

    experiment: Experiment[M]
    strategy: Strategy
    model: M
    history: History
    step: int
    epoch: float
    seconds: float
    throughput: float
    stopped: str | None
    ranks: list[RankReport]
    links: Link | None = None

    @cached_property
    def timeline(self) -> Timeline:
        """Who computed, sent or waited, when."""
        return Timeline([rank.spans for rank in self.ranks])

    def __repr__(self) -> str:
        loss = f", loss {self.history['loss'][-1]:.4g}" if len(self.history) else ""
        end = f", stopped: {self.stopped}" if self.stopped else ""
        end += f", {self.links}" if self.links else ""
        return (
            f"SplitRun({type(self.model).__name__}, {self.strategy} on {len(self.ranks)} ranks, {self.epoch:.4g} "
            f"epochs, {self.step:,} steps{loss}, {self.seconds:.1f} s, {self.throughput:,.0f} images/s{end})"
        )


def run_on(
    running: EngineSet,
    experiment: Experiment[M],
    strategy: Strategy,
    *,
    checkpoint: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    links: Link | None = None,
    on_progress: Callable[[dict[str, Any]], object] = lambda said: None,
    stop: threading.Event | None = None,
    **settings: Any,
) -> SplitRun[M]:
    """Run the experiment on all engines; Ctrl-C (or ■), or `stop`, ends it after a step that all have taken."""
    sent = replace(experiment, data=travelling(experiment.data, running.folder))
    folder = None if checkpoint is None else str(Path(checkpoint).resolve())
    flag = Path(running.folder, "stop")
    flag.unlink(missing_ok=True)
    asked = running.ask(train_rank, sent, strategy, str(flag), folder, list(callbacks), links, settings)

    def interrupted() -> bool:
        first = not flag.exists()
        flag.touch()
        return first

    last: dict[str, Any] = {}
    with on_interrupt(interrupted), tqdm(disable=not progress, unit="step", delay=1) as bar:

        def look() -> None:
            if stop is not None and stop.is_set():
                flag.touch()
            said = dict(asked[0].data)  # of the messages so far, which later ones go into
            if said and said != last:
                last.update(said)
                bar.total, bar.n = said["total"], said["step"]
                bar.set_postfix_str(f"loss {said['loss']:.4g}, {said['rate']:,.0f} images/s", refresh=True)
                on_progress(said)

        try:
            answers = running.wait(asked, look)
        except ClusterError as error:
            raise ClusterError(f"{error} {how_to_go_on(folder, asked[0].data)}") from None
        bar.n = answers[0][0]["step"]
    flag.unlink(missing_ok=True)
    whole, ranks = answers[0][0], [each for _, each in answers]
    if whole["stopped"] and stop is not None and stop.is_set():
        whole["stopped"] = "stopped"
    model = experiment.initial_model()
    model.load_state_dict(whole.pop("state"))
    return SplitRun(experiment, strategy, model, History(whole.pop("rows")), ranks=ranks, links=links, **whole)


def how_to_go_on(checkpoint: str | None, said: Any) -> str:
    """A sentence on how far a run was that lost an engine, and where it can go on."""
    at = f"The run was at step {said['step']:,} of {said['total']:,}" if said else "The run had only begun"
    if checkpoint is None:
        return f"{at}, and had no checkpoint= to go on from."
    kept = files.read(Path(checkpoint))
    where = f"from step {kept[1]['step']:,}" if kept else "from the beginning, as none was written yet"
    return f"{at}: `cluster.run(..., checkpoint=..., resume=True)` mends the cluster and goes on {where}."


def train_rank(
    experiment: Experiment,
    strategy: Strategy,
    flag: str,
    checkpoint: str | None,
    callbacks: list[Callback],
    links: Link | None,
    settings: Any,
) -> tuple[dict[str, Any], RankReport]:
    """What an engine does: its rank of the run; rank 0 says how far it is, and has the whole's result."""
    if isinstance(experiment.data, Path):
        experiment = replace(experiment, data=arrived(experiment.data))
    with emulating(links):
        run = experiment.run(
            strategy=strategy,
            checkpoint=checkpoint,
            callbacks=callbacks,
            on_step=ProgressPublisher(flag),
            progress=False,
            **settings,
        )
    shard: Any = run.shard
    mine = RankReport(shard.recorder.bytes_sent, run.memory_bytes, list(shard.recorder.spans))
    if shard.rank > 0:
        return {}, mine
    whole = {
        "state": {name: value.cpu() for name, value in run.model.state_dict().items()},
        "rows": run.history.rows,
        "step": run.step,
        "epoch": run.epoch,
        "seconds": run.seconds,
        "throughput": run.throughput,
        "stopped": run.stopped,
    }
    return whole, mine


class ProgressPublisher:
    """Asks the run to stop when the file `flag` is there, and on rank 0 says now and then how far it is."""

    def __init__(self, flag: str):
        self.flag, self.next = flag, 0.0

    def __call__(self, run: Run) -> None:
        if os.path.exists(self.flag):
            run.ask_to_stop("interrupted")
        if run.shard.rank == 0 and time.monotonic() > self.next:
            from ipyparallel.engine.datapub import publish_data

            self.next = time.monotonic() + OFTEN
            publish_data({"step": run.step, "total": run.total_steps, "loss": run.loss, "rate": run.throughput})


def travelling(source: Any, folder: str) -> Any:
    """Data for the engines: a name as it is; tensors by a file, which all of them read without a copy each."""
    if isinstance(source, str):
        return source
    data = resolve(source)
    tensors = {"images": data.images} | ({} if data.labels is None else {"labels": data.labels})
    path = Path(folder, "data.safetensors")
    path.unlink(missing_ok=True)  # engines may still read the one before: it goes when they let go of it
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
    return path


def arrived(path: Path) -> Any:
    tensors = load_file(path)
    return (tensors["images"], tensors["labels"]) if "labels" in tensors else tensors["images"]
