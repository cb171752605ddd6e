"""BatchNorm of parts of a batch on ranks: what it gives, passes back and keeps is what torch's does for the whole."""

import copy

import pytest
import torch
import torch.nn.functional as F
from oracles import seeded
from ranks import team
from torch import nn
from torch.utils.checkpoint import checkpoint

from dlkit.distributed.batch_norm import OverRanks, Part, batch_norms, shared_statistics
from dlkit.distributed.group import Group

COUNTS = [3, 5]
SHAPES = {nn.BatchNorm1d: (8, 3), nn.BatchNorm2d: (8, 3, 4, 5), nn.BatchNorm3d: (8, 3, 2, 3, 2)}


def layer(kind=nn.BatchNorm2d, dtype=torch.float64, **settings):
    made = kind(3, **settings).to(dtype)
    if made.affine:
        with torch.no_grad():
            made.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
            made.bias.copy_(torch.tensor([0.1, 0.2, -0.3]))
    return made


def images(shape, mean=0.0, std=1.0, dtype=torch.float64):
    return (mean + std * torch.randn(shape, generator=seeded(), dtype=torch.float64)).to(dtype)


def loss_of(output, slopes):
    return (output.sin() * slopes).sum()


def passed(norm, x, slopes, passes=1, call=None):
    """Output, gradients of x and of the parameters, and buffers, after passes each of which moves the averages."""
    x = x.clone().requires_grad_()
    for _ in range(passes):
        norm.zero_grad()
        x.grad = None
        output = (call or norm)(x)
        loss_of(output, slopes).backward()
    return output.detach(), x.grad, [p.grad for p in norm.parameters()], [b.clone() for b in norm.buffers()]


def split(norm, x, slopes, counts, passes=1, dim=0, recomputed=False):
    group = Group()
    start = sum(counts[: group.rank])
    x, slopes = (value.narrow(dim, start, counts[group.rank]) for value in (x, slopes))
    with shared_statistics(norm, OverRanks(group, [""]), Part()):
        call = (lambda x: checkpoint(norm, x, use_reentrant=False)) if recomputed else None
        return passed(norm, x, slopes, passes, call)


def agree(answers, whole, dim=0, **tolerance):
    tolerance = {"rtol": 1e-11, "atol": 1e-11} | tolerance
    for index in (0, 1):
        torch.testing.assert_close(torch.cat([answer[index] for answer in answers], dim), whole[index], **tolerance)
    for number, gradient in enumerate(whole[2]):
        torch.testing.assert_close(sum(answer[2][number] for answer in answers), gradient, **tolerance)
    for answer in answers:
        torch.testing.assert_close(answer[3], whole[3], **tolerance)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("kind", SHAPES)
def test_parts_of_a_batch_have_the_statistics_of_the_whole(kind, momentum):
    x, slopes = images(SHAPES[kind]), images(SHAPES[kind]).cos()
    norm = layer(kind, momentum=momentum)
    answers = team(2).call(split, norm, x, slopes, COUNTS, 3)
    agree(answers, passed(copy.deepcopy(norm), x, slopes, 3))


@pytest.mark.parametrize("settings", [{"affine": False}, {"track_running_stats": False}], ids=str)
def test_without_weights_and_without_averages(settings):
    x, slopes = images((8, 3, 4, 5)), images((8, 3, 4, 5)).cos()
    for training in (True, settings.get("track_running_stats", True)):
        norm = layer(**settings).train(training)
        agree(team(2).call(split, norm, x, slopes, COUNTS), passed(copy.deepcopy(norm), x, slopes))


@pytest.mark.parametrize("counts", [[2, 3], [5, 0]])
def test_ranks_may_have_rows_of_maps_or_none_of_them(counts):
    x, slopes = images((4, 3, 5, 4)), images((4, 3, 5, 4)).cos()
    norm = layer()
    answers = team(2).call(split, norm, x, slopes, counts, dim=2)
    agree(answers, passed(copy.deepcopy(norm), x, slopes), dim=2)


def test_what_a_checkpoint_computes_again_moves_the_averages_again_as_torch_s_does():
    x, slopes = images((8, 3, 4, 5)), images((8, 3, 4, 5)).cos()
    norm, alone = layer(), layer()
    answers = team(2).call(split, norm, x, slopes, COUNTS, recomputed=True)
    agree(answers, passed(alone, x, slopes, call=lambda x: checkpoint(alone, x, use_reentrant=False)))
    assert alone.num_batches_tracked == 2


def test_a_large_mean_and_a_small_spread_lose_no_more_than_torch_alone():
    x = images((64, 3), mean=100.0, std=0.01, dtype=torch.float32)
    exact = F.batch_norm(x.double(), None, None, training=True)
    norm = layer(nn.BatchNorm1d, torch.float32, affine=False)
    alone = passed(copy.deepcopy(norm), x, x)[0]
    found = torch.cat([answer[0] for answer in team(2).call(split, norm, x, x, [24, 40])])
    assert (found - exact).norm() <= (alone - exact).norm()
    assert (found - exact).norm() <= 1e-4 * exact.norm()


def test_an_image_that_does_not_count_is_normalised_and_changes_nothing():
    def with_stand_in(norm, x, slopes):
        group = Group()
        part = Part(counts=group.rank == 0)
        own, slopes = (x, slopes) if part.counts else (x[:1] + 7, 0 * slopes[:1])
        with shared_statistics(norm, OverRanks(group, [""]), part):
            return passed(norm, own, slopes)

    x, slopes = images((8, 3)), images((8, 3)).cos()
    norm = layer(nn.BatchNorm1d)
    first, second = team(2).call(with_stand_in, norm, x, slopes)
    whole = passed(copy.deepcopy(norm), x, slopes)
    agree([first], (*whole[:2], [], whole[3]))
    assert not second[1].any()
    assert not any(gradient.any() for gradient in second[2])


def test_weights_that_come_after_the_backward_pass_are_told():
    def weighted_after(norm, x, slopes):
        group = Group()
        start, count = sum(COUNTS[: group.rank]), COUNTS[group.rank]
        with shared_statistics(norm, OverRanks(group, [""]), Part(weight=count / 8)):
            output, grad, gradients, buffers = passed(
                norm, x[start : start + count], 8 / count * slopes[start : start + count]
            )
        return output, count / 8 * grad, [count / 8 * gradient for gradient in gradients], buffers

    x, slopes = images((8, 3, 4, 5)), images((8, 3, 4, 5)).cos()
    norm = layer()
    agree(team(2).call(weighted_after, norm, x, slopes), passed(copy.deepcopy(norm), x, slopes))


class Scaled(nn.BatchNorm1d):
    def forward(self, x):
        return 2 * super().forward(x.flatten(1))


def test_a_layer_of_a_class_of_one_s_own_is_shared_too():
    x, slopes = images((8, 3)), images((8, 3)).cos()
    norm = layer(Scaled)
    agree(team(2).call(split, norm, x, slopes, COUNTS), passed(copy.deepcopy(norm), x, slopes))


def test_half_precision_is_normalised_in_float32():
    x = images((8, 3, 4, 5), dtype=torch.bfloat16)
    norm = layer(dtype=torch.float32)
    answers = team(2).call(split, norm, x, torch.ones_like(x), COUNTS)
    agree(answers, passed(copy.deepcopy(norm), x, torch.ones_like(x)), rtol=0.02, atol=0.02)


def test_the_model_is_left_as_it_was_and_copies_do_not_exchange():
    def inside():
        net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        names = list(net.state_dict())
        x = torch.randn(4, 4, generator=seeded(Group().rank))
        with shared_statistics(net, OverRanks(Group(), ["1"]), Part()):
            copied = copy.deepcopy(net)
            alone = copied(x) if Group().rank == 0 else None
            shared = net(x)
        assert list(net.state_dict()) == names
        assert "forward" not in net[1].__dict__
        assert alone is None or not torch.equal(alone, shared)
        return alone is None or torch.equal(alone, net(x))

    assert all(team(2).call(inside))


def test_layers_that_are_not_training_are_none_of_these():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False), nn.GroupNorm(1, 3)).eval()
    assert list(batch_norms(net)) == ["1"]
    assert list(batch_norms(net.train())) == ["0", "1"]


def test_a_gradient_of_a_gradient_is_refused():
    def penalised(norm, x):
        x = x.clone().requires_grad_()
        with shared_statistics(norm, OverRanks(Group(), [""]), Part()):
            torch.autograd.grad(norm(x).square().sum(), x, create_graph=True)

    with pytest.raises(ValueError, match=r"a BatchNorm whose batch is split, gives no gradient of a gradient: use"):
        team(2).call(penalised, layer(nn.BatchNorm1d), images((4, 3)))


def test_ranks_at_other_layers_are_told():
    def crossed():
        net = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
        with shared_statistics(net, OverRanks(Group(), ["0", "1"]), Part()):
            net[Group().rank](torch.randn(4, 3))

    with pytest.raises(RuntimeError, match="ranks exchange the statistics of 0 and of 1 at one time: let all images"):
        team(2).call(crossed)


def test_one_exchange_forward_and_one_backward_are_recorded():
    def sent(norm, x):
        group = Group()
        with shared_statistics(norm, OverRanks(group, [""]), Part()):
            passed(norm, x[4 * group.rank :][:4], torch.ones_like(x[:4]))
        return [(span.name, span.bytes_sent) for span in group.recorder.spans]

    for spans in team(2).call(sent, layer(), images((8, 3, 4, 5))):
        assert spans == [("all-gather", 8 * (2 + 2 * 3)), ("all-reduce", 8 * 2 * 3)]
