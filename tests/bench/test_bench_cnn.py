"""The CNN's bench, reduced: its rows, and that what it compares is alike."""

import torch
import torch.nn.functional as F

from dlkit.bench import cnn as bench
from dlkit.models.convolution import SparseConv2d


def test_it_measures_every_row(monkeypatch):
    monkeypatch.setattr(bench, "IMAGES", 200)
    monkeypatch.setattr(bench, "BATCHES", (50,))
    monkeypatch.setattr(bench, "LAYERS", bench.LAYERS[1:2])
    rows = bench.measure()
    assert [row.name for row in rows] == ["LeNet-5, an epoch, batch 50"] * 3 + [
        "the survey's C2, 8 of 24, forward and back"
    ]
    assert all(row.value > 0 and row.ratio > 0 for row in rows)


def test_its_dense_lenet_differs_in_c3_alone():
    sparse, dense = bench.LeNet5(), bench.dense_lenet()
    assert sum(p.numel() for p in dense.parameters()) - sum(p.numel() for p in sparse.parameters()) == 2_416 - 1_516
    dense.load_state_dict({**sparse.state_dict(), "c3.0.weight": sparse.c3[0].dense_weight().detach()})
    images = torch.rand(3, 28, 28)
    torch.testing.assert_close(dense(images), sparse(images))


def test_its_blocks_are_eight_groups():
    layer = SparseConv2d(bench.BLOCKS, 5)
    assert layer.groups == 8
    x = torch.randn(2, 64, 14, 14)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.dense_weight(), layer.bias), atol=1e-5, rtol=1e-5)
