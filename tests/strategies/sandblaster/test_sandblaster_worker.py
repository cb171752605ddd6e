"""A worker whose server answers no more, or has no more what it asks for."""

import threading
import time

import torch
from small_searches import experiment

from dlkit.strategies import Sandblaster
from dlkit.strategies.asynchronous.replica import Parameters
from dlkit.strategies.asynchronous.serving import Serving
from dlkit.strategies.asynchronous.wiring import wiring_here
from dlkit.strategies.sandblaster import rank
from dlkit.strategies.sandblaster.rank import Task, Worker
from dlkit.strategies.sandblaster.servers import PortionServer, VectorServer
from dlkit.training.run import Run


def test_a_worker_that_cannot_send_its_sum_ends_when_it_is_asked_to(monkeypatch):
    """As when a run is stopped: the servers have ended, and the coordinator still knows the same evaluation."""
    monkeypatch.setattr(rank, "TIMEOUT", 0.05)
    made, strategy = experiment(), Sandblaster()
    task = Task(made, strategy, wiring_here(2))
    portions = PortionServer()
    portions.begin(strategy.queue(), 0, "x")
    serving = Serving(task.wiring, 1, portions)
    run = Run(made, None, torch.device("cpu"), None, capture=False)
    asked = threading.Event()
    worker = Worker(task, run, Parameters(run), 0, asked.is_set)
    worker.evaluation, worker.kept = portions.evaluation, [0]
    worker.sum = torch.zeros(worker.parts[-1].stop, dtype=torch.float64)
    sends = threading.Thread(target=worker._send, daemon=True)
    try:
        while worker._ask(worker.queue, "now") is None:
            pass  # until it is connected
        sends.start()
        time.sleep(0.3)
        assert sends.is_alive()  # its sum is still wanted
        asked.set()
        sends.join(5)
        assert not sends.is_alive()
    finally:
        portions.evaluation = -2  # lets it end if it has not
        sends.join(5)
        worker.close()
        serving.close()


def test_a_worker_that_asks_too_late_for_a_point_asks_what_to_do_anew():
    made = experiment()
    task = Task(made, Sandblaster(), wiring_here(2))
    run = Run(made, None, torch.device("cpu"), None, capture=False)
    parameters = Parameters(run)
    server, portions = VectorServer(parameters.get()), PortionServer()
    portions.begin(task.strategy.queue(), 0, "v7")  # a trial point of the search, gone before it is asked for
    serving = [Serving(task.wiring, 0, server), Serving(task.wiring, 1, portions)]
    worker = Worker(task, run, parameters, 0, lambda: False)
    try:
        worker.turn()
        assert (worker.evaluation, worker.computed) == (-1, 0)
        portions.begin(task.strategy.queue(), 0, "x")
        worker.turn()
        assert (worker.evaluation, worker.computed) == (1, 1)
    finally:
        worker.close()
        for each in serving:
            each.check()
            each.close()
