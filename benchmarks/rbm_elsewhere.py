"""One CD-1 epoch of 60,000 digits by dlkit, scikit-learn and learnergy, in turns, on the same cores.

    pip install -c constraints.txt -r benchmarks/requirements.txt
    python benchmarks/rbm_elsewhere.py [--json]

scikit-learn's BernoulliRBM learns by persistent CD-1, its only way; learnergy by CD-1, and it also measures a
pseudo-likelihood for each batch, which its `fit` cannot leave out.
"""

import os
import sys
import tempfile
from functools import partial
from statistics import median

import torch
from torch.utils.data import TensorDataset

from dlkit import data
from dlkit.bench.rbm import HIDDEN, IMAGES, VISIBLE
from dlkit.bench.timing import interleaved, ratio
from dlkit.models import RBM
from dlkit.tables import BenchRow, emit
from dlkit.training import CD, Experiment

TITLE = "RBM 784 x 500, one epoch of 60,000 digits: dlkit beside other packages, in the same process"


def measure(rounds: int = 5) -> list[BenchRow]:
    """Images a second of each package's own fit, and dlkit's ratio to the others."""
    from learnergy.models.bernoulli import RBM as LearnergyRBM
    from sklearn.neural_network import BernoulliRBM

    digits = data.load("mnist").full_train
    flat = digits.images.flatten(1)
    array, dataset = flat.numpy(), TensorDataset(digits.images, digits.labels)
    rows = []
    for batch in (100, 1000):
        epoch = Experiment(partial(RBM, VISIBLE, HIDDEN), digits, CD(1), batch_size=batch, epochs=1, momentum=0.5)
        sklearn = BernoulliRBM(HIDDEN, batch_size=batch, n_iter=1, random_state=0)
        learnergy = LearnergyRBM(VISIBLE, HIDDEN, steps=1, learning_rate=0.1, momentum=0.5)
        tasks = {
            "dlkit": partial(epoch.run, progress=False, device="cpu"),
            "scikit-learn": partial(sklearn.fit, array),
            "learnergy": partial(learnergy.fit, dataset, batch_size=batch, epochs=1),
        }
        seconds = interleaved(tasks, rounds)
        for name, goal in (("scikit-learn", "ratio at least 1.5"), ("learnergy", "ratio at least 3")):
            rows.append(
                BenchRow(
                    f"dlkit against {name}, batch {batch}",
                    IMAGES / median(seconds["dlkit"]),
                    "images/s",
                    f"{name}: {IMAGES / median(seconds[name]):,.0f} images/s",
                    ratio(seconds, "dlkit", name),
                    goal,
                )
            )
    return rows


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # learnergy keeps a log file where it is run
        here = os.getcwd()
        os.chdir(folder)
        rows = measure()
        os.chdir(here)
    emit(rows, f"{TITLE}; torch {torch.__version__}, {torch.get_num_threads()} threads", "--json" in sys.argv)
