"""Servers and replicas killed at random: `python benchmarks/asynchronous_faults.py [--engines 200] [--processes 1000]`.

Each run is checked: it has all its batches, no ledger has a gap or a duplicate, and a replay gives the same bits.
Losses at the end stand beside those of the first plans without a kill. Results are kept in runs/asynchronous_faults, so
that an interrupted command goes on. Prints a table.
"""

import argparse
import multiprocessing
import os
import pickle
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from dlkit import Experiment
from dlkit.cluster import Cluster
from dlkit.papers.reproduction import cached
from dlkit.strategies import Downpour
from dlkit.strategies.asynchronous.asynchronous_run import AsynchronousRun, collected
from dlkit.strategies.asynchronous.observer import Observer
from dlkit.strategies.asynchronous.rank import Task, run_rank
from dlkit.strategies.asynchronous.wiring import wiring_here
from dlkit.training import CrossEntropy
from dlkit.training.run import Run

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from asynchronous_runs import check_ledger

RUNS = Path("runs/asynchronous_faults")
RANKS = 3
UNDISTURBED = 50  # runs
GENERATOR = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.rand(240, 8, 8, generator=GENERATOR), torch.randint(0, 4, (240,), generator=GENERATOR)


class Slow(CrossEntropy):
    """A batch takes 5 ms at least where it is learnt, so that there is time to kill; a replay need not wait."""

    def fill_grad(self, model: Any, batch: Any, generator: torch.Generator) -> Any:
        if os.getpid() != REPLAYS:
            time.sleep(0.005)
        return super().fill_grad(model, batch, generator)


REPLAYS = os.getpid()


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 4))


def experiment(seed: int) -> Experiment:
    return Experiment(net, (IMAGES, LABELS), Slow(), batch_size=10, lr=0.02, seed=seed)


def plan(seed: int) -> tuple[Downpour, list[tuple[int, list[int]]]]:
    """A strategy, and after how many batches which ranks are killed."""
    rng = random.Random(seed)
    strategy = Downpour(
        servers=rng.choice([1, 2]),
        share=True,
        overlap=rng.random() < 0.7,
        push=rng.choice([1, 1, 2]),
        staleness=rng.choice([0, 0, 3]),
    )
    kills = [
        (rng.randrange(20, 300), rng.sample(range(RANKS), rng.choice([1, 1, 2]))) for _ in range(rng.choice([1, 2]))
    ]
    return strategy, sorted(kills)


def checked(run: AsynchronousRun, kills: int, recoveries: list[float]) -> dict[str, Any]:
    """What there is to tell of a run. AssertionError for a gap or a duplicate, RuntimeError for another replay."""
    for rows in run.record.servers:
        check_ledger(rows)
    again = run.replay(progress=False)
    pairs = zip(run.model.parameters(), again.model.parameters(), strict=True)
    if not all(torch.equal(first, second) for first, second in pairs):
        raise RuntimeError("the replay has other bits.")
    loss = nn.functional.cross_entropy(run.model(IMAGES), LABELS).item()
    return {"kills": kills, "recoveries": recoveries, "batches": run.step, "seconds": run.seconds, "loss": loss}


class Recoveries:
    """The seconds from each kill until the first server has more batches than it had then, or than its checkpoint."""

    def __init__(self):
        self.seconds: list[float] = []
        self._killed: float | None = None
        self._before = 0

    def killed(self) -> None:
        self._killed = self._killed or time.monotonic()

    def look(self, batches: int, *, all_there: bool) -> None:
        if self._killed is not None and all_there and batches > self._before:
            self.seconds.append(time.monotonic() - self._killed)
            self._killed = None
        self._before = batches


def on_engines(cluster: Cluster, seed: int, *, kill_some: bool = True, steps: int = 400) -> dict[str, Any]:
    strategy, kills = plan(seed)
    kills = kills if kill_some else []
    recoveries, waiting = Recoveries(), list(kills)
    cluster.recover()  # what a run had lost when it was over

    def kill(report: dict[str, Any]) -> None:
        rows = cluster.rows()
        all_there = all(row["state"] == "ready" and row["pid"] for row in rows)
        recoveries.look(report["step"], all_there=all_there)
        if waiting and report["step"] >= waiting[0][0] and all_there:
            for rank in waiting.pop(0)[1]:
                os.kill(rows[rank]["pid"], signal.SIGKILL)
            recoveries.killed()

    run = cluster.run(experiment(seed), strategy, steps=steps, checkpoint_every=25, on_progress=kill, progress=False)
    return checked(run, len(kills) - len(waiting), recoveries.seconds)


# Plain processes, forked from this one.


def child(task: Task, rank: int, number: int, pipe: Any) -> None:
    torch.set_num_threads(1)

    result = run_rank(task, rank, number, lambda: pipe.send_bytes(b"done"), lambda: False, torch.device("cpu"))
    pipe.send_bytes(pickle.dumps(result))


def on_processes(seed: int, *, kill_some: bool = True, steps: int = 400) -> dict[str, Any]:
    strategy, kills = plan(seed)
    kills = kills if kill_some else []
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        made = experiment(seed)
        roles = strategy.roles(RANKS)
        task = Task(made, strategy, roles, wiring_here(strategy.servers), steps, Path(folder), checkpoint_every=25)
        run: Run = Run(made, steps, torch.device("cpu"), None, capture=False)
        numbers, processes, pipes, done, results = count(), {}, {}, set[int](), {}
        recoveries, killed = Recoveries(), 0

        def start(rank: int) -> None:
            pipes[rank], theirs = context.Pipe()
            processes[rank] = context.Process(target=child, args=(task, rank, next(numbers), theirs), daemon=True)
            processes[rank].start()
            done.discard(rank)

        for rank in range(RANKS):
            start(rank)
        observer, begun = Observer(task, run, ()), time.monotonic()
        try:
            while len(results) < RANKS:
                if time.monotonic() - begun > 120:
                    raise RuntimeError(f"seed {seed}: the run does not end, {observer}, {sorted(done)} done.")
                observer.look()
                recoveries.look(observer.batches, all_there=True)
                if kills and observer.batches >= kills[0][0] and not observer.all_done:
                    ranks = kills.pop(0)[1]
                    for rank in ranks:
                        processes[rank].kill()
                        processes[rank].join()
                    recoveries.killed()
                    killed += 1
                    for rank in ranks:
                        start(rank)
                for rank, pipe in pipes.items():
                    while rank not in results and pipe.poll():
                        content = pipe.recv_bytes()
                        if content == b"done":
                            done.add(rank)
                        else:
                            results[rank] = pickle.loads(content)
                if observer.all_done and len(done) == RANKS:
                    observer.end()
                time.sleep(0.02)
        finally:
            observer.close()
            for process in processes.values():
                process.kill()
        found = collected(task, run, list(results.values()), observer.rows)
    return checked(found, killed, recoveries.seconds)


def measure(name: str, runs: int, one: Callable[..., dict[str, Any]]) -> None:
    undisturbed = [
        cached(RUNS / f"{name}-undisturbed-{seed}.json", lambda seed=seed: one(seed, kill_some=False))["loss"]
        for seed in tqdm(range(min(UNDISTURBED, runs)), desc=f"{name}, undisturbed")
    ]
    results = [
        cached(RUNS / f"{name}-{seed}.json", lambda seed=seed: one(seed)) for seed in tqdm(range(runs), desc=name)
    ]
    recoveries = [each for result in results for each in result["recoveries"]]
    losses = [result["loss"] for result in results]
    print(
        f"| {name} | {runs} | {sum(result['kills'] for result in results)} | {median(recoveries):.1f} | "
        f"{max(recoveries):.1f} | {min(losses):.3f} to {max(losses):.3f} | "
        f"{min(undisturbed):.3f} to {max(undisturbed):.3f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", type=int, default=200)
    parser.add_argument("--processes", type=int, default=1000)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| on | runs, all whole and replayed | times killed | recovery, median s | slowest, s | losses at the end | "
        "undisturbed |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    if chosen.processes:
        measure("processes", chosen.processes, on_processes)
    if chosen.engines:
        with Cluster(RANKS) as cluster:
            measure("engines", chosen.engines, partial(on_engines, cluster))


if __name__ == "__main__":
    main()
