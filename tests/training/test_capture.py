"""Passes recorded once and replayed, by a stand-in that does in Python what a CUDA graph does on a GPU."""

from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from splitting import same_bits
from torch import nn

from dlkit import Experiment
from dlkit.models import DBN, RBM, GaussianRBM
from dlkit.training import CD, PCD, Affine, CrossEntropy, Reconstruction, UpDown, capture, linear_schedule
from dlkit.training.trial import Trial

GENERATOR = torch.Generator().manual_seed(0)
ROWS, MAPS = torch.rand(50, 12, generator=GENERATOR), torch.rand(50, 28, 28, generator=GENERATOR)
LABELS = torch.arange(50) % 3


class Recorded:
    """Fills what it gave at first by doing all again; `frozen`: what a pass takes from Python is as it was then."""

    def __init__(self, frozen=()):
        self.frozen = frozen

    def record(self, call):
        self.call, self.given = call, call()
        self.parameters = [p for p in call.__self__.run.model.parameters() if p.requires_grad]
        self.gradients = [p.grad for p in self.parameters]
        self.values = [getattr(*one) for one in self.frozen]
        return self.given

    def replay(self):
        now = [getattr(*one) for one in self.frozen]
        for one, value in zip(self.frozen, self.values, strict=True):
            setattr(*one, value)
        anew = self.call()
        for one, value in zip(self.frozen, now, strict=True):
            setattr(*one, value)
        for name, value in self.given.items():
            value.copy_(anew[name])
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            if gradient is not None and parameter.grad is not None:
                gradient.copy_(parameter.grad)


def perceptron():
    return nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def convolution():
    return nn.Sequential(nn.Unflatten(1, (1, 28)), nn.Conv2d(1, 2, 5), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 3))


CASES = {
    "CD": (partial(RBM, 12, 6), ROWS, CD(k=2)),
    "CD, centred and sparse": (partial(RBM, 12, 6), ROWS, CD(centred=True, sparsity_target=0.1)),
    "CD, Gaussian": (partial(GaussianRBM, 12, 6), ROWS, CD()),
    "PCD": (partial(RBM, 12, 6), ROWS, PCD(chains=7)),
    "up-down": (partial(DBN.of, [12, 8, 6], labels=3, untied=True), (ROWS, LABELS), UpDown()),
    "backprop": (perceptron, (ROWS, LABELS), CrossEntropy()),
    "distorted": (convolution, (MAPS, LABELS), CrossEntropy(distortion=Affine())),
    "corrupted": (lambda: nn.Sequential(nn.Linear(12, 12), nn.Sigmoid()), ROWS, Reconstruction(corruption=0.2)),
}


def experiment(model, data, learner, **changes):
    return Experiment(
        model, data, learner, **{"batch_size": 8, "epochs": 3, "lr": linear_schedule(0.1, 0.01, 3)} | changes
    )


def run(one, **arguments):
    return one.run(progress=False, device="cpu", **arguments)


@pytest.fixture
def replays(monkeypatch):
    """Runs replay their passes; the list of these."""
    made = []

    def recorded(now):
        made.append(capture.CapturedPass(now, Recorded()))
        assert made[-1].agrees()
        now.model.zero_grad()
        return made[-1], ""

    monkeypatch.setattr("dlkit.training.prepared_run.captured", recorded)
    return made


@pytest.mark.parametrize("case", CASES)
def test_replayed_it_learns_the_same_to_the_bit_and_a_part_of_a_batch_at_the_end(case, replays, tmp_path):
    one = experiment(*CASES[case])
    passed = run(one, capture=False)
    assert not replays
    replayed = run(one)
    assert len(replays) == 1
    assert same_bits(replayed.model, passed.model)
    assert [row["loss"] for row in replayed.history.rows] == [row["loss"] for row in passed.history.rows]
    run(one, steps=9, checkpoint=tmp_path)
    assert same_bits(run(one, checkpoint=tmp_path, resume=True).model, passed.model)


def drops_more(now):
    if now.step == 7:
        now.model[3].p = 0.6


def freezes(now):
    if now.step == 7:
        now.model[0].weight.requires_grad_(False)


@pytest.mark.parametrize("callback", [drops_more, freezes])
def test_what_a_callback_changes_in_the_net_is_not_missed(callback, monkeypatch):
    def recorded(now):
        return capture.CapturedPass(now, Recorded(frozen=[(now.model[3], "p")])), ""

    monkeypatch.setattr("dlkit.training.prepared_run.captured", recorded)
    one = experiment(*CASES["backprop"])
    replayed, passed = (run(one, callbacks=[callback], capture=capture) for capture in (True, False))
    assert replayed.why_not_captured == "a callback has changed what a pass does"
    assert same_bits(replayed.model, passed.model)


def test_a_callback_that_only_looks_and_on_step_leave_the_bits(replays):
    one = experiment(*CASES["backprop"])
    passed = run(one, capture=False)
    looked = run(one, callbacks=[lambda now: {"norm": now.model[0].weight.detach().norm()}])
    stepped = run(one, on_step=lambda now: None)
    assert looked.why_not_captured == ""
    assert stepped.why_not_captured == "on_step may change what a pass does, after any step"
    assert same_bits(looked.model, passed.model)
    assert same_bits(stepped.model, passed.model)


class Counts(nn.Linear):
    calls = 0

    def forward(self, x):
        Counts.calls += 1
        return super().forward(x) * (1 + Counts.calls % 3)


class KeepsANewTensor(CrossEntropy):
    def fill_grad(self, model, batch, generator):
        self.state["mean"] = batch.images.mean(0)
        return super().fill_grad(model, batch, generator)


def started(model, learner, data=(ROWS, LABELS)):
    """A run before its first step."""
    seen = []
    run(experiment(model, data, learner), steps=1, capture=False, on_step=seen.append)
    return seen[0]


def test_a_number_that_python_gives_to_each_pass_is_found():
    with pytest.warns(UserWarning, match="depends on a clock, on a generator or a value of its own"):
        now = started(partial(Counts, 12, 3), CrossEntropy())
    assert not capture.CapturedPass(now, Recorded(frozen=[(Counts, "calls")])).agrees()


def test_state_that_is_kept_in_new_tensors_is_not_recorded():
    with pytest.raises(RuntimeError, match="keeps its state in new tensors"):
        capture.CapturedPass(started(partial(nn.Linear, 12, 3), KeepsANewTensor()), Recorded())


def test_a_run_is_left_as_it_was():
    now = started(partial(RBM, 12, 6), PCD())
    before = {name: value.clone() for name, value in (now.model.state_dict() | now.learner.state).items()}
    state = now.generator.get_state()
    assert capture.CapturedPass(now, Recorded()).agrees()
    assert torch.equal(now.generator.get_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in (now.model.state_dict() | now.learner.state).items())


def test_a_run_says_why_it_does_not_replay():
    assert started(perceptron, CrossEntropy()).why_not_captured == "capture=False"
    seen = []
    run(experiment(*CASES["CD"]), steps=1, on_step=seen.append)
    assert seen[0].why_not_captured == "only a GPU replays steps"


class Drawn(torch.Generator):
    """A generator of CUDA's, and what is asked of it."""

    state = None

    def __repr__(self):
        return str(id(self))

    def clone_state(self):
        return f"as {self} was"

    def graphsafe_set_state(self, state):
        self.state = state


@pytest.fixture
def cuda(monkeypatch):
    """torch.cuda, pretended: what happens, in order, and on which stream that is."""
    now = SimpleNamespace(log=[], stream="here", mode=0, own=Drawn(), shared=Drawn())

    class Stream:
        device_index = 0

        def __init__(self, name="beside"):
            self.name = name

        def wait_stream(self, other):
            now.log.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def on(stream):
        before, now.stream = now.stream, stream.name
        yield
        now.stream = before

    @contextmanager
    def graph(recorded):
        now.stream = "recording"
        now.log.append("record")
        yield
        now.stream = "here"  # torch leaves it as it is where this fails

    graphs = SimpleNamespace(register_generator_state=lambda generator: now.log.append(generator))
    replaced = {
        "CUDAGraph": lambda: graphs,
        "Stream": Stream,
        "current_stream": lambda: Stream("here"),
        "default_generators": (now.shared,),
        "get_sync_debug_mode": lambda: now.mode,
        "graph": graph,
        "set_stream": lambda stream: setattr(now, "stream", stream.name),
        "set_sync_debug_mode": lambda mode: setattr(now, "mode", mode),
        "stream": on,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return now


def test_a_pass_is_made_beside_before_it_is_recorded_and_once_so_that_it_may_not_wait(cuda):
    def call():
        cuda.log.append((cuda.stream, cuda.mode))
        return {"loss": torch.ones(())}

    assert list(capture.CUDAGraph(cuda.own).record(call)) == ["loss"]
    passes = [("beside", 0), ("beside", 0), ("beside", "error")]
    order = [cuda.own, "beside waits for here", *passes, "here waits for beside", "record", ("recording", 0)]
    assert cuda.log == order
    assert cuda.own.state is cuda.shared.state is None


def test_a_pass_for_which_the_host_waits_is_found_before_torch_records(cuda):
    def call():
        if cuda.mode == "error" or cuda.stream == "recording":
            raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
        capture.CUDAGraph(cuda.own).record(call)
    assert "record" not in cuda.log
    assert cuda.mode == 0


def test_a_recording_that_fails_leaves_stream_and_generators_as_they_were(cuda):
    """torch itself leaves the recording's stream the current one, and generators that refuse to draw."""

    def call():
        if cuda.stream == "recording":
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        capture.CUDAGraph(cuda.own).record(call)
    assert cuda.stream == "here"
    assert cuda.own.state == f"as {cuda.own} was"
    assert cuda.shared.state == f"as {cuda.shared} was"


def test_memory_that_is_out_in_the_trial_of_a_graph_is_left_for_the_first_step_to_tell(monkeypatch):
    """Which says what the run holds, and which batch would fit."""
    now = started(partial(RBM, 12, 6), CD(), ROWS)
    now.device, now.generator = torch.device("cuda", 0), SimpleNamespace(device=torch.device("cuda", 0))

    def out_of_memory(run):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 1 GiB")

    now.trial = Trial()  # beartype, which checks these tests, draws from Python's generator
    monkeypatch.setattr(capture, "_seconds", out_of_memory)
    assert capture.captured(now) == (None, "CUDA out of memory. Tried to allocate 2.00 GiB.")
