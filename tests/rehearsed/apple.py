"""On Apple's GPU, pretended: what is trained there, and what is refused, with the reason; see pretended_mps.py.

`CASES` are those of Apple's alone. Of the other packages' cases those are rehearsed again that can differ there, by
what is made in float64 for accuracy, what draws, sums or decomposes: `can_differ`. `CANNOT` names those that cannot
be there, with the reason.
"""

import contextlib
import io
import re
from functools import partial

import pytest
import rehearsal
import torch
from rehearsal import once
from rehearsed import examples
from rehearsed.examples import labels, rbm, rows
from rehearsed.training import experiment_of
from torch import nn

from dlkit.strategies import DataParallel
from dlkit.training import CD, CrossEntropy, DictionaryLearning
from dlkit.training.lost_values import distances

count = 24
IMAGES = (torch.rand(count, 1, 8, 8, generator=examples.seeded()), labels(count))
DOUBLE = "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"
CANNOT = {  # cases of packages, by package and name: what torch, or the kit, says
    ("core", "uniform: float64"): DOUBLE,  # the reader's own float64 tensors
    ("analysis", "exact: distances"): DOUBLE,  # of the reader's own distributions, in float64
    ("training", "Experiment: float64"): "it has no float64",
}


def can_differ(package: str, name: str) -> bool:
    """All but most learners' options: those are rehearsed again for the smallest model."""
    return package != "training" or "=" not in name or name.startswith(("CD: RBM ", "Reconstruction: Autoassociator "))


class Doubles(nn.Module):
    def forward(self, x):
        return (x.double() * 2).float()


class Spectral(nn.Module):
    def forward(self, x):
        return x / torch.linalg.eigvals(x.T @ x).abs().max()


class Attention(nn.MultiheadAttention):
    def __init__(self):
        super().__init__(8, 2, batch_first=True)

    def forward(self, x):
        return super().forward(x, x, x)[0]


def net_of(*layers, features=16):
    def make():
        torch.manual_seed(0)
        return nn.Sequential(*(layer() for layer in layers), nn.Flatten(), nn.Linear(features, 3))

    return make


def of_net(*layers, features=16, **arguments):
    return experiment_of(net_of(*layers, features=features), IMAGES, CrossEntropy(), **arguments)


def missing(operation):
    return f"The operator 'aten::{operation}' is not currently implemented for the MPS device"


POOL = "Adaptive pool MPS: input sizes must be divisible by output sizes"
FLAT = (nn.Flatten,)
REFUSED = {  # experiments that Apple's GPU cannot train, and the reason that is given
    "float64": (experiment_of(rbm, rows(count), CD(), dtype=torch.float64), "it has no float64"),
    "a net that computes in float64": (of_net(Doubles, features=64), DOUBLE),
    "eigenvalues": (of_net(*FLAT, Spectral, features=64), missing("linalg_eig")),
    "pools of unequal windows": (of_net(partial(nn.AdaptiveAvgPool2d, 3), features=9), POOL),
    "fractional pools": (
        of_net(partial(nn.FractionalMaxPool2d, 2, output_size=4)),
        missing("fractional_max_pool2d"),
    ),
    "random slopes": (of_net(nn.RReLU, features=64), missing("rrelu_with_noise")),
    "an optimizer": (
        of_net(features=64, momentum=None, optimizer=partial(torch.optim.Adagrad, fused=True)),
        missing("_fused_adagrad_"),
    ),
}
LAYERS = (partial(nn.Conv2d, 1, 4, 3), partial(nn.BatchNorm2d, 4), nn.GELU, partial(nn.MaxPool2d, 2))
TRAINED = {
    "an RBM": experiment_of(rbm, rows(count), CD()),
    "sparse coding": experiment_of(examples.coding, rows(count), DictionaryLearning()),
    "layers of a reader's": of_net(*LAYERS, partial(nn.AdaptiveAvgPool2d, 3), nn.Dropout, features=36),
    "a reader's attention": of_net(partial(nn.Flatten, 1, 2), Attention, features=64),
}


def trains(experiment, device=None):
    """Where the weights are during the run, what is printed, and the model that comes back."""
    where, printed = set(), io.StringIO()
    look = [lambda run: where.update(p.device.type for p in run.model.parameters())]
    with contextlib.redirect_stdout(printed):
        run = experiment.run(device=device, rng_device="cpu", progress=False, callbacks=look)
    return where, printed.getvalue(), run.model.state_dict()


def by_default(experiment, why=""):
    """With no device named, Apple's GPU trains it where it can, else the CPU, which is said, with the CPU's numbers."""

    def case():
        _, _, expected = trains(experiment, "cpu")
        where, printed, found = trains(experiment)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert where == {"cpu" if why else rehearsal.DEVICE}
        said = f"Training on the CPU, for Apple's GPU cannot train this experiment: {why}.\n"
        assert printed == (said if why else "")

    return once(case)


def refused(experiment, why):
    """Where it is named, nothing is learnt, and one sentence says why, and what to do."""

    def case():
        steps = []
        told = f'device="{rehearsal.DEVICE}" cannot train this experiment ({why}): leave device out, or device="cpu".'
        with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
            experiment.run(device=rehearsal.DEVICE, on_step=steps.append, progress=False)
        assert steps == []

    return once(case)


@once
def wrong_everywhere():
    """What the CPU cannot train either is told as the CPU tells it, and not laid to Apple's GPU."""
    told = []
    for device in ("cpu", rehearsal.DEVICE, None):
        with pytest.raises(ValueError, match="the net does not take images of shape") as error:
            of_net(nn.ReLU, features=63).run(device=device, progress=False)
        told.append(str(error.value))
    assert told == told[:1] * 3


@once
def lacking():
    """The pretended device itself: what torch would raise there, and what it lets pass."""
    x = torch.ones(2, 2, device=rehearsal.DEVICE)
    assert x.cpu().double().to(x).dtype == torch.float32
    for call in (
        x.double,
        lambda: x.to("cpu", torch.float64),
        lambda: torch.zeros(2, dtype=torch.float64).copy_(x[0]),
        lambda: torch.zeros(2, dtype=torch.float64).to(x.device),
        lambda: x.sum(dtype=torch.float64),
        lambda: torch.zeros(2, dtype=torch.float64, device=x.device),
    ):
        with pytest.raises(TypeError, match=DOUBLE):
            call()
    with pytest.raises(NotImplementedError, match=f"{missing('linalg_eig')}.*PYTORCH_ENABLE_MPS_FALLBACK=1"):
        torch.linalg.eig(x)


class Hungry(nn.Linear):
    """Finds no room on Apple's GPU for more than three images, in torch's words."""

    def __init__(self):
        super().__init__(12, 3)

    def forward(self, x):
        if len(x) > 3 and self.training and x.device.type == rehearsal.DEVICE:
            sizes = "MPS allocated: 8.00 GB, other allocations: 1.00 GB, max allowed: 9.07 GB"
            raise RuntimeError(f"MPS backend out of memory ({sizes}). Tried to allocate 2.00 GB on private pool.")
        return super().forward(x)


@once
def out_of_memory():
    """It is told as elsewhere, with a batch that fits; `told_out_of_memory`."""
    experiment = experiment_of(Hungry, (rows(count), labels(count)), CrossEntropy())
    said = f"a step of 6 images needs more memory than there is on {rehearsal.DEVICE}, which asked for 2.00 GB more"
    with pytest.raises(MemoryError, match=f"{said}.*: batch_size=3 fits"):
        experiment.run(progress=False)


@once
def of_ranks():
    """A strategy's run is on the CPU unless a device is named; and Apple's is refused, before ranks are asked for."""
    experiment = experiment_of(rbm, rows(count), CD())
    with pytest.raises(ValueError, match="what ranks learn is compared in float64, which it has not"):
        experiment.run(strategy=DataParallel(), device=rehearsal.DEVICE, progress=False)


@once
def lost_there():
    """How far a run that goes on is off, by weights that are there."""
    one, other = (torch.tensor([1.0, value], device=rehearsal.DEVICE) for value in (2.0, 2.5))
    assert distances({"W": one, "b": one}, {"W": other, "b": one}) == {"W": 0.5}


CASES = {
    "by default": {name: by_default(experiment) for name, experiment in TRAINED.items()}
    | {name: by_default(*refusal) for name, refusal in REFUSED.items()},
    "refused": {name: refused(*refusal) for name, refusal in REFUSED.items()},
    "what it lacks": lacking,
    "wrong everywhere": wrong_everywhere,
    "out of memory": out_of_memory,
    "a strategy": of_ranks,
    "distances of checkpoints": lost_there,
}
