"""What `explain` says of a net, beside what the plan and its costs say."""

import pytest
import torch
from torch import nn

from dlkit.strategies import (
    DataParallel,
    Hybrid,
    ModelAveraging,
    OneWeirdTrick,
    Pipeline,
    SpatialParallel,
    TensorParallel,
    cost,
    explain,
)


class Block(nn.Module):
    """A skip around two convolutions; `side_by_side`: the second is two, whose maps are put together."""

    def __init__(self, side_by_side: bool = False):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3)
        self.conv1, self.norm1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1)
        self.halves = nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in range(2)) if side_by_side else None
        self.last = nn.Linear(8, 10)

    def forward(self, images):
        x = self.first(images[:, None]).relu()
        y = self.norm1(self.conv1(x)).relu()
        y = self.conv2(y) if self.halves is None else torch.cat([half(y) for half in self.halves], 1)
        return self.last((x + y).mean((2, 3)))


class Normed(Block):
    """The same with BatchNorm, whose statistics are exchanged where a rank sees some of the images."""

    def __init__(self):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(8)


def said(net):
    return {layer.layer: layer for layer in explain(net, (12, 12), TensorParallel(), batch_size=96).layers}


def test_branches_that_are_split_alike_are_added_without_an_exchange():
    layers = said(Block())
    assert layers["first"].split == layers["conv2"].split == layers["add 1"].split == "maps 4 + 4"
    assert layers["conv1"].split == layers["last"].split == "inputs 4 + 4"
    assert layers["norm1"].split == "all"
    assert layers["add 1"].exchanged == ""
    assert layers["conv1"].exchanged == "summed: 307 kB"  # 96 images of 8 maps of 10 x 10 places, 4 bytes each


def test_branches_that_are_split_otherwise_are_not():
    assert said(Block(side_by_side=True))["add 1"].exchanged == "cat gathered: 154 kB; cat cut: 154 kB"


def test_it_is_shown_as_a_table_and_leaves_the_net_as_it_was():
    net = Block()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    table = explain(net, (12, 12), TensorParallel())
    assert repr(table).splitlines()[0].split() == ["layer", "kind", "what", "a", "rank", "computes", "exchanged", "why"]
    assert len(repr(table).splitlines()) == 1 + len(table.layers)
    assert "<table" in table._repr_html_()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    "strategy",
    [
        DataParallel(),
        DataParallel(shard="optimizer"),
        DataParallel(shard="all"),
        ModelAveraging(every=3),
        TensorParallel(),
        SpatialParallel(),
        Hybrid(2, 2),
        OneWeirdTrick(),
    ],
    ids=repr,
)
def test_every_exchange_of_the_bill_is_in_the_table(strategy):
    """In bytes, as `cost` counts them for rank 0: of each layer those of one place, rounded as they are shown."""
    ranks = 4 if isinstance(strategy, Hybrid) else 2
    assert shown_bytes(Normed(), strategy, ranks) == pytest.approx(
        cost(Normed(), (12, 12), 96, ranks, strategy).bytes_sent(0), rel=0.01
    )


def test_a_pipeline_s_table_has_what_all_its_ranks_send():
    bill = cost(Block(), (12, 12), 96, 2, Pipeline())
    assert shown_bytes(Block(), Pipeline(), 2) == pytest.approx(bill.bytes_sent(0) + bill.bytes_sent(1), rel=0.01)


def shown_bytes(net, strategy, ranks):
    layers = explain(net, (12, 12), strategy, world_size=ranks, batch_size=96).layers
    named = [words for layer in layers for words in layer.exchanged.split("; ") if words]
    sizes = {"B": 1, "kB": 1e3, "MB": 1e6}
    return sum(float(words.split(": ")[1].split()[0]) * sizes[words.split()[-1]] for words in named)


def test_a_replica_of_a_hybrid_has_its_images():
    table = explain(Block(), (12, 12), Hybrid(2, 2), world_size=4, batch_size=96)
    layers = {layer.layer: layer for layer in table.layers}
    assert layers["first"].split == "maps 4 + 4, of its images"
    assert layers["conv1"].exchanged.startswith("summed: 154 kB; gradients summed: ")  # 48 images of 8 x 10 x 10


def test_what_cannot_be_explained_is_told():
    with pytest.raises(ValueError, match=r"does not take images of shape \(3,\)"):
        explain(Block(), (3,), TensorParallel())
    with pytest.raises(TypeError, match=r"give a strategy whose ranks take steps together, such as TensorParallel\(\)"):
        explain(Block(), (12, 12), TensorParallel)
    with pytest.raises(ValueError, match="1 ranks and a batch of 100"):
        explain(Block(), (12, 12), TensorParallel(), world_size=1)
    with pytest.raises(ValueError, match="needs 4 ranks, and there are 2"):
        explain(Block(), (12, 12), Hybrid(2, 2))


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
        self.attention, self.last = nn.MultiheadAttention(8, 4, batch_first=True), nn.Linear(8, 3)

    def forward(self, images):
        x = self.norm(self.first(images))
        return self.last(self.attention(x, x, x)[0].mean(1))


def test_heads_are_told_and_what_no_rule_splits():
    table = explain(Attentive(), (5, 6), TensorParallel())
    layers = {layer.layer: layer for layer in table.layers}
    assert layers["attention"].split == "units 4 + 4"
    assert layers["norm"].why == "no rule splits LayerNorm here: it sees all"


def test_what_is_whole_says_why():
    """Behind a sum all ranks have all maps; what is split needs no reason."""
    layers = said(Block())
    assert layers["norm1"].split == "all"
    assert layers["norm1"].why == "what it takes is whole"
    assert not layers["first"].why
    assert all(layer.why for layer in layers.values() if layer.split == "all" and not layer.exchanged)
