"""What a net draws by torch itself for parts of a batch, laid side by side, is what it draws for all of it."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from dlkit.core.draw_plan import count_draws, plan_draws
from dlkit.core.draws import ShardedDraws
from dlkit.core.global_generators import seeded, torch_state


class Net(nn.Module):
    """`function(x * w, *modules)`."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.function(x * self.w, *self.parts)


def images(*shape):
    return torch.randn(8, *shape, generator=torch.Generator().manual_seed(3))


def module(layer, *shape):
    return Net(lambda x, layer: layer(x), layer), images(*shape)


def function(call, *shape):
    return Net(call), images(*shape)


def recomputed(use_reentrant):
    """Dropout before and in a part that the backward pass computes again, with a draw for no image in particular."""

    def inner(x, linear):
        return F.dropout(linear(x), 0.3) * torch.rand(1, 1)

    return Net(
        lambda x, linear: checkpoint(inner, F.dropout(x, 0.3), linear, use_reentrant=use_reentrant), nn.Linear(5, 5)
    ), images(5)


def attention(**options):
    layer = nn.MultiheadAttention(8, 2, dropout=0.3, batch_first=True)
    return Net(lambda x, layer: layer(x, x, x, **options)[0], layer), images(6, 8)


CASES = {
    "Dropout": lambda: module(nn.Dropout(0.3), 5),
    "Dropout, in place": lambda: function(lambda x: F.dropout(x, 0.3, inplace=True), 5),
    "Dropout, channels last": lambda: (
        Net(lambda x: F.dropout(x, 0.3)),
        images(4, 3, 3).contiguous(memory_format=torch.channels_last),
    ),
    "Dropout1d": lambda: module(nn.Dropout1d(0.3), 5, 3),
    "Dropout2d": lambda: module(nn.Dropout2d(0.3), 4, 3, 3),
    "Dropout3d": lambda: module(nn.Dropout3d(0.3), 5, 3, 2, 2),
    "AlphaDropout": lambda: module(nn.AlphaDropout(0.3), 5),
    "FeatureAlphaDropout": lambda: module(nn.FeatureAlphaDropout(0.3), 4, 3, 3),
    "native_dropout": lambda: function(lambda x: torch.native_dropout(x, 0.3, True)[0], 5),
    "RReLU": lambda: module(nn.RReLU(), 5),
    "RReLU, in place": lambda: function(lambda x: F.rrelu(x + 0, training=True, inplace=True), 5),
    "FractionalMaxPool2d": lambda: module(nn.FractionalMaxPool2d(2, output_ratio=0.6), 4, 9, 9),
    "MultiheadAttention": attention,
    "MultiheadAttention without weights": lambda: attention(need_weights=False),
    "scaled dot products": lambda: function(lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.3), 2, 6, 4),
    "LSTM": lambda: (
        Net(lambda x, lstm: lstm(x)[0], nn.LSTM(8, 8, 2, dropout=0.3, batch_first=True)),
        images(8, 8),
    ),
    "GRU": lambda: (Net(lambda x, gru: gru(x)[0], nn.GRU(8, 8, 2, dropout=0.3, batch_first=True)), images(8, 8)),
    "TransformerEncoderLayer": lambda: module(
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True), 6, 8
    ),
    "randn_like": lambda: function(lambda x: x + torch.randn_like(x), 5),
    "rand for each image": lambda: function(lambda x: x * torch.rand(len(x), 1), 5),
    "one number for all": lambda: function(lambda x: x * torch.rand(1), 5),
    "randint": lambda: function(lambda x: x * torch.randint(0, 3, (len(x), 1)), 5),
    "uniform_": lambda: function(lambda x: x * x.new_empty(x.shape).uniform_(), 5),
    "of float64": lambda: function(lambda x: x * torch.empty(x.shape, dtype=torch.float64).bernoulli_(0.3), 5),
    "gumbel_softmax": lambda: function(F.gumbel_softmax, 5),
    "Normal": lambda: function(lambda x: torch.distributions.Normal(x, x.exp()).rsample(), 5),
    "normal of means and spreads": lambda: function(lambda x: x * torch.normal(x.detach(), x.detach().exp()), 5),
    "bernoulli of probabilities": lambda: function(lambda x: x * torch.bernoulli(x.detach().sigmoid()), 5),
    "multinomial": lambda: function(lambda x: x * torch.multinomial(x.detach().softmax(1), 1), 5),
    "randperm of the pixels": lambda: function(lambda x: x[:, torch.randperm(5)] ** 2 * x, 5),
    "one layer twice": lambda: (Net(lambda x, layer: layer(x) + layer(x), nn.Dropout(0.3)), images(5)),
    "checkpoint": lambda: recomputed(use_reentrant=False),
    "checkpoint, reentrant": lambda: recomputed(use_reentrant=True),
}


def run_pass(net, x, draws=None, part=None):
    """The net's outputs, and the gradients of its parameters."""
    net = copy.deepcopy(net)
    with seeded(7, names=("torch",)), nullcontext() if draws is None else draws.part_of(*part):
        outputs = net(x.clone())
        outputs.square().sum().backward()
    return outputs.detach(), {name: parameter.grad for name, parameter in net.named_parameters()}


def plan_of(net, x):
    def call(count):
        run_pass(net, x[:count])

    return plan_draws(call)


@pytest.mark.parametrize("name", CASES)
def test_parts_draw_what_the_whole_draws(name):
    net, x = CASES[name]()
    plan = plan_of(net, x)
    alone = (ShardedDraws(plan), (0, 8, 8)) if plan.depends_on_values else ()
    outputs, gradients = run_pass(net, x, *alone)
    parts = [
        run_pass(net, x[begin:end], ShardedDraws(plan), (begin, end - begin, 8)) for begin, end in ((0, 3), (3, 8))
    ]
    torch.testing.assert_close(torch.cat([part for part, _ in parts]), outputs)
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(sum(part[parameter] for _, part in parts), gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(("checkpoint", "randperm"))])
def test_draws_can_be_skipped(name):
    net, x = CASES[name]()
    plan = plan_of(net, x)
    with seeded(1):
        with ShardedDraws(plan).part_of(0, 8, 8):
            net(x.clone())
        state = torch_state()
    with seeded(1):
        for number in range(len(plan.draws)):
            plan.make(number, 8)
        assert torch_state() == state


def test_a_part_of_the_units_has_their_draws():
    """As where a rank has some of a layer's units: `locate` says which."""
    net, x = module(nn.Dropout(0.4), 6)
    plan = plan_of(net, x)
    whole, _ = run_pass(net, x)
    mine, _ = run_pass(net, x[:, 4:], ShardedDraws(plan, lambda shape: ([8, 4], [16, 6])), (0, 8, 8))
    assert torch.equal(mine, whole[:, 4:])
    with pytest.raises(RuntimeError, match="do not make up the whole net's"):
        run_pass(net, x[:, 4:], ShardedDraws(plan, lambda shape: ([8, 4], [16, 5])), (0, 8, 8))


def test_where_all_draws_are_those_of_layers_only_these_are_watched():
    """With the same numbers as where all functions are."""
    net, x = module(nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.3), nn.Dropout1d(0.4)), 5)

    def run_on_copy(count):
        copied = copy.deepcopy(net)
        copied(x[:count])
        return copied

    plan = plan_draws(run_on_copy)
    assert plan.modules == ["parts.0.1", "parts.0.2"]
    found = []
    for model in (None, net):
        with seeded(7), ShardedDraws(plan, model=model).part_of(2, 6, 8):
            found.append(net(x[2:]))
    assert torch.equal(*found)
    assert all("forward" not in vars(part) for part in net.modules())


def test_draws_in_a_forward_of_one_s_own_are_not_those_of_layers():
    net, x = function(lambda x: F.dropout(x, 0.3), 5)
    assert plan_draws(lambda count: (net(x[:count]), None)[1]).modules is None
    shared = nn.Dropout(0.3)
    twice = nn.Sequential(shared, nn.Linear(5, 5), shared)
    assert plan_draws(lambda count: (twice(x[:count]), twice)[1]).modules is None


def test_a_generator_of_one_s_own_is_left_alone():
    own = torch.Generator()
    assert count_draws(lambda: torch.rand(3, generator=own)) == 0
    assert count_draws(lambda: torch.rand(3)) == 1


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda x: x * torch.poisson(x.detach().exp()), r"what Net draws by aten.poisson cannot be drawn for a part"),
        (lambda x: x * torch.rand(len(x) + 1).sum(), r"no one dimension counts images in what Net draws"),
        (lambda x: x * sum(torch.rand(1) for _ in x), r"another number of times for another number of images"),
    ],
)
def test_what_cannot_be_drawn_in_parts_is_named(call, why):
    net, x = function(call, 5)
    with pytest.raises(ValueError, match=why):
        plan_of(net, x)


def test_a_pass_that_draws_otherwise_than_the_trial_fails_loudly():
    net, x = function(lambda x: F.dropout(x, 0.3) if len(x) > 4 else x + torch.rand_like(x), 5)
    plan = plan_of(net, x)
    net.function = lambda x: F.dropout(x, 0.3)
    plan.functions.add(F.dropout)
    with pytest.raises(RuntimeError, match="draws otherwise than in a trial"):
        run_pass(net, x, ShardedDraws(plan), (0, 8, 8))
