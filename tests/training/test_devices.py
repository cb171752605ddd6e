"""Apple's GPU is used where it can train an experiment, and refused or left with the reason where it cannot."""

from functools import partial

import pytest
import torch

from dlkit import Experiment
from dlkit.models import RBM
from dlkit.training import CD
from dlkit.training.devices import default_device, device_of

REFUSED = r'device="mps" cannot train this experiment \(.*\): leave device out, or device="cpu"'
SMALL = Experiment(partial(RBM, 6, 3), torch.rand(20, 6), CD(), batch_size=10, epochs=1)
EXACT = Experiment(partial(RBM, 6, 3), torch.rand(20, 6), CD(), batch_size=10, epochs=1, dtype=torch.float64)


@pytest.fixture
def apple(monkeypatch):
    """A machine with Apple's GPU, by what torch says; its tensors cannot be made here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "_get_default_mps_generator", torch.Generator)


def fails(kind, text):
    def step(device):
        if device.type == "mps":
            raise kind(text)

    return step


MISSING = fails(
    NotImplementedError, "The operator 'aten::_linalg_eigvals' is not currently implemented. If you want it"
)


def test_it_is_found_and_used_where_a_step_can_be_taken(apple):
    assert default_device() == "mps"
    assert device_of(SMALL, None, "mps", str) == torch.device("mps")
    assert device_of(SMALL, "mps", "mps", str) == torch.device("mps")


@pytest.mark.parametrize(
    ("experiment", "step", "why"),
    [
        (SMALL, MISSING, "The operator 'aten::_linalg_eigvals' is not currently implemented"),
        (
            SMALL,
            fails(TypeError, "Cannot convert a MPS Tensor to float64 dtype"),
            "Cannot convert a MPS Tensor to float64",
        ),
        (EXACT, str, "it has no float64"),
    ],
)
def test_where_it_cannot_the_cpu_trains_and_it_is_said_or_refused_if_it_was_asked_for(
    experiment, step, why, apple, capsys
):
    assert device_of(experiment, None, "mps", step) == torch.device("cpu")
    assert capsys.readouterr().out.startswith(
        f"Training on the CPU, for Apple's GPU cannot train this experiment: {why}"
    )
    with pytest.raises(ValueError, match=REFUSED):
        device_of(experiment, "mps", "mps", step)


def test_the_step_is_tried_and_the_mends_train(apple, capsys):
    """torch here cannot make a tensor there, which is the reason that is given."""
    with pytest.raises(ValueError, match='device="mps" cannot train this experiment'):
        SMALL.run(device="mps", progress=False)
    assert SMALL.run(device="cpu", progress=False).step == 2
    assert SMALL.run(progress=False).step == 2
    assert "Training on the CPU" in capsys.readouterr().out


def test_without_one_it_is_named():
    with pytest.raises(ValueError, match=r'device="mps" cannot train .*\(torch finds no such GPU\): leave device out'):
        SMALL.run(device="mps", progress=False)
