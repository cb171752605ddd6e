"""A net as a graph: what is recorded, what is refused, and that the graph does what the net does, to the bit."""

import copy
import random
import threading

import pytest
import torch
import torch.nn.functional as F
from oracles import Doubled
from torch import nn
from torch.utils.checkpoint import checkpoint

from dlkit.models import ConvNet, LeNet5, LocalNet
from dlkit.models.graph import ByMode, ImageRows
from dlkit.models.graph_check import graph_of
from dlkit.models.joined_traces import trace
from dlkit.models.program import GraphForward
from dlkit.models.tracing import MODULE_CALL, MODULE_GETATTR


class Net(nn.Module):
    """A Linear layer, and a forward that each test's own class has."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 4)
        self.other = nn.Linear(12, 4)


def images(count=6, shape=(3, 4)):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def made(forward, **attributes):
    """A net with this forward."""
    net = type("Made", (Net,), {"forward": forward})()
    for name, value in attributes.items():
        setattr(net, name, value)
    return net


def follows(net, x):
    """A copy of the net that does what its graph says."""
    net = copy.deepcopy(net)
    graph = graph_of(net, x)
    net.forward = GraphForward(net, graph.nodes, graph.image_shape)
    return net


def changed_shape(x):
    y = x * 1
    y.transpose_(1, 2).unsqueeze_(1)
    return y * y.ndim


FORWARDS = {
    "asks for shapes": lambda net, x: net.layer(x.reshape(x.shape[0], -1) if x.ndim == 3 else x),
    "asks for a length": lambda net, x: net.layer(x.view(len(x), 12)),
    "asks for a size": lambda net, x: net.layer(x.view(x.size(0), x.size(1) * x.size(-1))),
    "asks for a dtype": lambda net, x: net.layer(x.flatten(1).to(net.layer.weight.dtype)),
    "asks whether it is a tensor": lambda net, x: net.layer(x.flatten(1)) if isinstance(x, torch.Tensor) else x,
    "makes tensors of nothing": lambda net, x: net.layer(x.flatten(1)) + torch.arange(len(x))[:, None],
    "makes tensors by a method": lambda net, x: net.layer(x.flatten(1)) + x.new_ones(len(x), 4),
    "takes tuples apart": lambda net, x: sum(net.layer(torch.cat([a, b], 1)) for a, b in [x.flatten(1).chunk(2, 1)]),
    "goes over parts": lambda net, x: net.layer(torch.cat([part.sin() for part in x.unbind(1)], 1)),
    "returns two": lambda net, x: (net.layer(x.flatten(1)), net.other(x.flatten(1))),
    "returns a dict": lambda net, x: {"a": net.layer(x.flatten(1)), "b": x.mean()},
    "takes a named value": lambda net, x: net.layer(x.flatten(1).max(1, keepdim=True).values.expand(-1, 12)),
    "takes parameters itself": lambda net, x: F.linear(x.flatten(1), net.layer.weight * 2, net.layer.bias),
    "changes shapes in place": lambda net, x: net.layer(changed_shape(x).flatten(1)),
    "repeats a layer": lambda net, x: net.layer(x.flatten(1)) + net.layer(x.flatten(1).exp()),
    "changes in place": lambda net, x: net.layer(x.flatten(1).mul_(2).add_(1)),
    "puts values in": lambda net, x: net.layer(_put(x.flatten(1).clone())),
    "adds in place": lambda net, x: _add(net.layer(x.flatten(1)), net.other(x.flatten(1))),
    "leaves gradients out": lambda net, x: net.layer(x.flatten(1)) + _without(net.other, x),
    "a checkpoint": lambda net, x: checkpoint(net.layer, x.flatten(1), use_reentrant=False),
    "a reentrant checkpoint": lambda net, x: checkpoint(net.layer, x.flatten(1).requires_grad_(), use_reentrant=True),
    "draws": lambda net, x: net.layer(F.dropout(x.flatten(1), 0.5, net.training)) + torch.randn(len(x), 1),
    "compares": lambda net, x: net.layer(torch.where(x > 0.5, x, 0.1 * x).flatten(1)) * (x[:, :1, 0] == x[:, :1, 0]),
    "a function of autograd": lambda net, x: net.layer(Doubled.apply(x.flatten(1))),
    "by mode": lambda net, x: net.layer(x.flatten(1)) * (2.0 if net.training else 1.0),
}


def _put(x):
    x[:, 0] = 1.0
    return x


def _add(x, y):
    x += y
    return x


def _without(layer, x):
    with torch.no_grad():
        return layer(x.flatten(1))


@pytest.mark.parametrize("name", FORWARDS)
def test_the_graph_does_what_the_net_does_for_any_number_of_images(name):
    torch.manual_seed(0)
    net = made(FORWARDS[name])
    other = follows(net, images())
    for count in (1, 4, 7):
        for one in (net, other):
            one.zero_grad()
        outputs = []
        for one in (net, other):
            torch.manual_seed(count)
            outputs.append(one(images(count)))
        for a, b in zip(tensors(outputs[0]), tensors(outputs[1]), strict=True):
            assert torch.equal(a, b)
            if a.requires_grad:
                a.sum().backward(retain_graph=True), b.sum().backward(retain_graph=True)
        for (key, p), q in zip(net.named_parameters(), other.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None), key
            assert p.grad is None or torch.equal(p.grad, q.grad), key


def tensors(output):
    if isinstance(output, torch.Tensor):
        return [output]
    return list(output.values() if isinstance(output, dict) else output)


@pytest.mark.parametrize("make", [LeNet5, ConvNet, LocalNet])
def test_the_kits_nets_are_graphs(make):
    net, x = make(), images(shape=(28, 28))
    other = follows(net, x)
    assert torch.equal(net(x), other(x))
    assert torch.equal(net.eval()(x), other.eval()(x))


def test_evaluation_mode_is_in_the_graph():
    net = made(FORWARDS["draws"])
    graph = graph_of(net, images())
    assert graph.evaluates
    assert any(isinstance(arg, ByMode) for node in graph.nodes for arg in (*node.args, *node.kwargs.values()))
    other, x = follows(net, images()).eval(), images(1)
    torch.manual_seed(0)
    expected = net.eval()(x)
    torch.manual_seed(0)
    assert torch.equal(other(x), expected)


def test_a_net_that_calls_other_layers_in_evaluation_mode_says_so():
    graph = graph_of(made(lambda net, x: (net.layer if net.training else net.other)(x.flatten(1))), images())
    assert not graph.evaluates


def test_numbers_that_grow_with_the_batch_are_known_as_such():
    graph = graph_of(made(lambda net, x: net.layer(x.view(len(x), 12))), images())
    view = next(node for node in graph.nodes if node.called == "view")
    assert view.args[1:] == (ImageRows(1, 0), 12)
    assert view.images_dim == 0
    assert view.numel(10) == 120


class Count(Net):
    """Counts its calls in an attribute, which a graph cannot see."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x.flatten(1)) * (0.5 if self.calls % 2 else 1.0)


class Remembers(Net):
    last = 0.0

    def forward(self, x):
        y = self.layer(x.flatten(1)) + self.last
        self.last = y.detach().mean()
        return y


class Coin(Net):
    def forward(self, x):
        return (self.layer if random.random() < 0.5 else self.other)(x.flatten(1))


class Averages(Net):
    """Keeps a running mean in a buffer, as it may."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(12))

    def forward(self, x):
        x = x.flatten(1)
        self.mean.mul_(0.9).add_(x.mean(0).detach(), alpha=0.1)
        return self.layer(x - self.mean)


def test_buffers_that_a_forward_changes_are_followed():
    torch.manual_seed(0)
    net = Averages()
    other = follows(net, images())
    assert torch.equal(net.mean, torch.zeros(12))  # the reader's is left alone
    for _ in range(3):
        assert torch.equal(net(images()), other(images()))
    assert torch.equal(net.mean, other.mean)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: made(lambda net, x: net.layer(x.flatten(1)) if x.sum() > 0 else x),
            r"which way it goes.*test_graph.py:\d+ \(.*x.sum\(\) > 0",
        ),
        (
            lambda: made(lambda net, x: net.layer(x.flatten(1)) * x.mean().item()),
            r"a number out of a tensor.*test_graph.py:\d+ \(",
        ),
        (lambda: made(lambda net, x: net.layer(x.flatten(1)) * float(x.mean())), "a number out of a tensor"),
        (
            lambda: made(lambda net, x: torch.stack([net.layer(row.flatten()) for row in x])),
            "other layers for three images",
        ),
        (Count, "another output than the net"),
        (Remembers, "another|test_graph.py"),
        (Coin, "other layers|another"),
    ],
)
def test_what_no_graph_can_say_is_refused_in_a_sentence(make, said):
    random.seed(1)
    with pytest.raises(ValueError, match=said) as refused:
        graph_of(make(), images())
    assert "DataParallel" in str(refused.value)


def test_tracing_leaves_the_net_and_the_generators_as_they_are():
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Dropout(), nn.Linear(12, 4))
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    graph_of(net, images())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    assert nn.Module.__call__ is type(net).__call__


def test_images_of_another_shape_are_refused():
    net = follows(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), images())
    with pytest.raises(ValueError, match=r"images of \(4, 3\).*split for images of \(3, 4\)"):
        net(images(shape=(4, 3)))


def test_a_copy_of_a_net_that_follows_a_graph_has_its_own_parameters():
    net = follows(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), images())
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[1].weight.zero_()
        other[1].bias.zero_()
    assert other(images()).abs().max() == 0 < net(images()).abs().max()


def test_hooks_of_the_modules_inside_are_called():
    net = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(12, 4)), nn.Linear(4, 2))
    net[1].register_forward_hook(lambda module, args, output: output * 2)
    net[2].register_forward_hook(lambda module, args, output: output + 1)
    assert torch.equal(net(images()), follows(net, images())(images()))


def test_who_takes_a_parameter_is_known():
    net = made(lambda net, x: net.layer(x.flatten(1)) + net.other(x.flatten(1)) @ net.layer.weight[:, :4])
    graph = trace(net, images())
    alone = {node.target: graph.is_alone(node) for node in graph.nodes if node.op == "module"}
    assert alone == {"layer": False, "other": True}


def test_functions_of_one_s_own_are_applied_as_before_when_a_net_was_traced():
    graph_of(nn.Linear(3, 2), torch.rand(5, 3))
    assert torch.equal(Doubled.apply(torch.ones(2)), torch.full((2,), 2.0))


def test_nets_in_other_threads_are_called_as_ever_while_one_is_traced():
    """As a widget trains one, and its reader asks what another costs."""
    one, images, done, wrong = nn.Sequential(nn.Linear(6, 5), nn.Tanh()), torch.rand(3, 6), threading.Event(), []
    wanted = one(images)

    def call_on_and_on():
        while not done.is_set():
            try:
                assert torch.equal(one(images), wanted)
            except BaseException as error:
                wrong.append(error)
                return

    def trace_on_and_on():
        while not done.is_set():
            try:
                graph_of(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(2, 2, 2))
            except BaseException as error:
                wrong.append(error)
                return

    others = [threading.Thread(target=work) for work in (call_on_and_on, trace_on_and_on)]
    for other in others:
        other.start()
    for _ in range(5):
        graph_of(LeNet5(), torch.rand(2, 28, 28))
    done.set()
    for other in others:
        other.join()
    assert wrong == []
    assert nn.Module.__call__ is MODULE_CALL
    assert nn.Module.__getattr__ is MODULE_GETATTR
