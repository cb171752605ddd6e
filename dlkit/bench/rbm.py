"""CD-1 and AIS against the speed of their own matrix products."""

from collections.abc import Callable
from functools import partial
from statistics import median

import torch

from dlkit import data
from dlkit.analysis.likelihood import ais
from dlkit.bench.timing import interleaved, ratio, speed_row
from dlkit.core.matmul import bfloat16_products, matmul
from dlkit.core.reports import BenchRow
from dlkit.models import RBM
from dlkit.training import CD, Experiment

VISIBLE, HIDDEN, IMAGES = 784, 500, 60_000
TITLE = "RBM 784 x 500: one CD-1 epoch of 60,000 digits, and AIS, against their matrix products alone"
Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
FLOORS: dict[str, dict[str, Product]] = {
    "float32": {"torch": torch.mm, "dlkit": matmul},
    "bfloat16": {"torch": torch.mm},
}
GOALS = {("float32", 100): "ratio at least 0.70", ("float32", 1000): "ratio at least 0.80"}


def measure() -> list[BenchRow]:
    """Rows for an epoch of CD-1 by `Experiment.run`, in images a second, and for a run of AIS, in seconds.

    The reference, the floor, is the time that the matrix products of each take alone.
    """
    rows = []
    digits = data.load("mnist").full_train
    for products in ("float32", "bfloat16") if bfloat16_products() else ("float32",):
        for batch in (100, 1000):
            learner = CD(products=products)
            epoch = Experiment(partial(RBM, VISIBLE, HIDDEN), digits, learner, batch_size=batch, epochs=1, momentum=0.5)
            tasks: dict[str, Callable[[], object]] = {"epoch": partial(epoch.run, progress=False, device="cpu")}
            for library, multiply in FLOORS[products].items():
                tasks[f"by {library}"] = five_products(batch, IMAGES // batch, getattr(torch, products), multiply)
            seconds = interleaved(tasks)
            rows += [
                speed_row(
                    f"CD-1 epoch, batch {batch}, {products} products",
                    seconds,
                    "epoch",
                    floor,
                    f"the five products alone, {products}, {floor}",
                    IMAGES,
                    GOALS.get((products, batch), "none set"),
                )
                for floor in list(tasks)[1:]
            ]
    rows.append(annealing())
    return rows


def five_products(
    batch: int, steps: int, dtype: torch.dtype, multiply: Product, sizes: tuple[int, int] = (VISIBLE, HIDDEN)
) -> Callable[[], None]:
    """The five matrix products of a step of CD-1, `steps` times: up, down, up, and two for the statistics.

    sizes: how many visible and hidden units.
    """
    v, W, h = (torch.rand(shape).to(dtype) for shape in ((batch, sizes[0]), sizes, (batch, sizes[1])))

    def products() -> None:
        for _ in range(steps):
            multiply(v, W)
            multiply(h, W.T)
            multiply(v, W)
            multiply(v.T, h)
            multiply(v.T, h)

    return products


def annealing(chains: int = 100, temperatures: int = 14_500) -> BenchRow:
    """The row of AIS with this many chains and temperatures: its seconds, from a tenth of the temperatures a round."""
    rbm = RBM(VISIBLE, HIDDEN, std=0.1, generator=torch.Generator().manual_seed(0))
    v, h = torch.rand(chains, VISIBLE), torch.rand(chains, HIDDEN)
    count = temperatures // 10

    def floor() -> None:
        for _ in range(count):
            matmul(v, rbm.W.detach())
            matmul(h, rbm.W.detach().T)

    betas = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    tasks = {"ais": partial(ais, rbm, chains=chains, betas=betas, progress=False), "floor": floor}
    seconds = interleaved(tasks, rounds=5)
    return BenchRow(
        f"AIS, {chains} chains, {temperatures:,} temperatures",
        10 * median(seconds["ais"]),
        "s",
        f"its two products a temperature alone: {10 * median(seconds['floor']):.1f} s",
        ratio(seconds, "ais", "floor"),
        "under 60 s",
    )
