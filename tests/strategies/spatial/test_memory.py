"""Memory on paper, against what ranks hold, keep for the backward pass and send."""

import pytest
import torch
from oracles import seeded
from ranks import team
from rows import split_by_rows
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from dlkit.models import LocallyConnected2d, RICAStack, RICAStage
from dlkit.strategies.spatial.memory import memory_on_paper


def rica():
    first = RICAStage(1, 4, 3, (14, 13), generator=None)
    return RICAStack([first, RICAStage(4, 3, 2, first.output[1:], pool=(2, 1), contrast=3)])


def mixed():
    return nn.Sequential(
        *(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), LocallyConnected2d(3, 2, 3, (14, 13)), nn.Tanh(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(60, 5)),
    )


def frozen():
    net = mixed()
    net[0].requires_grad_(False)
    return net


NETS = {"RICA": rica, "mixed": mixed, "frozen in part": frozen}


def used(name, grid):
    """Bytes of parameters, of what a forward pass saves beside them and the images, and of what is sent."""
    torch.manual_seed(0)
    net = NETS[name]()
    images = torch.rand(5, 1, 14, 13, generator=seeded())
    shard = split_by_rows(net, images, grid=grid)
    seen = {tensor.untyped_storage().data_ptr() for tensor in (*net.parameters(), images)}
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    before = shard.group.recorder.bytes_sent
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = net(images)
    output.square().sum().backward()
    shard.reduce_gradients()
    parameters = [(p.nbytes, p.nbytes * p.requires_grad) for p in net.parameters()]
    return (
        [sum(each) for each in zip(*parameters, strict=True)],
        sum(saved.values()),
        shard.group.recorder.bytes_sent - before,
    )


@pytest.mark.parametrize("grid", [(2, 1), (2, 2)], ids=lambda grid: f"{grid[0]}x{grid[1]}")
@pytest.mark.parametrize("name", NETS)
def test_it_is_what_ranks_hold_keep_and_send(name, grid):
    paper = memory_on_paper(NETS[name], (1, 14, 13), 5, grid)
    for found, (held, saved, sent) in zip(paper, team(len(paper)).call(used, name, grid), strict=True):
        assert [found.parameters, found.gradients] == held
        assert found.kept - 5 * 14 * 13 * 4 == pytest.approx(saved, rel=0.02)  # numbers by which a mean is divided
        assert found.sent == pytest.approx(sent, abs=8)
        assert found.total == sum(held) + found.kept


def test_a_net_that_no_machine_holds_is_not_allocated():
    def net():
        return RICAStage(3, 36, 60, (500, 500), contrast=None)

    memory = memory_on_paper(net, (3, 500, 500), 2, (8, 8), [0])[0]
    assert 64 * memory.parameters > 300e9


def test_a_grid_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="images of 14x13 over a grid of 16 x 1 leave a rank nothing: take"):
        memory_on_paper(rica, (1, 14, 13), 5, (16, 1))
