import copy
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import cloudpickle
import numpy as np
import pytest
import torch
from oracles import random_states
from torch import nn
from tqdm.auto import tqdm

from dlkit import Experiment
from dlkit.core.random import ShardedGenerator
from dlkit.data import Batch, Dataset, Split
from dlkit.models import RBM, GaussianRBM
from dlkit.models.locally_connected import LocallyConnected2d
from dlkit.training import CD, PCD, CrossEntropy, Learner, UpDown, linear_schedule, piecewise_constant
from dlkit.training.dictionary import DictionaryLearning

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
IMAGES = random_states(50, 12, seed=3, probability=0.3)
adam = partial(torch.optim.Adam)


def small(**changes):
    """7 steps an epoch, the last on 2 images."""
    return Experiment(
        **{"model": partial(RBM, 12, 6), "data": IMAGES, "learner": CD(), "batch_size": 8, "epochs": 3} | changes
    )


def run(experiment, **arguments):
    return experiment.run(**{"progress": False, "device": "cpu"} | arguments)


def same_bits(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@dataclass
class Told(Learner):
    """A learner that fills every gradient with `gradient`, reports `losses` in turn and keeps what it was shown."""

    gradient: float = 0.0
    losses: list[float] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list, repr=False)

    def fill_grad(self, model, batch, generator):
        self.batches.append(batch)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, self.gradient)
        return {"loss": torch.tensor(self.losses[len(self.batches) - 1] if self.losses else 0.0)}


# The loop


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("learner", [CD(), PCD(k=2), CD(centred=True, sparsity_target=0.1)])
def test_a_run_is_a_plain_torch_loop_to_the_bit(learner, optimizer):
    met = {"batches": []}

    def watched(kind):
        class Watched(kind):
            def start(self, model, data, batch_size, generator):
                super().start(model, data, batch_size, generator)
                met.update(
                    trained=self,
                    model=copy.deepcopy(model),
                    learner=copy.deepcopy(learner),
                    drawn=generator.get_state(),
                )
                met["learner"].state = {name: value.clone() for name, value in self.state.items()}

            def fill_grad(self, model, batch, generator):
                if self is met["trained"]:  # and not a copy, in a trial
                    met["batches"].append(batch)
                return super().fill_grad(model, batch, generator)

        return Watched(k=learner.k, centred=learner.centred, sparsity_target=learner.sparsity_target)

    settings = {"lr": 0.2, "weight_decay": 0.01}
    settings |= {"momentum": 0.9} if optimizer == "momentum" else {"momentum": None, "optimizer": adam}
    found = run(small(learner=watched(type(learner)), **settings))

    model, generator = met["model"], ShardedGenerator()
    generator.set_state(met["drawn"])
    groups = [{"params": [model.W], "weight_decay": 0.01}, {"params": [model.a, model.b]}]
    naive = torch.optim.SGD(groups, 0.2, 0.9, fused=True) if optimizer == "momentum" else adam(groups, 0.2)
    for batch in met["batches"]:
        met["learner"].fill_grad(model, batch, generator)
        naive.step()
    assert len(met["batches"]) == 21
    assert same_bits(found.model, model)


def test_each_epoch_shows_every_image_once_in_an_order_of_its_own():
    images = torch.arange(50.0)[:, None] / 50
    labels = torch.arange(50)
    learner = run(small(model=partial(RBM, 1, 1), data=(images, labels), learner=Told())).learner
    sizes = [len(batch.images) for batch in learner.batches]
    assert sizes == [8, 8, 8, 8, 8, 8, 2] * 3
    orders = [torch.cat([b.labels for b in learner.batches[7 * epoch :][:7]]) for epoch in range(3)]
    for order in orders:
        assert torch.equal(order.sort().values, labels)
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[1], orders[2])
    for batch in learner.batches:  # each label still belongs to its image
        assert torch.equal(batch.images[:, 0], batch.labels / 50)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    experiment = small(learner=PCD())
    first, second = run(experiment), run(experiment)
    assert same_bits(first.model, second.model)
    assert first.history["loss"] == second.history["loss"]
    assert not same_bits(first.model, run(small(learner=PCD(), seed=1)).model)


def test_what_was_drawn_from_the_global_generator_before_makes_no_difference():
    torch.manual_seed(1)
    first = run(small())
    torch.manual_seed(2)
    assert same_bits(first.model, run(small()).model)


def test_a_run_leaves_the_global_generators_as_they_were():
    torch.manual_seed(12_345)  # not where an earlier run may have left it
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    run(small(learner=PCD()))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()


def test_a_learner_is_not_changed_by_a_run():
    learner = PCD(centred=True)
    first = run(small(learner=learner))
    assert learner.state == {}
    assert repr(learner) == repr(PCD(centred=True))
    assert first.learner is not learner
    assert same_bits(first.model, run(small(learner=learner)).model)


def test_the_images_given_are_not_changed_by_a_run():
    images = IMAGES.clone()
    run(small(data=images, learner=PCD()))
    assert torch.equal(images, IMAGES)


@pytest.mark.parametrize("wanted", [1, 5, 7, 9])
def test_steps_ends_the_run_after_so_many(wanted):
    found = run(small(), steps=wanted)
    assert found.step == wanted
    assert found.epoch == wanted / 7
    assert found.history["step"][-1] == wanted
    assert found.stopped is None
    longer = run(small(epochs=10), steps=wanted)
    assert same_bits(found.model, longer.model)


def test_rate_and_momentum_schedules_reach_the_optimizer_at_their_step():
    experiment = small(
        learner=Told(gradient=1.0), lr=linear_schedule(0.1, 0.0, 2), momentum=piecewise_constant({0: 0.5, 1: 0.9})
    )
    start, found = run(small(lr=0.0, learner=Told())).model.W.double(), run(experiment)
    velocity = moved = 0.0
    lrs = []
    for step in range(21):
        lr = max(0.1 * (1 - step / 14), 0.0)
        velocity = (0.5 if step < 7 else 0.9) * velocity + 1
        moved -= lr * velocity
        lrs.append(lr)
    torch.testing.assert_close(found.model.W.double() - start, torch.full((12, 6), moved).double())
    assert found.history["lr"] == pytest.approx([lrs[6], lrs[13], lrs[20]])


def test_weight_decay_acts_on_weights_alone():
    def make():
        rbm = GaussianRBM(12, 6)
        for bias in (rbm.a, rbm.b, rbm.log_variance):
            nn.init.ones_(bias)
        return rbm

    experiment = small(model=make, learner=Told(), lr=0.1, weight_decay=0.5)
    start, found = run(small(model=make, learner=Told())).model, run(experiment).model
    torch.testing.assert_close(found.W, start.W * (1 - 0.1 * 0.5) ** 21)
    for name in ("a", "b", "log_variance"):
        assert torch.equal(getattr(found, name), torch.ones_like(getattr(found, name))), name


def test_a_bias_for_each_place_does_not_decay():
    def make():
        return nn.Sequential(nn.Unflatten(1, (1, 3, 4)), LocallyConnected2d(1, 2, 2, (3, 4)))

    start, found = (run(small(model=make, learner=Told(), lr=0.1, weight_decay=decay)).model[1] for decay in (0.0, 0.5))
    assert torch.equal(found.bias, start.bias)
    torch.testing.assert_close(found.weight, start.weight * (1 - 0.1 * 0.5) ** 21)


def test_a_data_set_gives_its_training_part_and_a_split_its_labels():
    labels = torch.arange(50)
    train = Split(IMAGES, labels)
    other = Split(torch.zeros(9, 12), torch.zeros(9, dtype=torch.int64))
    of_dataset = run(small(data=Dataset(train, other, other), learner=Told())).learner
    of_split = run(small(data=train, learner=Told())).learner
    of_images = run(small(learner=Told())).learner
    for learner in (of_dataset, of_split):
        assert torch.cat([batch.labels for batch in learner.batches[:7]]).sort().values.equal(labels)
    assert of_images.batches[0].labels is None
    assert torch.equal(of_images.batches[0].images, of_dataset.batches[0].images)


def test_the_clock_stands_still_in_callbacks(monkeypatch):
    now = [0.0]

    def clock():
        now[0] += 1.0
        return now[0]

    def slow(_):
        now[0] += 1000.0

    monkeypatch.setattr(time, "perf_counter", clock)
    found = run(small(), callbacks=[slow])
    assert found.seconds == 21
    assert found.throughput == 150 / 21


# History and callbacks


def test_rows_come_when_asked_for_and_at_epoch_ends_with_means_since_the_row_before():
    losses = [float(n) for n in range(1, 18)]
    found = run(small(learner=Told(losses=losses), row_every=3), steps=17)
    assert found.history["step"] == [3, 6, 7, 9, 12, 14, 15, 17]
    assert found.history["loss"] == [2.0, 5.0, 7.0, 8.5, 11.0, 13.5, 15.0, 16.5]
    assert found.history["epoch"] == [step / 7 for step in found.history["step"]]


def test_callbacks_see_the_run_at_each_row_and_may_add_columns():
    seen = []

    def look(now):
        seen.append((now.step, now.history.rows[-1]["step"], now.model.W.clone()))

    found = run(small(), callbacks=[look, lambda now: {"twice": 2 * now.step}])
    assert [entry[:2] for entry in seen] == [(7, 7), (14, 14), (21, 21)]
    assert found.history["twice"] == [14, 28, 42]
    assert torch.equal(seen[-1][2], found.model.W)
    assert not torch.equal(seen[0][2], seen[1][2])


def test_columns_of_tensors_and_numpy_numbers_become_plain_numbers():
    found = run(small(), callbacks=[lambda _: {"t": torch.tensor(1.5), "n": np.float32(2.5), "i": np.int64(3)}])
    assert found.history.rows[-1]["t"] == 1.5
    assert {type(found.history.rows[-1][name]) for name in "tn"} == {float}
    assert type(found.history.rows[-1]["i"]) is int


def test_a_callback_can_end_the_run_early():
    found = run(small(), callbacks=[lambda now: now.stop("enough") if now.step >= 14 else None])
    assert (found.step, found.stopped) == (14, "enough")
    assert same_bits(found.model, run(small(), steps=14).model)


def test_the_first_reason_to_stop_is_the_one_kept():
    def stop_twice(now):
        now.stop("first")
        now.stop("second")

    assert run(small(), callbacks=[stop_twice]).stopped == "first"


def test_a_run_says_what_it_is():
    text = repr(run(small(), steps=10))
    for part in ("Run(RBM", "1.429 epochs", "10 steps", "loss", "images/s"):
        assert part in text


def test_without_progress_nothing_is_printed(capfd):
    small().run(device="cpu", progress=False)
    assert capfd.readouterr() == ("", "")


def test_rows_do_not_draw_the_progress_bar_before_its_time(capfd, monkeypatch):
    monkeypatch.setattr("dlkit.training.run.tqdm", lambda **settings: tqdm(**settings | {"delay": 1e9}))
    small(row_every=1).run(device="cpu")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_ends_the_run_with_the_mend(loss):
    losses = [1.0, 2.0, loss, 3.0, 4.0, 5.0, 6.0]
    with pytest.raises(FloatingPointError, match=rf"loss is {loss} at step 7: try a smaller lr \(now 0.1\)"):
        run(small(learner=Told(losses=losses), lr=0.1))


# Interrupts


def interrupt(_=None):
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_keeps_what_was_learnt_and_puts_the_old_handler_back():
    before = signal.getsignal(signal.SIGINT)
    found = run(small(row_every=5), callbacks=[interrupt])
    assert (found.step, found.stopped) == (5, "interrupted")
    assert same_bits(found.model, run(small(), steps=5).model)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_means_it():
    def hang(now):
        interrupt()
        while now.stopped is None:
            time.sleep(0.001)
        interrupt()
        time.sleep(10)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(small(), callbacks=[hang])
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_gets_through_when_the_run_is_being_stopped_for_another_reason():
    def hang(now):
        now.stop("enough")
        interrupt()
        time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        run(small(), callbacks=[hang])


def test_an_error_in_a_callback_puts_the_old_handler_back():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError):
        run(small(), callbacks=[lambda _: 1 / 0])
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_in_a_process_of_its_own_ends_the_run_and_keeps_it(tmp_path):
    code = f"""
import torch
from dlkit import Experiment
from dlkit.models import RBM
from dlkit.training import CD
images = (torch.rand(50, 12) < 0.3).float()
experiment = Experiment(lambda: RBM(12, 6), images, CD(), batch_size=8)
ready = lambda run: print("ready", flush=True) if run.step == 7 else None
run = experiment.run(steps=10**9, device="cpu", checkpoint={str(tmp_path / "run")!r}, callbacks=[ready])
print(run.stopped, run.step >= 7, run.model.W.isfinite().all().item())
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert (child.returncode, out) == (0, "interrupted True True\n"), err
    assert (tmp_path / "run" / "checkpoint.json").is_file()


def test_a_stop_event_ends_a_run_in_a_thread():
    stop, began, results = threading.Event(), threading.Event(), []
    before = signal.getsignal(signal.SIGINT)

    def work():
        results.append(run(small(), steps=10**9, stop=stop, callbacks=[lambda _: began.set()]))

    thread = threading.Thread(target=work, daemon=True)  # if it does not stop, the tests still end
    thread.start()
    assert began.wait(60)
    assert signal.getsignal(signal.SIGINT) is before
    stop.set()
    thread.join(60)
    assert not thread.is_alive()
    assert results[0].stopped == "stopped"
    assert 7 <= results[0].step < 10**9


def test_a_run_in_a_thread_has_the_bits_of_one_in_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(run(small())))
    thread.start()
    thread.join()
    assert same_bits(results[0].model, run(small()).model)


# Experiments that travel


def test_an_experiment_survives_pickling():
    experiment = small(
        learner=PCD(centred=True), lr=linear_schedule(0.1, 0.0, 3), momentum=piecewise_constant({0: 0.5, 1: 0.9})
    )
    twin = pickle.loads(pickle.dumps(experiment))
    assert same_bits(run(experiment).model, run(twin).model)


def test_a_model_and_a_learner_defined_in_a_cell_travel_by_cloudpickle():
    class Own(RBM):
        def __init__(self):
            super().__init__(12, 3)

    @dataclass
    class OwnCD(CD):
        extra: int = 1

    experiment = small(model=Own, learner=OwnCD())
    twin = pickle.loads(cloudpickle.dumps(experiment))
    assert type(twin) is Experiment
    assert same_bits(run(experiment).model, run(twin).model)


# What is refused


@pytest.mark.parametrize("name", ["batch_size", "epochs", "row_every"])
@pytest.mark.parametrize("value", [0, -3])
def test_a_count_below_one_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}: it must be at least 1"):
        small(**{name: value})


@pytest.mark.parametrize("name", ["steps", "checkpoint_every"])
@pytest.mark.parametrize("value", [0, -3])
def test_a_count_below_one_is_refused_by_run_too(name, value, tmp_path):
    with pytest.raises(ValueError, match=f"{name}={value}: it must be at least 1"):
        run(small(), checkpoint=tmp_path, **{name: value})


def test_a_model_of_another_dtype_is_refused_before_it_trains():
    with pytest.raises(ValueError, match=r"W is torch.float64 and the images torch.float32: make the model .float\(\)"):
        run(small(model=lambda: RBM(6, 3).double()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(ValueError, match='device="cuda", but torch finds no CUDA GPU: leave device out'):
        run(small(), device="cuda")
    assert next(small().run(steps=1, progress=False).model.parameters()).device.type == "cpu"


def test_a_run_is_exact_on_its_device_unless_it_is_to_be_fast(monkeypatch):
    asked = []

    @contextmanager
    def noted(how, device, alone=None):
        asked.append((how, device, alone))
        yield

    for how in ("exact", "quick"):
        monkeypatch.setattr(f"dlkit.training.experiment.{how}", partial(noted, how))
    run(small(), device="cpu")
    run(small(), device="cpu", fast=True)
    assert asked == [("exact", torch.device("cpu"), None), ("quick", torch.device("cpu"), True)]


class Hungry(nn.Linear):
    """Asks for more memory than any machine has where it is to learn from more than so many images."""

    def __init__(self, room):
        super().__init__(12, 3)
        self.room = room

    def forward(self, x):
        torch.empty(1 if len(x) <= self.room or not self.training else 1 << 52)
        return super().forward(x)


def test_out_of_memory_is_told_with_what_the_run_holds_and_a_batch_that_fits():
    hungry = small(model=partial(Hungry, 9), learner=CrossEntropy(), data=(IMAGES, torch.arange(50) % 3), batch_size=40)
    said = r"a step of 40 images needs more memory than there is on cpu, which asked for \d+ bytes more; the run holds"
    with pytest.raises(MemoryError, match=rf"{said} \d+ B of .*: batch_size=5 fits"):
        run(hungry)
    assert run(replace(hungry, batch_size=5)).step > 0
    with pytest.raises(MemoryError, match=f"{said} .*: not even one image fits"):
        run(replace(hungry, model=partial(Hungry, 0)))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB). Tried to allocate 2.00 GiB on private pool."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_so_is_memory_that_is_out_before_the_first_step(error, monkeypatch):
    def start(*_):
        raise error

    monkeypatch.setattr(CD, "start", start)
    asked = ", which asked for 2.00 GiB more" if "GiB" in str(error) else ""
    said = f"before its first step the run needs more memory than there is on cpu{asked}: make the model smaller"
    with pytest.raises(MemoryError, match=said):
        run(small())


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(ValueError, match="50 images for batches of 64: make batch_size smaller"):
        run(small(batch_size=64))
    assert run(small(batch_size=50)).step == 3


def test_momentum_for_an_optimizer_that_has_none_is_refused_and_not_dropped():
    with pytest.raises(ValueError, match="Adam takes no momentum"):
        run(small(optimizer=adam, momentum=0.9))
    assert run(small(optimizer=adam), steps=1).step == 1


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([0.0, 1.0], ValueError, r"images have shape \(2,\)"),
        ((IMAGES, torch.zeros(49, dtype=torch.int64)), ValueError, "50 images but 49 labels"),
        ((IMAGES * 16).to(torch.uint8), ValueError, "uint8 from 0 to 16"),
        ("mnits", ValueError, "did you mean 'mnist'"),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused(images, error, message):
    with pytest.raises(error, match=message):
        run(small(data=images))


def test_schedules_need_a_value_at_epoch_0():
    with pytest.raises(ValueError, match="say the value at epoch 0 too"):
        piecewise_constant({1: 0.5})


def test_schedules_have_their_value_at_every_fraction_of_an_epoch():
    stairs, line = piecewise_constant({0: 0.5, 5: 0.9, 10: 0.99}), linear_schedule(1.0, 0.0, 4)
    assert [stairs(epoch) for epoch in (0.0, 4.99, 5.0, 9.9, 10.0, 99.0)] == [0.5, 0.5, 0.9, 0.9, 0.99, 0.99]
    assert [line(epoch) for epoch in (0.0, 1.0, 3.0, 4.0, 9.0)] == [1.0, 0.75, 0.25, 0.0, 0.0]


# On a GPU


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("learner", [CD(), PCD(), CD(centred=True)])
def test_a_gpu_given_the_cpu_s_numbers_learns_what_the_cpu_learns(learner):
    there, here = (
        small(learner=learner).run(device="cuda", rng_device="cpu", progress=False),
        run(small(learner=learner)),
    )
    assert not there.model.W.is_cuda  # what comes back is on the CPU
    for name, value in here.model.state_dict().items():
        torch.testing.assert_close(there.model.state_dict()[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.cuda
@needs_cuda
def test_a_run_leaves_the_gpu_s_global_generator_as_it_was():
    before = torch.cuda.get_rng_state()
    run(small())
    small().run(device="cuda", progress=False)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_a_learner_that_was_not_made_is_refused(unchecked):
    with pytest.raises(TypeError, match=r"learner=CD is the class itself: give a learner, CD\(\)"):
        small(learner=CD)


@pytest.mark.parametrize(
    ("learner", "kind"), [(CD(), "RBM"), (PCD(), "RBM"), (UpDown(), "DBN"), (DictionaryLearning(), "SparseCoding")]
)
def test_a_learner_for_models_of_another_kind_is_refused(learner, kind, unchecked):
    with pytest.raises(TypeError, match=f"trains models of class {kind}, and model= makes a Linear"):
        run(small(model=lambda: nn.Linear(12, 3), learner=learner))
