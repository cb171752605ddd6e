"""Faults, drawn by a seed, while a cluster trains or is called; after each, the next run must equal the run alone.

So must the run that suffered the fault, if it went on to its end.

`python -m tests.chaos --faults 300 --folder out` does as many, and goes on where it was interrupted; each is a line in
`out/faults.jsonl`. The same seed draws the same faults, though not to the same moment of a run.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from dlkit import Experiment
from dlkit.cluster import Cluster, ClusterError
from dlkit.models import RBM
from dlkit.strategies import DataParallel, ModelAveraging, Pipeline, TensorParallel
from dlkit.training import CD, CrossEntropy, Reconstruction

STEPS, FAULTY_STEPS = 12, 40
EXACT = 1e-5  # relative, between a run split and alone


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(30, 16), nn.Tanh(), nn.Linear(16, 4))


def autoencoder() -> nn.Module:
    return nn.Sequential(nn.Linear(30, 8), nn.Sigmoid(), nn.Linear(8, 30), nn.Sigmoid())


def experiments() -> dict[str, Experiment]:
    generator = torch.Generator().manual_seed(0)
    rows, labels = torch.rand(60, 30, generator=generator), torch.randint(0, 4, (60,), generator=generator)
    settings: dict[str, Any] = {"batch_size": 20, "lr": 0.05, "row_every": 1}
    return {
        "classes": Experiment(perceptron, (rows, labels), CrossEntropy(), **settings),
        "codes": Experiment(autoencoder, rows, Reconstruction(), **settings),
        "CD": Experiment(partial(RBM, 30, 12), rows, CD(), **settings),
    }


STRATEGIES = {
    "data": DataParallel(),
    "neurons": TensorParallel(),
    "layers": Pipeline(2),
    "averaging": ModelAveraging(every=1),  # of one step each: then it is the same run
}
PAIRS = [("classes", name) for name in ("data", "neurons", "layers")]
PAIRS += [("codes", name) for name in ("data", "neurons")] + [("CD", name) for name in ("data", "neurons")]


# Faults on an engine: callbacks, called after a step.


def on_rank(rank: int, does: Callable[[], object]) -> None:
    if os.environ["DLKIT_RANK"] == str(rank):
        does()


def at(rank: int, step: int, does: Callable[[], object]) -> Callable[[Any], None]:
    def callback(run: Any) -> None:
        time.sleep(0.01)
        if run.shard.rank == rank and run.step == step:
            does()

    return callback


def dies(number: int) -> None:
    os.kill(os.getpid(), number)


def segfault() -> None:
    import ctypes

    ctypes.string_at(0)


def fails(kind: type[BaseException]) -> None:
    raise kind("on this rank alone")


def empties() -> None:
    shutil.rmtree(os.environ["DLKIT_FOLDER"])


def sends_alone() -> None:
    import torch.distributed as dist

    dist.isend(torch.full((4,), 777.0), 1 - dist.get_rank())


def sums_alone() -> None:
    import torch.distributed as dist

    dist.all_reduce(torch.full((2964,), 777.0), async_op=True)


def receives_alone() -> None:
    import torch.distributed as dist

    dist.recv(torch.empty(4), 1 - dist.get_rank())


ON_A_RANK = {
    "killed": partial(dies, signal.SIGKILL),
    "stopped": partial(dies, signal.SIGSTOP),
    "segfault": segfault,
    "exception": partial(fails, ValueError),
    "no memory": partial(fails, MemoryError),
    "exit": partial(fails, SystemExit),
    "folder": empties,
    "send": sends_alone,
    "sum": sums_alone,
    "receive": receives_alone,
}


# Faults from outside, while a run goes on.


def hits_controller(number: int, cluster: Cluster, draw: random.Random) -> None:
    engines: Any = cluster._engines
    with contextlib.suppress(Exception):
        draw.choice(engines.launcher.controllers).send_signal(number)


def interrupts(cluster: Cluster, draw: random.Random) -> None:
    signal.raise_signal(signal.SIGINT)


def empties_folder(cluster: Cluster, draw: random.Random) -> None:
    shutil.rmtree(cluster._engines.folder, ignore_errors=True)  # type: ignore[union-attr]


FROM_OUTSIDE = {
    "controller killed": partial(hits_controller, signal.SIGKILL),
    "controller stopped": partial(hits_controller, signal.SIGSTOP),
    "interrupt": interrupts,
    "folder, from outside": empties_folder,
}
BETWEEN = {"send, by %%px": sends_alone, "sum, by a call": sums_alone, "send, by a call": sends_alone}
FAULTS = [*ON_A_RANK, *FROM_OUTSIDE, *BETWEEN, "disk"]
SLOW = {"killed": 0.4, "stopped": 0.4, "segfault": 0.4, "receive": 0.3, "controller killed": 0.2}  # how often


def full_disk(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def strike(cluster: Cluster, fault: str, draw: random.Random) -> tuple[str, float]:
    """Let the fault happen: what was told of it, one line, and how far off the run was that went on to its end."""
    learner, strategy = draw.choice(PAIRS)
    experiment, ended = experiments()[learner], []

    def run(**options: Any) -> None:
        ended.append(cluster.run(experiment, STRATEGIES[strategy], steps=FAULTY_STEPS, progress=False, **options))

    rank, step = draw.randrange(2), draw.randrange(1, 30)
    try:
        if fault in ON_A_RANK:
            run(callbacks=[at(rank, step, ON_A_RANK[fault])])
        elif fault in FROM_OUTSIDE:
            timer = threading.Timer(draw.uniform(0, 0.4), FROM_OUTSIDE[fault], (cluster, draw))
            timer.start()
            try:
                run(callbacks=[at(rank, 1, int)])
            finally:
                timer.join()
        elif fault == "disk":
            with mock.patch("dlkit.cluster.split_run.save_file", full_disk):
                run()
        elif "px" in fault:
            cluster.client[rank].apply_sync(BETWEEN[fault])
        else:
            cluster.call(on_rank, rank, BETWEEN[fault])
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", 0.0
    if not ended or ended[0].stopped:
        return "nothing", 0.0
    return "nothing", off(ended[0], experiment.run(steps=FAULTY_STEPS, device="cpu", progress=False))


def off(split: Any, alone: Any) -> float:
    """The relative difference between the two runs' parameters."""
    one, other = (nn.utils.parameters_to_vector(run.model.parameters()).detach() for run in (alone, split))
    return float((one - other).norm() / one.norm())


def check(cluster: Cluster, draw: random.Random) -> float:
    """The relative difference between a run split, after `recover` where the cluster asks for it, and the run alone."""
    learner, strategy = draw.choice([*PAIRS, ("classes", "averaging")])
    experiment, split = experiments()[learner], None
    if strategy == "averaging":
        experiment = experiments()["classes"]
    for last in (False, True):
        try:
            split = cluster.run(experiment, STRATEGIES[strategy], steps=STEPS, progress=False)
            break
        except ClusterError as error:
            if last or "recover()" not in str(error):
                raise
            cluster.recover()
    alone = experiment.run(steps=STEPS, device="cpu", progress=False)
    return off(split, alone)


def fault_number(number: int, seed: int) -> tuple[str, random.Random]:
    """Which fault is the one with this number, and what all else about it is drawn from."""
    draw = random.Random(f"{seed}-{number}")
    weights = [SLOW.get(fault, 1.0) for fault in FAULTS]
    return draw.choices(FAULTS, weights)[0], draw


def suffer(cluster: Cluster, number: int, seed: int) -> dict[str, Any]:
    """The fault with this number, and whether the run after it was right."""
    fault, draw = fault_number(number, seed)
    row: dict[str, Any] = {"seed": seed, "number": number, "fault": fault}
    begun = time.monotonic()
    row["told"], row["off during"] = strike(cluster, fault, draw)
    try:
        row["off"] = check(cluster, draw)
        row["right"] = max(row["off"], row["off during"]) < EXACT
    except Exception as error:
        row |= {"right": False, "error": f"{type(error).__name__}: {error}"}
        cluster.stop()
        cluster.start()
    return row | {"seconds": round(time.monotonic() - begun, 1)}


def main(arguments: list[str] | None = None) -> int:
    """The number of faults after which the next run was not right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    wanted = parser.parse_args(arguments)
    wanted.folder.mkdir(parents=True, exist_ok=True)
    file = wanted.folder / "faults.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    rows = [row for row in rows if row["seed"] == wanted.seed]
    torch.set_num_threads(1)
    with Cluster(2) as cluster:
        for number in sorted(set(range(wanted.faults)) - {row["number"] for row in rows}):
            rows.append(suffer(cluster, number, wanted.seed))
            with file.open("a") as lines:
                lines.write(json.dumps(rows[-1]) + "\n")
            print(rows[-1], flush=True)
    wrong = [row for row in rows if not row["right"]]
    print(f"{len(rows)} faults, {len(wrong)} of them ended badly: {dict(Counter(row['fault'] for row in rows))}")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(bool(main()))
