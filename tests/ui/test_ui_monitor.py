"""The monitor shows the run it watches, changes nothing in it, and can be stopped, restarted and waited for."""

import asyncio
import io
import signal
import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from oracles import random_rbm, random_states, seeded
from PIL import Image
from torch import nn

from dlkit import Experiment
from dlkit.analysis.diagnostics import examine
from dlkit.models import RBM, GaussianRBM
from dlkit.models.gibbs_chains import gibbs
from dlkit.training import CD, PCD, Learner
from dlkit.ui import monitor as module
from dlkit.ui.draw.pictures import tile
from dlkit.ui.monitor import TrainingMonitor

IMAGES = random_states(400, 16, probability=0.3)
SHORT = Experiment(partial(RBM, 16, 8), data=IMAGES, learner=CD(), batch_size=10, epochs=2, row_every=5)
ENDLESS = replace(SHORT, epochs=10**7)


def monitor(experiment=SHORT, **options) -> TrainingMonitor:
    return TrainingMonitor(experiment, IMAGES[:100], shape=(4, 4), **options)


@pytest.fixture(autouse=True)
def nothing_left_running():
    yield
    last = TrainingMonitor.current
    if last is not None:
        last.retire()


def pixels(image) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image.value)))[:: module.ZOOM, :: module.ZOOM]


@pytest.mark.parametrize("learner", [CD(), PCD()])
def test_the_watched_run_learns_what_the_unwatched_run_learns(learner):
    experiment = replace(SHORT, learner=learner)
    watched = monitor(experiment)
    watched.start()
    assert torch.equal(watched.wait().model.W, experiment.run(progress=False).model.W)


def test_at_the_end_it_shows_the_filters_and_the_health_of_the_run():
    watched = monitor()
    watched.start()
    run = watched.wait()
    assert watched.run is run
    assert np.array_equal(pixels(watched.filters), tile(run.model.W.T.view(8, 4, 4), module.COLUMNS, symmetric=True))
    assert watched.health == examine(run.model, IMAGES, IMAGES[:100], run.optimizer)
    assert watched.health.verdict.split(" (")[0] in watched.numbers.value
    assert watched.progress.value == 1
    assert "Finished at step 80 of 80" in watched.status.value
    assert f"from {run.history['loss'][0]:.4g} to {run.history['loss'][-1]:.4g}" in watched.chart.value


def test_the_fantasies_of_pcd_are_its_persistent_chains(monkeypatch):
    monkeypatch.setattr(module, "REDRAW", 3600.0)  # one drawing at the first row, one at the end
    watched = monitor(replace(SHORT, learner=PCD()))
    watched.start()
    run = watched.wait()
    chains, generator = run.learner.state["chains"], seeded(SHORT.seed)
    gibbs(random_rbm(16, 8), chains, steps=1, generator=generator)  # the numbers drawn at the first
    _, mean = gibbs(run.model, chains, steps=1, generator=generator)
    assert np.array_equal(pixels(watched.particles), tile(mean.view(-1, 4, 4), module.COLUMNS))
    assert "persistent" in watched.particles_caption.value


def test_rows_at_which_it_looked_have_the_numbers_in_the_history():
    watched = monitor()
    watched.start()
    history = watched.wait().history
    assert len(history) == 16
    for name in ("free_energy_gap", "reconstruction", "pseudo_log_likelihood"):
        assert history[name][0] is not None


def test_it_redraws_no_more_often_than_it_says(monkeypatch):
    monkeypatch.setattr(module, "REDRAW", 3600.0)
    watched, drawn = monitor(), []
    watched.progress.observe(lambda change: drawn.append(change["new"]), "value")
    watched.start()
    watched.wait()
    assert drawn == [5 / 80, 1.0]  # the first row, and the end


def test_stop_keeps_what_was_learnt():
    watched = monitor(ENDLESS)
    watched.start()
    watched.stop_button.click()
    run = watched.wait()
    assert run.stopped == "stopped"
    assert 0 < run.step < run.total_steps
    assert "Stopped at step" in watched.status.value


def test_the_buttons_can_be_pressed_when_they_do_something():
    watched = monitor(ENDLESS)
    assert (watched.start_button.disabled, watched.stop_button.disabled) == (False, True)
    watched.start_button.click()
    assert (watched.start_button.disabled, watched.stop_button.disabled) == (True, False)
    watched.stop_button.click()
    watched.wait()
    assert (watched.start_button.disabled, watched.stop_button.disabled) == (False, True)


def test_it_can_be_started_again_from_the_beginning():
    watched = monitor()
    watched.start()
    first = watched.wait()
    watched.start_button.click()
    second = watched.wait()
    assert second is not first
    assert torch.equal(second.model.W, first.model.W)


def test_starting_one_stops_the_one_before_as_a_rerun_of_the_cell_does():
    first = monitor(ENDLESS)
    first.start()
    second = monitor()
    second.start()
    assert first._idle.is_set()
    assert first.run.stopped == "stopped"
    assert second.wait().stopped is None


def test_an_error_in_the_thread_is_shown_and_raised_by_wait():
    watched = monitor(replace(SHORT, batch_size=1000))
    watched.start()
    with pytest.raises(ValueError, match="400 images for batches of 1000"):
        watched.wait()
    assert "Failed: ValueError: 400 images for batches of 1000" in watched.status.value
    assert watched.start_button.disabled is False


def test_a_training_that_blows_up_says_so():
    watched = monitor(replace(SHORT, model=partial(GaussianRBM, 16, 8), lr=1e6))
    watched.start()
    with pytest.raises(FloatingPointError):
        watched.wait()
    assert "try a smaller lr" in watched.status.value


class Zero(Learner):
    """A learner for any model."""

    def fill_grad(self, model, batch, generator):
        return {"loss": torch.zeros(())}


def test_another_model_is_refused_in_words():
    watched = monitor(replace(SHORT, model=partial(nn.Linear, 16, 2), learner=Zero()))
    watched.start()
    with pytest.raises(TypeError, match="is for an RBM, and this experiment trains a Linear"):
        watched.wait()


def test_an_interrupt_while_waiting_stops_and_keeps_the_run():
    watched = monitor(ENDLESS)
    watched.start()
    threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
    assert watched.wait().stopped == "stopped"


def test_it_can_be_awaited_and_the_loop_goes_on_meanwhile():
    watched, beats = monitor(ENDLESS), []

    async def cell():
        watched.start()
        asyncio.get_running_loop().call_later(0.1, watched.stop_button.click)
        asyncio.get_running_loop().call_soon(beats.append, 1)
        return await watched

    assert asyncio.run(cell()).stopped == "stopped"
    assert beats == [1]


def test_an_interrupt_of_the_cell_that_awaits_stops_and_keeps_the_run():
    watched = monitor(ENDLESS)

    async def cell():
        watched.start()
        return await watched

    async def kernel():  # what ipykernel does to an asynchronous cell at an interrupt
        task = asyncio.ensure_future(cell())
        asyncio.get_running_loop().call_later(0.3, task.cancel)
        return await task

    assert asyncio.run(kernel()).stopped == "stopped"


def test_waiting_for_nothing_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"call start\(\), or press Start, first"):
        monitor().wait()


def test_other_callbacks_are_called_too():
    steps = []
    watched = monitor(callbacks=[lambda run: steps.append(run.step)])
    watched.start()
    watched.wait()
    assert steps == list(range(5, 81, 5))
