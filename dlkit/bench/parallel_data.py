"""Data parallelism on a cluster: against torch's DDP under torchrun, and two engines against one."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from dlkit.bench import parallel_torchrun
from dlkit.bench.parallel_turns import WARM, in_turns, separate_runs, split_run
from dlkit.bench.timing import speed_row
from dlkit.cluster import Cluster
from dlkit.core.reports import BenchRow
from dlkit.models import RBM, LeNet5
from dlkit.strategies import DataParallel
from dlkit.training import CD, CrossEntropy, Experiment

LENET = Experiment(
    LeNet5,
    "mnist",
    CrossEntropy(),
    batch_size=256,
    lr=parallel_torchrun.LR,
    momentum=parallel_torchrun.MOMENTUM,
)


def four_convolutions() -> nn.Module:
    """A net that takes five times as long as LeNet-5, nearly all in matrix products, which wait little for memory."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28)),
        *(nn.Conv2d(1, 32, 5, stride=2, padding=2), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128 * 3 * 3, 10)),
    ).to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]


CNN = Experiment(four_convolutions, "mnist", CrossEntropy(), batch_size=256, lr=0.01, momentum=0.9)
CD_1 = Experiment(partial(RBM, 784, 500), "mnist", CD(), batch_size=1000, momentum=0.5)


def against_torch(cluster: Cluster, steps: int, rounds: int) -> list[BenchRow]:
    """Rows in images a second: LeNet-5 on two engines, beside torch's DDP in a script of two ranks, pinned alike."""
    tasks = {
        "ddp": partial(split_run, cluster, LENET, DataParallel(reduce="ddp"), steps),
        "bucketed": partial(split_run, cluster, LENET, DataParallel(), steps),
        "torchrun": partial(torchrun, LENET.batch_size, steps),
    }
    seconds = in_turns(tasks, "against torchrun", rounds)
    goals = {"ddp": "ratio at least 0.97", "bucketed": "ratio at least 0.95"}
    return [
        speed_row(
            f"LeNet-5, batch {LENET.batch_size}, 2 engines, {way}",
            seconds,
            way,
            "torchrun",
            "torch's DDP in a script under torchrun",
            steps * LENET.batch_size,
            goal,
        )
        for way, goal in goals.items()
    ]


def torchrun(batch: int, steps: int, world_size: int = 2) -> float:
    """Seconds that the script `parallel_torchrun` takes for so many steps. RuntimeError if it fails."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world_size)]
    command += [str(parallel_torchrun.__file__), *map(str, (batch, steps, WARM))]
    loopback = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0"}
    done = subprocess.run(command, env=os.environ | loopback, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the script under torchrun ended with {done.returncode}:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def speed_ups(cluster: Cluster, steps: int, rounds: int) -> list[BenchRow]:
    """Rows for two engines of one thread each: against one engine, and against two that exchange nothing."""
    fewer = -(-2 * steps // 5)  # the larger net takes longer
    return [
        *speed_up(cluster, "LeNet-5", LENET, "", steps, rounds),
        *speed_up(cluster, "four convolutions", CNN, "ratio at least 1.8", fewer, rounds),
        *speed_up(cluster, "CD-1, RBM 784 x 500", CD_1, "ratio at least 1.7", steps, rounds),
    ]


def speed_up(cluster: Cluster, name: str, experiment: Experiment, goal: str, steps: int, rounds: int) -> list[BenchRow]:
    """Both rows of one experiment; `goal` is for the speed of two engines over that of one."""
    batch = experiment.batch_size
    half = replace(experiment, batch_size=batch // 2)
    tasks = {
        "split": partial(split_run, cluster, experiment, DataParallel(), steps),
        "alone": partial(separate_runs, cluster, experiment, [0], steps),
        "separate": partial(separate_runs, cluster, half, [0, 1], steps),
    }
    seconds = in_turns(tasks, name, rounds)
    references = {
        "alone": (f"one engine, batch {batch}", goal),
        "separate": (f"2 engines that exchange nothing, batch {batch // 2} each", ""),
    }
    return [
        speed_row(f"{name}, batch {batch}, 2 engines", seconds, "split", reference, what, steps * batch, reference_goal)
        for reference, (what, reference_goal) in references.items()
    ]
