"""Greedy pre-training against the speed of its own matrix products, and fine-tuning against a bare torch loop."""

import copy
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F

from dlkit import data
from dlkit.bench.rbm import FLOORS, five_products
from dlkit.bench.timing import interleaved, speed_row
from dlkit.core.reports import BenchRow
from dlkit.models import DBN, RBM
from dlkit.training import CD, CrossEntropy, Experiment, pretrain
from dlkit.training.pretraining import layer_experiments

BARE = "ratio at least 0.97 (no more than 1.03 times the time)"  # the goal against a bare loop
SIZES, IMAGES, BATCH = [784, 500, 500, 2000], 20_000, 100
TITLE = "DBN 784-500-500-2000: an epoch of greedy pre-training against its products, fine-tuning against a bare loop"


def measure() -> list[BenchRow]:
    """Rows in images a second: of pre-training the stack by `pretrain`, then of fine-tuning its unrolled classifier."""
    digits = data.load("mnist").full_train[:IMAGES]
    first = Experiment(partial(RBM, *SIZES[:2]), digits, CD(), batch_size=BATCH, epochs=1, momentum=0.5)
    stack = layer_experiments(SIZES, RBM, first)
    tasks: dict[str, Callable[[], object]] = {"pre-training": partial(pretrain, stack, progress=False, device="cpu")}
    for library, multiply in FLOORS["float32"].items():
        layers = [five_products(BATCH, IMAGES // BATCH, torch.float32, multiply, pair) for pair in pairwise(SIZES)]
        tasks[f"by {library}"] = partial(_all, layers)
    seconds = interleaved(tasks)
    rows = [
        speed_row(
            "greedy pre-training, an epoch a layer, batch 100",
            seconds,
            "pre-training",
            floor,
            f"five products a layer alone, float32, {floor}",
            IMAGES,
            "ratio at least 0.70",
        )
        for floor in list(tasks)[1:]
    ]
    return [*rows, *fine_tuning(digits)]


def fine_tuning(digits: data.Split) -> list[BenchRow]:
    """An epoch of SGD on the unrolled stack by `Experiment.run`, beside a bare loop."""
    net = DBN.of(SIZES).classifier(10)
    rows = []
    for batch in (100, 1000):
        model = partial(copy.deepcopy, net)
        experiment = Experiment(model, digits, CrossEntropy(), batch_size=batch, epochs=1, momentum=0.9)
        tasks: dict[str, Callable[[], object]] = {
            "fine-tuning": partial(experiment.run, progress=False, device="cpu"),
            "bare": partial(bare_loop, net, digits, batch),
        }
        seconds = interleaved(tasks)
        name, what = f"fine-tuning by backprop, an epoch, batch {batch}", "a bare torch loop over the same net"
        rows.append(speed_row(name, seconds, "fine-tuning", "bare", what, IMAGES, BARE))
    return rows


def bare_loop(net: torch.nn.Module, digits: data.Split, batch: int, lr: float = 0.1) -> None:
    """One epoch of the training loop that a torch user would write, on images in memory as one tensor."""
    images, labels = digits.images, torch.as_tensor(digits.labels)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    for indices in torch.randperm(len(images)).split(batch):
        optimizer.zero_grad()
        F.cross_entropy(net(images[indices]), labels[indices]).backward()
        optimizer.step()


def _all(tasks: list[Callable[[], None]]) -> None:
    """Do the tasks one after another."""
    for task in tasks:
        task()
