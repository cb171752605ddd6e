"""One CD-1 epoch of 60,000 digits by dlkit, scikit-learn and learnergy, in turns, on the same cores.

    pip install -c constraints.txt -r benchmarks/requirements.txt
    python benchmarks/rbm_elsewhere.py [--json]

Each epoch has a process of its own: scikit-learn brings a second OpenMP, beside which torch's threads crawl. Ten
batches come first and are not counted, nor are imports: torch loads a second's worth of its parts at a first fit.
scikit-learn's BernoulliRBM learns by persistent CD-1, its only way; learnergy by CD-1, and it also measures a
pseudo-likelihood for each batch, which its `fit` cannot leave out.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial

from dlkit import data
from dlkit.bench.rbm import HIDDEN, IMAGES, VISIBLE
from dlkit.bench.timing import Seconds, speed_row
from dlkit.core.reports import BenchRow, emit
from dlkit.models import RBM
from dlkit.training import CD, Experiment

TITLE = "RBM 784 x 500, one epoch of 60,000 digits: dlkit beside other packages"
GOALS = {"scikit-learn": "ratio at least 1.5", "learnergy": "ratio at least 3"}


def epoch(package: str, batch: int, digits: data.Split) -> Callable[[], object]:
    """One epoch of the package's own fit, ready to be called."""
    if package == "dlkit":
        experiment = Experiment(partial(RBM, VISIBLE, HIDDEN), digits, CD(1), batch_size=batch, epochs=1, momentum=0.5)
        return partial(experiment.run, progress=False, device="cpu")
    if package == "scikit-learn":
        from sklearn.neural_network import BernoulliRBM

        rbm = BernoulliRBM(HIDDEN, batch_size=batch, n_iter=1, random_state=0)
        return partial(rbm.fit, digits.images.flatten(1).numpy())
    from learnergy.models.bernoulli import RBM as LearnergyRBM
    from torch.utils.data import TensorDataset

    rbm = LearnergyRBM(VISIBLE, HIDDEN, steps=1, learning_rate=0.1, momentum=0.5)
    return partial(rbm.fit, TensorDataset(digits.images, digits.labels), batch_size=batch, epochs=1)


def seconds_of(package: str, batch: int) -> float:
    """Seconds of one epoch in a fresh process; its first ten batches are not counted."""
    with tempfile.TemporaryDirectory() as folder:  # learnergy keeps a log file where it is run
        command = [sys.executable, __file__, package, str(batch)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def measure(rounds: int = 5) -> list[BenchRow]:
    """Images a second of each package, and dlkit's ratio to the others."""
    rows = []
    for batch in (100, 1000):
        seconds: Seconds = {package: [] for package in ("dlkit", *GOALS)}
        for _ in range(rounds):
            for package, values in seconds.items():
                values.append(seconds_of(package, batch))
                print(f"batch {batch}, {package}: {values[-1]:.1f} s", file=sys.stderr)
        for package, goal in GOALS.items():
            name = f"dlkit against {package}, batch {batch}"
            rows.append(speed_row(name, seconds, "dlkit", package, package, IMAGES, goal))
    return rows


if __name__ == "__main__":
    if len(sys.argv) == 3:
        package, batch, digits = sys.argv[1], int(sys.argv[2]), data.load("mnist").full_train
        epoch(package, batch, digits[: 10 * batch])()
        task = epoch(package, batch, digits)
        begun = time.perf_counter()
        task()
        print(time.perf_counter() - begun)
    else:
        emit(measure(), TITLE, "--json" in sys.argv)
