"""Coates 2013, Deep learning with COTS HPC systems: nets of up to 11.2 G parameters over 64 GPUs, on paper.

Two stages of filters that share no weights, of 18x18 and 34 maps each, with pools of 3x3, over colour images: the sizes
are ours, chosen so that the parameters are those published, and so that the images of the largest net have 200x200
pixels. No net is allocated: what each rank holds is read off shapes on torch's meta device, and what is kept for
the backward pass off what torch saves there. The paper's cards had 4 GB of memory.
"""

from bisect import bisect_left
from pathlib import Path

import torch

from dlkit.core.reports import PaperRow
from dlkit.core.text_table import format_bytes
from dlkit.models import RICAStack, RICAStage
from dlkit.strategies.spatial.memory import memory_on_paper

TITLE = "Coates 2013: nets over a grid of GPUs, and what each of them holds"
PAPER = "Coates 2013"
SURVEY = "the survey, of 11 G parameters"
PUBLISHED = {1: 0.18, 4: 0.68, 9: 1.9, 16: 3.0, 36: 6.9, 64: 11.2}  # G parameters by GPUs
MAPS, SIZE, POOL = 34, 18, (3, 1)
CARD = 4 * 2**30  # bytes
BATCH = 96
CORNER_AND_MIDDLE = (0, 36)  # of 64: the one holds most, the other sends most


def net(side: int) -> RICAStack:
    """For colour images of side x side."""
    first = RICAStage(3, MAPS, SIZE, (side, side), pool=POOL)
    return RICAStack([first, RICAStage(MAPS, MAPS, SIZE, first.output[1:], pool=POOL)])


def parameters(side: int) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in net(side).parameters())


def side_for(giga: float) -> int:
    """The side of the images whose net is nearest to so many parameters."""
    sides = range(2 * SIZE + POOL[0], 300)
    place = bisect_left(sides, 1e9 * giga, key=parameters)
    return min(sides[place - 1 : place + 1], key=lambda side: abs(parameters(side) - 1e9 * giga))


def measure(folder: Path, quick: bool) -> list[PaperRow]:
    """A row for each size, and what a rank of the largest holds. Nothing is kept in `folder`: it takes a minute."""
    rows = [size_row(gpus, giga) for gpus, giga in PUBLISHED.items() if not quick or gpus in (1, 64)]
    side, count = side_for(PUBLISHED[64]), parameters(side_for(PUBLISHED[64]))
    numbers = CORNER_AND_MIDDLE if quick else range(64)
    ranks = memory_on_paper(lambda: net(side), (3, side, side), 1, (8, 8), numbers)
    one, sent = max(ranks, key=lambda rank: rank.total), max(rank.sent for rank in ranks)
    many = memory_on_paper(lambda: net(side), (3, side, side), BATCH, (8, 8), [numbers[ranks.index(one)]])[0]
    fits = "fits" if many.total <= CARD else "does not fit"
    held, kept = one.parameters / 1e6, one.kept / 1e6
    return [
        *rows,
        of_rank("weights, MB", held, "float32"),
        of_rank("weights and gradients, MB", held + one.gradients / 1e6, ""),
        of_rank("kept for the backward pass, MB", kept, "an image"),
        of_rank("sent, MB", sent / 1e6, "an image, the most of all ranks"),
        of_rank(f"in all with {BATCH} images, MB", many.total / 1e6, f"{fits} 4 GiB"),
        PaperRow("the weights in float64, GiB", "82 GB", SURVEY, f"{8 * count / 2**30:.2f}", gibibytes(), None),
    ]


def of_rank(what: str, value: float, spread: str) -> PaperRow:
    return PaperRow(f"a rank of 64: {what}", "", "", f"{value:.3g}" if value < 100 else f"{value:.0f}", spread, None)


def gibibytes() -> str:
    return f"{8 * 11e9 / 2**30:.2f} GiB for 11 G parameters"


def size_row(gpus: int, giga: float) -> PaperRow:
    side = side_for(giga)
    count, across = parameters(side), round(gpus**0.5)
    memory = memory_on_paper(lambda: net(side), (3, side, side), 1, (across, across), [0])[0]
    told = f"images of {side}x{side}, {across}x{across} ranks, the first with {format_bytes(memory.parameters)}"
    name = f"parameters on {gpus} GPU{'s' * (gpus > 1)}, G"
    return PaperRow(name, f"{giga}", PAPER, f"{count / 1e9:.2f}", told, None)
