"""How near greedy pre-training comes to the speed of its own products, and fine-tuning to a bare torch loop."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F

from dlkit import data
from dlkit.bench.rbm import FLOORS, five_products
from dlkit.bench.timing import compared, interleaved
from dlkit.core.reports import BenchRow
from dlkit.models import DBN, RBM
from dlkit.training import CD, CrossEntropy, Experiment, pretrain
from dlkit.training.pretraining import layer_experiments

BARE = "ratio at least 0.97 (no more than 1.03 times the time)"
SIZES, IMAGES, BATCH = [784, 500, 500, 2000], 20_000, 100
TITLE = "DBN 784-500-500-2000: an epoch of greedy pre-training against its products, fine-tuning against a bare loop"


def measure() -> list[BenchRow]:
    """Images a second through the stack, layer by layer through `pretrain`, and through its unrolled classifier."""
    digits = data.load("mnist").full_train[:IMAGES]
    like = Experiment(partial(RBM, *SIZES[:2]), digits, CD(), batch_size=BATCH, epochs=1, momentum=0.5)
    stack = layer_experiments(SIZES, RBM, like)
    tasks: dict[str, Callable[[], object]] = {"pre-training": partial(pretrain, stack, progress=False, device="cpu")}
    for library, multiply in FLOORS["float32"].items():
        parts = [five_products(BATCH, IMAGES // BATCH, torch.float32, multiply, pair) for pair in pairwise(SIZES)]
        tasks[f"by {library}"] = partial(_all, parts)
    seconds = interleaved(tasks)
    rows = [
        compared(
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
    """An epoch of SGD on the unrolled stack, through `Experiment.run` and by hand."""
    net = DBN.of(SIZES).classifier(10)
    rows = []
    for batch in (100, 1000):
        experiment = Experiment(lambda: net, digits, CrossEntropy(), batch_size=batch, epochs=1, momentum=0.9)
        tasks: dict[str, Callable[[], object]] = {
            "fine-tuning": partial(experiment.run, progress=False, device="cpu"),
            "bare": partial(bare_loop, net, digits, batch),
        }
        seconds = interleaved(tasks)
        name, what = f"fine-tuning by backprop, an epoch, batch {batch}", "a bare torch loop over the same net"
        rows.append(compared(name, seconds, "fine-tuning", "bare", what, IMAGES, BARE))
    return rows


def bare_loop(net: torch.nn.Module, digits: data.Split, batch: int, lr: float = 0.1) -> None:
    """The loop that a torch user would write, on images that are in memory as one tensor."""
    images, labels = digits.images, torch.as_tensor(digits.labels)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    for picked in torch.randperm(len(images)).split(batch):
        optimizer.zero_grad()
        F.cross_entropy(net(images[picked]), labels[picked]).backward()
        optimizer.step()


def _all(tasks: list[Callable[[], None]]) -> None:
    for task in tasks:
        task()
