from functools import partial

import pytest
import torch

from dlkit.models import RBM
from dlkit.training import CD, EarlyStop, Experiment


def stopped_after(values, **options):
    """How many rows a run makes whose callback reports these values, one a row."""
    images = (torch.rand(40, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    experiment = Experiment(partial(RBM, 6, 3), images, CD(), batch_size=20, epochs=len(values))
    reported = iter(values)
    callbacks = [lambda run: {"score": next(reported)}, EarlyStop("score", **options)]
    run = experiment.run(callbacks=callbacks, progress=False)
    return len(run.history), run.stopped


def test_a_run_ends_when_the_column_has_not_improved_for_patience_rows():
    rows, why = stopped_after([3.0, 2.0, 2.5, 2.0, 2.1, 1.0], patience=3)
    assert rows == 5  # the best is the second row; an equal value later is no improvement
    assert why == "score has not improved on 2 for 3 rows"


def test_a_column_that_keeps_improving_is_let_run():
    assert stopped_after([5.0, 4.0, 4.5, 3.0, 3.5], patience=2) == (5, None)


def test_largest_wants_the_column_to_rise():
    assert stopped_after([-5.0, -4.0, -4.5, -4.6, 0.0], patience=2, largest=True)[0] == 4


def test_an_early_stop_in_front_of_its_column_names_the_columns_there_are():
    experiment = Experiment(partial(RBM, 2, 1), torch.zeros(4, 2), CD(), batch_size=2, epochs=1)
    with pytest.raises(KeyError, match="no column 'score': there are step, epoch, loss"):
        experiment.run(callbacks=[EarlyStop("score")], progress=False)
