"""A run on the engines of a cluster: what each engine does, and the one result that comes back."""

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from dlkit.cluster.engine_set import EngineSet
from dlkit.cluster.engines import ClusterError, no_room
from dlkit.core.text_table import format_bytes
from dlkit.data.checks import dtype_name
from dlkit.data.mapped import MappedFile
from dlkit.data.sources import resolve, take_apart
from dlkit.distributed.group import emulated
from dlkit.distributed.links import Link
from dlkit.distributed.recorder import Span
from dlkit.distributed.timeline import Timeline
from dlkit.training import checkpoint as files
from dlkit.training.experiment import Experiment
from dlkit.training.history import History
from dlkit.training.interrupt import on_interrupt
from dlkit.training.run import Callback, Run
from dlkit.training.shard import Strategy

M = TypeVar("M", bound=nn.Module)
PROGRESS_INTERVAL = 0.2  # seconds between two reports of progress


@dataclass(frozen=True, repr=False)
class RankReport:
    """What one rank did in a run: the bytes that it sent, and its spans.

    memory_bytes: of its parameters, gradients and optimizer state.
    """

    bytes_sent: int
    memory_bytes: int
    spans: list[Span] = field(repr=False)

    def __repr__(self) -> str:
        held = format_bytes(self.memory_bytes)
        return f"RankReport({format_bytes(self.bytes_sent)} sent, {held} held, {len(self.spans):,} spans)"


@dataclass(frozen=True)
class SplitRun(Generic[M]):
    """The result of a run on a cluster: as `Run`, with a report of each rank. `model` is whole, and on the CPU."""

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
        """What each rank did when: computed, sent or waited."""
        return Timeline([report.spans for report in self.ranks])

    def __repr__(self) -> str:
        loss = f", loss {self.history['loss'][-1]:.4g}" if len(self.history) else ""
        end = f", stopped: {self.stopped}" if self.stopped else ""
        end += f", {self.links}" if self.links else ""
        return (
            f"SplitRun({type(self.model).__name__}, {self.strategy} on {len(self.ranks)} ranks, {self.epoch:.4g} "
            f"epochs, {self.step:,} steps{loss}, {self.seconds:.1f} s, {self.throughput:,.0f} images/s{end})"
        )


def run_on_engines(
    engines: EngineSet,
    experiment: Experiment[M],
    strategy: Strategy,
    *,
    checkpoint: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    links: Link | None = None,
    on_progress: Callable[[dict[str, Any]], object] = lambda report: None,
    stop: threading.Event | None = None,
    **settings: Any,
) -> SplitRun[M]:
    """Run the experiment on all engines. Ctrl-C (or ■), or `stop`, ends it after a step that all ranks have taken.

    on_progress: called with the reports of `ProgressPublisher`. settings: of `Experiment.run`.
    """
    folder = None if checkpoint is None else str(Path(checkpoint).resolve())
    with own_files(engines) as (data_file, stop_file):
        sent = replace(experiment, data=data_for_engines(experiment.data, data_file, experiment.dtype))
        pending = engines.submit(train_rank, sent, strategy, str(stop_file), folder, list(callbacks), links, settings)

        def interrupted() -> bool:
            first = not stop_file.exists()
            stop_file.touch()
            return first

        latest: dict[str, Any] = {}
        with on_interrupt(interrupted), tqdm(disable=not progress, unit="step", delay=1) as bar:

            def on_poll() -> None:
                if stop is not None and stop.is_set():
                    stop_file.touch()
                report = dict(pending[0].data)  # a copy: later reports overwrite this dict
                if report and report != latest:
                    latest.update(report)
                    bar.total, bar.n = report["total"], report["step"]
                    bar.set_postfix_str(f"loss {report['loss']:.4g}, {report['rate']:,.0f} images/s", refresh=True)
                    on_progress(report)

            try:
                results = engines.wait(pending, on_poll)
            except ClusterError as error:
                raise ClusterError(f"{error} {how_to_resume(folder, pending[0].data)}") from None
            bar.n = results[0][0]["step"]
    whole, reports = results[0][0], [report for _, report in results]
    if whole["stopped"] and stop is not None and stop.is_set():
        whole["stopped"] = "stopped"
    model = experiment.initial_model()
    model.load_state_dict(whole.pop("state"))
    return SplitRun(experiment, strategy, model, History(whole.pop("rows")), ranks=reports, links=links, **whole)


def how_to_resume(checkpoint: str | None, progress: Any) -> str:
    """How far a run was that has lost an engine, and how it can go on: one sentence."""
    at = f"The run was at step {progress['step']:,} of {progress['total']:,}" if progress else "The run had only begun"
    if checkpoint is None:
        return f"{at}, and had no checkpoint= to go on from."
    kept = files.read(Path(checkpoint))
    where = f"from step {kept[1]['step']:,}" if kept else "from the beginning, as none was written yet"
    return f"{at}: `cluster.run(..., checkpoint=..., resume=True)` recovers the cluster and goes on {where}."


def train_rank(
    experiment: Experiment,
    strategy: Strategy,
    stop_file: str,
    checkpoint: str | None,
    callbacks: list[Callback],
    links: Link | None,
    settings: Any,
) -> tuple[dict[str, Any], RankReport]:
    """Train this engine's rank of the run: the whole's result, which is empty but on rank 0, and the rank's report."""
    experiment = with_data(experiment)
    with emulated(links):
        run = experiment.run(
            strategy=strategy,
            checkpoint=checkpoint,
            callbacks=callbacks,
            on_step=ProgressPublisher(stop_file),
            progress=False,
            **settings,
        )
    shard: Any = run.shard
    report = RankReport(shard.recorder.bytes_sent, run.memory_bytes, list(shard.recorder.spans))
    if shard.rank > 0:
        return {}, report
    whole = {
        "state": {name: value.cpu() for name, value in run.model.state_dict().items()},
        "rows": run.history.rows,
        "step": run.step,
        "epoch": run.epoch,
        "seconds": run.seconds,
        "throughput": run.throughput,
        "stopped": run.stopped,
    }
    return whole, report


class ProgressPublisher:
    """Called after each step: asks the run to stop once `stop_file` exists; on rank 0 it also reports progress.

    A report has step, total (steps), loss, and the step `at` which that was, rate (images a second), and the history's
    last row, None before the first.
    """

    def __init__(self, stop_file: str):
        self.stop_file, self.next_report = stop_file, 0.0

    def __call__(self, run: Run) -> None:
        if os.path.exists(self.stop_file):
            run.stop("interrupted")
        if run.shard.rank == 0 and time.monotonic() > self.next_report:
            from ipyparallel.engine.datapub import publish_data

            self.next_report = time.monotonic() + PROGRESS_INTERVAL
            row = run.history.rows[-1] if len(run.history) else None
            report = {"step": run.step, "at": run.step, "total": run.total_steps, "loss": run.loss}
            publish_data(report | {"rate": run.throughput, "row": row})


@contextmanager
def own_files(engines: EngineSet) -> Iterator[tuple[Path, Path]]:
    """Paths for a run's data, which are not there afterwards, and for the file that asks it to stop.

    The latter, which is empty, stays with the cluster's files: an engine that is late must still find it.
    """
    name = uuid.uuid4().hex
    paths = engines.path(f"data-{name}.safetensors"), engines.path(f"stop-{name}")
    try:
        yield paths
    finally:
        with contextlib.suppress(OSError):
            paths[0].unlink(missing_ok=True)  # an engine that reads the data goes on to have them


def data_for_engines(source: Any, path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """An Experiment's data for the engines: a name as it is; all else as a file, which all engines map.

    Images in a mapped file that need no conversion are mapped from there; others are written to `path`.
    ClusterError if the disk has no room for it.
    """
    if isinstance(source, str):
        return source
    images, labels = take_apart(source)
    data = resolve((images, labels), dtype)
    file = MappedFile.of(images)
    if file is not None and np.dtype(file.dtype) == dtype_name(dtype):
        return file, data.labels
    tensors = {"images": data.images} | ({} if data.labels is None else {"labels": data.labels})
    try:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
    except (OSError, SafetensorError) as error:
        size = format_bytes(sum(tensor.nbytes for tensor in tensors.values()))
        raise ClusterError(f"the data, {size}, cannot be written for the engines: {no_room(error)}.") from None
    return path


def with_data(experiment: Experiment[M]) -> Experiment[M]:
    """The experiment on an engine: with what is in the file of `data_for_engines`, if its data are in one."""
    return replace(experiment, data=load_data(experiment.data)) if isinstance(experiment.data, Path) else experiment


def device_here(device: str | None) -> torch.device:
    """What an engine of a run without common steps trains on: the device, by default its GPU where it has one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def load_data(path: Path) -> Any:
    """Images, or (images, labels), from the file of `data_for_engines`; memory that all engines share."""
    tensors = load_file(path)
    return (tensors["images"], tensors["labels"]) if "labels" in tensors else tensors["images"]
