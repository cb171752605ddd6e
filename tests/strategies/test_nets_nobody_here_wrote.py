"""One net of a kind, by each way of splitting it: equal to one process, or refused where there is no answer.

`benchmarks/any_net.py` measures all of them.
"""

import math
from dataclasses import dataclass

import net_ways
import nets
import pytest
import torch
from net_ways import WAYS, Way, may_refuse, measure
from nets import BATCH_NORM, DRAWS, NETS, SPECTRAL_NORM
from ranks import team
from torch import nn
from vision import HAS_TORCHVISION

from dlkit.strategies import DataParallel
from dlkit.strategies.data.data_parallel import DataParallelShard

KINDS = [  # of skips, concatenation, up-sampling, attention, recurrence, draws, several outputs
    "vision transformer", "densenet", "U-Net", "LSTM", "MLP-Mixer", "VAE",
    "convolutional autoencoder", "weight and spectral norm", "TransformerEncoder", "two inputs", "ResNet, GroupNorm",
    "CNN, BatchNorm and Dropout", "MLP, a layer unused",
]  # fmt: skip
CELLS = [(net, way) for net in KINDS for way in WAYS if WAYS[way].only(net)]
# Without convolutions that Linear layers follow there is no trick; it counts against us in the table all the same.
NO_TRICK = {"convolutional autoencoder", "VAE", "TransformerEncoder", "MLP, a layer unused"}


@pytest.mark.parametrize(("net", "way"), CELLS, ids=[f"{net} by {way}" for net, way in CELLS])
def test_a_split_net_learns_what_it_learns_alone(net, way):
    if NETS[net].torchvision and not HAS_TORCHVISION:
        pytest.skip("torchvision is missing")
    cell = measure(net, way)
    allowed = may_refuse(net, way) or (way == "weird trick" and net in NO_TRICK)
    assert cell.state == "equal" or (cell.state == "refused" and allowed), cell


def test_nets_are_what_their_traits_say():
    for name, net in NETS.items():
        if net.torchvision and not HAS_TORCHVISION:
            continue
        made = nets.make(name)
        kinds = {type(module) for module in made.modules()}
        assert (BATCH_NORM in net.traits) == any(issubclass(kind, nn.modules.batchnorm._BatchNorm) for kind in kinds)
        assert (SPECTRAL_NORM in net.traits) == any("SpectralNorm" in kind.__name__ for kind in kinds)
        assert (DRAWS in net.traits) == draws(made, torch.zeros(4, *net.image)), name
        assert not any(isinstance(module, nn.BatchNorm2d) for module in nets.with_group_norm(made).modules())


def draws(net, images):
    """Does a pass move torch's generator?"""
    before = torch.get_rng_state()
    with torch.no_grad():
        net.train()(images)
    return not torch.equal(before, torch.get_rng_state())


# The measure itself.


@dataclass(frozen=True)
class Off(DataParallel):
    """DataParallel whose gradients are off by a part in 10⁹, or as little from the second step on."""

    later: bool = False

    def shard(self, run):
        return OffShard(run, self)


class OffShard(DataParallelShard):
    def reduce_grad(self, batch, generator):
        metrics = super().reduce_grad(batch, generator)
        for parameter in self.parameters:
            if parameter.grad is not None and (self.began or not self.strategy.later):
                parameter.grad *= 1 + (1e-4 if self.strategy.later else 1e-9)
        self.began = True
        return metrics

    began = False


def refusing(error):
    """A strategy's maker that raises this."""

    def make():
        raise error

    return make


NET = "MLP, a layer unused"


@pytest.mark.parametrize(
    ("strategy", "state"),
    [
        (Off, "wrong"),
        (lambda: Off(later=True), "wrong"),
        (lambda: DataParallel("no such way"), "refused"),
        (lambda: DataParallel(no_such="argument"), "failed"),
        (refusing(ValueError("in a test's words")), "failed"),
    ],
)
def test_the_measure_tells_wrong_refused_and_failed_apart(monkeypatch, strategy, state):
    monkeypatch.setitem(WAYS, "tried", Way(strategy, "data"))
    cell = measure(NET, "tried")
    assert cell.state == state
    assert (cell.gradient is None) == (state != "wrong")


def test_ranks_that_give_no_answer_have_failed(monkeypatch):
    monkeypatch.setattr(net_ways, "SECONDS", 1.0)
    monkeypatch.setitem(WAYS, "tried", Way(asleep, "data"))
    team(2)
    cell = measure(NET, "tried")
    assert (cell.state, cell.sentence) == ("failed", "the ranks had ended, or gave no answer in 1 seconds")


def asleep():
    import time

    time.sleep(60)


def test_a_difference_is_of_all_numbers_and_of_all_names():
    state = {"w": torch.tensor([3.0, 4.0]), "steps": torch.tensor(3)}
    assert net_ways.difference(state, state) == 0
    assert net_ways.difference(state, state | {"w": torch.tensor([3.0, 4.5])}) == pytest.approx(0.1)
    for other in ({"w": state["w"]}, state | {"steps": torch.tensor(4)}, state | {"w": state["w"] * math.nan}):
        assert net_ways.difference(state, other) == math.inf
