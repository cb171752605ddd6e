"""Salakhutdinov and Murray 2008, On the quantitative analysis of deep belief networks, table 1: RBMs of 500 units.

Digits binarised by sampling, all 60,000 for training, log-probability of the 10,000 test digits by AIS with 100
chains and 14,500 temperatures. PCD's rate (of 0.02, 0.05, 0.1, 0.2) and weight decay (of 0 and 4e-4) were chosen by
the log-probability of 10,000 validation digits, held out; CD's were not tuned. Rates fall linearly to 0.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tqdm.auto import tqdm

from dlkit import data
from dlkit.analysis.likelihood import ais, log_probability, reference_betas, reverse_ais
from dlkit.core.matmul import bfloat16_products
from dlkit.core.reports import PaperRow
from dlkit.models import RBM
from dlkit.papers.reproduction import RESUMABLE, Result, cached, finished
from dlkit.training import CD, PCD, Experiment, Learner, linear_schedule

TITLE = "Salakhutdinov and Murray 2008: RBMs with 500 hidden units, log-probability of a test digit in nats"
TABLE = "Salakhutdinov & Murray 2008, table 1"
FROM_MEMORY = f"{TABLE}, quoted from memory and not checked"
BURN_IN = 5_000  # Gibbs steps from training digits, after which reverse AIS takes the states for samples of the model
QUICK_STEPS, QUICK_BURN_IN = 500, 100  # of AIS, and of Gibbs sampling before reverse AIS
PYDEEP = "PyDeep, its example of a centred binary RBM on MNIST, 200 epochs"


@dataclass(frozen=True)
class Training:
    """One training of the table, and the log-probabilities published for it, in nats, by AIS and by reverse AIS."""

    name: str
    learner: Learner
    epochs: int
    rate: float
    weight_decay: float = 0.0
    published: tuple[str, str] = ("", "")
    source: str = ""


def trainings() -> list[Training]:
    """The trainings of the table, with bfloat16 products where the processor is fast at them.

    The last two differ only in that, and show what it changes.
    """
    fast = "bfloat16" if bfloat16_products() else "float32"
    cd = partial(CD, sample_visible=True, products=fast)
    pcd = partial(PCD, centred=True)
    lines = [
        Training("CD-1", cd(1), 60, 0.05, 0.0, ("-125.53", ""), FROM_MEMORY),
        Training("CD-3", cd(3), 60, 0.05, 0.0, ("-105.50", ""), FROM_MEMORY),
        Training("CD-25", cd(25), 30, 0.1, 0.0, ("-86.34", ""), TABLE),
        Training("centred PCD", pcd(products=fast), 200, 0.1, 4e-4, ("-84.86", "-96.6"), PYDEEP),
    ]
    if fast != "float32":
        lines.append(Training("centred PCD, float32", pcd(), 200, 0.1, 4e-4, ("-84.86", "-96.6"), PYDEEP))
    return lines


def measure(folder: Path, quick: bool) -> list[PaperRow]:
    """Two rows for each training, from the results that `folder` has, if any; quick: 10,000 digits, one epoch each."""
    digits = data.load("mnist", binarise="sample")
    images = digits.full_train.images.flatten(1)[: 10_000 if quick else None]
    test = digits.test.images.flatten(1)
    rows = []
    for training in (bar := tqdm(trainings(), unit="training", disable=None)):
        bar.set_description(training.name)
        own_folder = folder / training.name.replace(" ", "-")
        result = cached(own_folder / "result.json", partial(estimate, training, images, test, own_folder, quick))
        rows += table_rows(training, result, 1 if quick else training.epochs)
    return rows


def estimate(training: Training, images: torch.Tensor, test: torch.Tensor, folder: Path, quick: bool) -> Result:
    """Train, from the last checkpoint in `folder` if it has one; then the log-probability of a test digit, in nats.

    It is estimated twice, by AIS and by reverse AIS, each with an interval of 3 standard errors.
    """
    epochs = 1 if quick else training.epochs
    experiment = Experiment(
        partial(RBM, 784, 500),
        images,
        training.learner,
        epochs=epochs,
        lr=linear_schedule(training.rate, 0, epochs),
        weight_decay=training.weight_decay,
    )
    run = finished(experiment.run(checkpoint=folder, **RESUMABLE), training.name)
    betas = torch.linspace(0, 1, QUICK_STEPS + 1, dtype=torch.float64) if quick else reference_betas()
    result: Result = {"seconds": run.seconds}
    begun = time.perf_counter()
    forward = ais(run.model, images=images, betas=betas)
    burn_in = QUICK_BURN_IN if quick else BURN_IN
    backward = reverse_ais(run.model, images[:100], images=images, betas=betas, burn_in=burn_in)
    result["ais_seconds"] = (time.perf_counter() - begun) / 2
    for name, log_z in (("ais", forward), ("reverse", backward)):
        p = log_probability(run.model, test, log_z)
        result[name] = {"value": p.value, "low": p.low, "high": p.high}
    return result


def table_rows(training: Training, result: Result, epochs: int) -> list[PaperRow]:
    """A row by AIS, with the seconds of the training, and one by reverse AIS, with those of the estimate."""
    length = f"{epochs} epoch{'s' * (epochs > 1)}"
    rows = []
    methods = (("ais", "AIS"), ("reverse", "reverse AIS"))
    for (key, method), published in zip(methods, training.published, strict=True):
        p = result[key]
        spread = f"{p['low']:.2f} to {p['high']:.2f} (3 standard errors over 100 chains)"
        seconds = result["seconds"] if key == "ais" else result["ais_seconds"]
        source = training.source if published else ""
        rows.append(
            PaperRow(f"{training.name}, {length}, {method}", published, source, f"{p['value']:.2f}", spread, seconds)
        )
    return rows
