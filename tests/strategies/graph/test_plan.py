"""A split on paper: what is changed in place, what shares memory, and layouts that parts of tensors have."""

import pytest
import torch
from torch import nn

from dlkit.models.graph_check import graph_of
from dlkit.strategies.graph.exchanges import Gather, Layout, even_layout
from dlkit.strategies.graph.in_place import changed_input, changed_through_views
from dlkit.strategies.tensor.layouts import concatenated, indexed, reshaped
from dlkit.strategies.tensor.tensor_parallel import plan_neurons


class Forward(nn.Module):
    def __init__(self, forward, **layers):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.function(self, x)


def graph(forward, shape=(6,), **layers):
    return graph_of(Forward(forward, **layers), torch.rand(5, *shape))


def changed(found):
    return {node.called: changed_input(found, node).name for node in found.nodes if changed_input(found, node)}


def test_what_is_changed_in_place_is_known_of_functions_methods_and_modules():
    def forward(net, x):
        y = net.a(x)
        y += 1
        y.clamp_(-1)
        return net.relu(torch.neg_(y)).sum(1)

    found = graph(forward, a=nn.Linear(6, 4), relu=nn.ReLU(inplace=True))
    assert changed(found) == {"iadd": "a", "clamp_": "iadd", "neg_": "iadd", "relu": "neg_"}
    assert not changed_through_views(found)


def test_a_base_that_is_used_after_its_view_was_changed_is_found():
    def forward(net, x):
        y = net.a(x)
        y[:, :2].mul_(2)
        return y * 2

    def otherwise(net, x):
        y = net.a(x)
        z = y.view(-1, 2, 2)
        y.mul_(2)
        return y.sum(1) + z.sum((1, 2))

    def harmless(net, x):
        return net.a(x).view(-1, 2, 2).mul_(2).sum((1, 2))

    for function, names in ((forward, {"a", "getitem", "mul_"}), (otherwise, {"a", "view", "mul_"}), (harmless, set())):
        found = graph(function, a=nn.Linear(6, 4))
        assert {node.name for node in changed_through_views(found)} == names


def test_a_chain_gathers_maps_and_branches_sum_them():
    def names(net):
        plan = plan_neurons(graph_of(net, torch.rand(5, 1, 6, 6)), 2)
        return [made.exchange.name for step in plan.steps for made in step.made]

    def convolution(inputs, outputs):
        return nn.Conv2d(inputs, outputs, 3, padding=1)

    chain = nn.Sequential(convolution(1, 4), nn.ReLU(), convolution(4, 4), nn.Flatten(), nn.Linear(144, 3))
    assert names(chain) == ["copied", "gathered", "copied", "summed"]
    branches = Forward(
        lambda net, x: (y := net.a(x)).sum(1) + net.b(y).sum(1), a=convolution(1, 4), b=convolution(4, 4)
    )
    assert names(branches) == ["copied", "gathered", "summed"]


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_plan_needs_no_processes_and_leaves_the_net_as_it_is(ranks):
    net = nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 4))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    plan = plan_neurons(graph_of(net, torch.rand(5, 6)), ranks)
    assert set(plan.parameters) == {
        "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "3.weight",
    }  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert "forward" not in vars(net)


# Layouts.


def parts(whole, layout):
    return [whole.index_select(layout.dim, torch.tensor(part)) for part in layout.parts]


def test_layouts_of_reshaped_tensors_are_those_of_their_parts():
    uneven = Layout(1, ((0, 1, 4, 5), (2, 3)))
    for layout, before, after in (
        (uneven, (2, 6, 5, 3), (2, 6, 15)),
        (uneven, (2, 6, 5, 3), (2, 90)),
        (uneven, (2, 6, 5, 3), (2, 1, 6, 5, 3)),
        (uneven, (2, 6, 5, 3), (2, 3, 2, 15)),
        (uneven, (2, 6, 5, 3), (2, 18, 5)),
        (even_layout(2, 6, 3), (2, 3, 6), (2, 3, 2, 3)),
        (even_layout(2, 6, 2), (2, 3, 6), (2, 3, 2, 3)),
    ):
        x = torch.arange(torch.Size(before).numel(), dtype=torch.float32).view(before)
        found = reshaped(layout, node_of(x), node_of(x.view(after)))
        if found is None:  # three ranks have parts of two blocks
            assert (before, after, len(layout.parts)) == ((2, 3, 6), (2, 3, 2, 3), 3)
            continue
        for part, own in zip(parts(x, layout), parts(x.view(after), found), strict=True):
            assert torch.equal(part.reshape(own.shape), own)

    for layout, before, after in (
        (uneven, (2, 6, 5, 3), (2, 2, 45)),
        (even_layout(2, 6, 2), (2, 3, 6), (2, 18)),
        (even_layout(1, 6, 2), (2, 6), (12,)),
    ):
        x = torch.zeros(before)
        assert reshaped(layout, node_of(x), node_of(x.view(after))) is None


def node_of(x):
    from dlkit.models.graph import Node

    return Node("x", "function", None, value=x.to("meta"), images_dim=0)


def test_layouts_of_indexed_and_of_concatenated_tensors_are_those_of_their_parts():
    x = torch.arange(2 * 6 * 4 * 3.0).view(2, 6, 4, 3)
    layout = Layout(1, ((0, 3), (1, 2, 4, 5)))
    for index in (
        (slice(None), slice(None), 0), (..., 1), (0,), (slice(None), slice(None), None, slice(1, 3)), (None, ...),
        (slice(None), slice(None), slice(None, None, 2), -1),
    ):  # fmt: skip
        found = indexed(layout, node_of(x), index)
        for part, own in zip(parts(x, layout), parts(x[index], found), strict=True):
            assert torch.equal(part[index], own)
    for index in (
        (slice(None), 0),
        (slice(None), slice(2, 4)),
        (torch.tensor([0, 1]),),
        slice(0, 1) and (..., 0, 0, 0),
    ):
        assert indexed(layout, node_of(x), index) is None
    one, other = Layout(1, ((0,), (1, 2))), Layout(1, ((0, 1), (2,)))
    both = concatenated([one, other], [3, 3])
    y = torch.arange(6.0).view(1, 6)
    assert [part.flatten().tolist() for part in parts(y, both)] == [[0, 3, 4], [1, 2, 5]]


def test_layouts_that_say_the_same_are_one():
    assert Layout(0, (range(2), range(2, 4))) == Layout(0, ((0, 1), (2, 3))) == even_layout(0, 4, 2)
    assert len({Gather(Layout(0, (range(2), range(2, 4)))), Gather(even_layout(0, 4, 2))}) == 1
    assert even_layout(0, 5, 2).in_order
    assert Layout(0, ((0, 2), (1,))).in_order is False
    assert Layout(0, ((0, 1, 4, 5), (2, 3))).in_blocks(2, 0) == Layout(0, ((0, 2), (1,)))
    assert Layout(0, ((0, 1, 2), (3, 4, 5))).in_blocks(2, 0) is None
