"""Every strategy in two processes, against one: on engines that share a GPU or have one each, and under torchrun."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from gpu_check.experiments import agree, experiments, train
from gpu_check.setting import Part, Parts, Setting
from safetensors.torch import load_file, save_file
from torch import nn

from dlkit import Experiment
from dlkit.cluster import Cluster
from dlkit.distributed.gpu import takes_cuda
from dlkit.distributed.links import Link
from dlkit.strategies import (
    DataParallel,
    Hybrid,
    ModelAveraging,
    OneWeirdTrick,
    Pipeline,
    SpatialParallel,
    TensorParallel,
)

SPLITS: list[tuple[Any, tuple[str, ...]]] = [  # a strategy, and what is trained by it in two processes
    (DataParallel(), ("LeNet-5", "LocalNet", "CD", "PCD", "up-down", "dictionary", "autoencoder")),
    *((DataParallel(reduce=reduce), ("LeNet-5",)) for reduce in ("naive", "ring", "ddp")),
    (ModelAveraging(every=1), ("LeNet-5",)),  # of one step each, without momentum: then it is the same run
    (TensorParallel(), ("DBN", "LeNet-5", "CD", "PCD")),
    (SpatialParallel(), ("LeNet-5", "ConvNet")),
    (Pipeline(microbatches=5), ("LeNet-5", "DBN")),
    (Pipeline(microbatches=5, schedule="gpipe"), ("LeNet-5",)),
    (Hybrid(data=2, model=1), ("DBN",)),
    (Hybrid(data=1, model=2), ("DBN", "CD")),
    (OneWeirdTrick(), ("LeNet-5",)),
]
REFUSED = "torch's DTensors on GPUs need NCCL"


def of_a_split(strategy: Any, name: str) -> Experiment:
    """The experiment, as this strategy trains it to the same weights; batches divide into microbatches."""
    experiment = experiments()[name]
    if isinstance(strategy, ModelAveraging):
        return replace(experiment, momentum=0.0)
    return experiment


def dense() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


def for_dtensors() -> Experiment:
    return replace(experiments()["LeNet-5"], model=dense, optimizer=torch.optim.SGD)


def same_as_alone(split: Callable[[Experiment], nn.Module], experiment: Experiment, device: str) -> str:
    return agree(lambda one: train(one, device).model, split, experiment)


def on_engines(setting: Setting) -> Parts:
    """Two engines: each strategy, DTensor, links, and the reader's own exchanges of tensors on the CPU and there."""
    with Cluster(2) as cluster:
        yield "engines", lambda: f"{cluster.backend} on {', '.join(place.device for place in cluster.plan)}"
        yield from split_by_all(cluster, setting)
        yield "DTensor", partial(dtensor, cluster, setting)
        by_link = partial(run_split, cluster, DataParallel(), setting.device, links=Link(1e-4, 1e9))
        yield "a link", partial(same_as_alone, by_link, experiments()["LeNet-5"], setting.device)
        on_cpu = partial(run_split, cluster, DataParallel(), "cpu")
        yield "on the CPU", partial(same_as_alone, on_cpu, experiments()["LeNet-5"], "cpu")
        for device in dict.fromkeys(("cpu", setting.device)):
            yield f"exchanges of one's own, {device}", partial(own_exchanges, cluster, device)
        yield "errors of NCCL", partial(nccl_errors, cluster)


def four_engines(setting: Setting) -> Parts:
    with Cluster(4) as cluster:
        for name in ("DBN", "CD"):
            split = partial(run_split, cluster, Hybrid(data=2, model=2), setting.device)
            yield f"Hybrid 2 x 2, {name}", partial(same_as_alone, split, experiments()[name], setting.device)


def split_by_all(cluster: Cluster, setting: Setting) -> Iterator[Part]:
    for strategy, names in SPLITS:
        for name in names:
            split = partial(run_split, cluster, strategy, setting.device)
            yield f"{strategy}, {name}", partial(same_as_alone, split, of_a_split(strategy, name), setting.device)


def run_split(cluster: Cluster, strategy: Any, device: str, experiment: Experiment, **settings: Any) -> nn.Module:
    settings = {"steps": 12, "device": device, "progress": False} | settings
    return cluster.recover().run(experiment, strategy, **settings).model


def dtensor(cluster: Cluster, setting: Setting) -> str:
    """Refused where ranks share a GPU; else it learns what one process does."""
    split = partial(run_split, cluster, TensorParallel(using="dtensor"), setting.device)
    if not setting.is_gpu or "nccl" in cluster.backend:
        return same_as_alone(split, for_dtensors(), setting.device)
    told = ""
    try:
        split(for_dtensors())
    except ValueError as error:
        told = str(error)
    assert REFUSED in told, f"DTensors on a shared GPU are not refused: {told}"
    return "refused, as gloo has no such exchanges"


def own_exchanges(cluster: Cluster, device: str) -> None:
    assert cluster.recover().call(exchange_own, device) == [(3.0, 1.0), (3.0, 0.0)]


def exchange_own(device: str) -> tuple[float, float]:
    """On an engine, by torch's functions: the sum of ranks 1 and 2, and what the other rank sends."""
    rank = dist.get_rank()
    total, received = torch.tensor([rank + 1.0], device=device), torch.empty(1)
    dist.all_reduce(total)
    other = dist.isend(torch.tensor([float(rank)]), 1 - rank)
    dist.recv(received, 1 - rank)
    other.wait()
    return total.item(), received.item()


def nccl_errors(cluster: Cluster) -> str:
    answers = cluster.recover().call(nccl_error)
    assert set(answers) <= {"SUCCESS", "gloo"}, answers
    return ", ".join(dict.fromkeys(answers))


def nccl_error() -> str:
    """On an engine: what torch says of the group's NCCL, or that there is none."""
    group: Any = dist.distributed_c10d._get_default_group()
    return group._get_backend(torch.device("cuda")).get_error().name if takes_cuda() else "gloo"


# Under torchrun: this module is the script, too.


def under_torchrun(setting: Setting) -> Parts:
    folder = tempfile.TemporaryDirectory(prefix="gpu-check-")
    yield "the script", partial(start_torchrun, setting, folder.name)
    for number, (strategy, names) in enumerate(SPLITS):
        found = partial(from_file, Path(folder.name, f"{number}.safetensors"))
        yield f"{strategy}, {names[0]}", partial(found, of_a_split(strategy, names[0]), setting.device)
    folder.cleanup()


def start_torchrun(setting: Setting, folder: str) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "gpu_check.groups", setting.device, folder], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def from_file(file: Path, experiment: Experiment, device: str) -> str:
    """The model that torchrun's ranks have left there, against one process; both in float64."""
    exactly = replace(experiment, dtype=torch.float64)
    model = exactly.initial_model()
    model.load_state_dict(load_file(file))
    return same_as_alone(lambda _: model, exactly, device)


def as_a_rank(device: str, folder: str) -> None:
    for number, (strategy, names) in enumerate(SPLITS):
        exactly = replace(of_a_split(strategy, names[0]), dtype=torch.float64)
        run = train(exactly, device, strategy=strategy)
        if run.shard.rank == 0:
            state = {name: value.contiguous() for name, value in run.model.state_dict().items()}
            save_file(state, f"{folder}/{number}.safetensors")
    if dist.get_rank() == 0:
        print(f"{dist.get_backend_config()}, {run.device}")


if __name__ == "__main__":
    as_a_rank(*sys.argv[1:])
