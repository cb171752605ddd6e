"""Convolution by a table and sub-sampling, against torch's own and against loops."""

import pytest
import torch
import torch.nn.functional as F
from oracles import seeded

from dlkit.models.convnet import LENET_TABLE, SURVEY_TABLE
from dlkit.models.convolution import KINDS, SparseConv2d, Subsample

TABLES = {
    "LeNet-5": LENET_TABLE,
    "the survey": SURVEY_TABLE,
    "all": ((0, 1, 2),) * 4,
    "two groups": ((0, 1), (0, 1), (2, 3), (2, 3)),
    "one each": ((0,), (1,), (2,)),
    "two of each": ((0,), (0,), (1,), (1,)),
    "not in order": ((2, 0), (1,)),
}


def by_loops(x, layer):
    """One connection after the other."""
    maps, kernels = [], iter(layer.weight)
    for row, bias in zip(layer.table, layer.bias, strict=True):
        total = sum(F.conv2d(x[:, i : i + 1], next(kernels)[None, None]) for i in row)
        maps.append(total + bias)
    return torch.cat(maps, 1)


@pytest.mark.parametrize("name", TABLES)
def test_it_is_the_sum_of_the_connections_there_are(name):
    layer = SparseConv2d(TABLES[name], 3, generator=seeded()).double()
    x = torch.randn(4, layer.in_maps, 7, 6, dtype=torch.float64, generator=seeded(1))
    output, expected = layer(x), by_loops(x, layer)
    torch.testing.assert_close(output, expected)
    weights = torch.randn(output.shape, dtype=torch.float64, generator=seeded(2))
    ours = torch.autograd.grad((output * weights).sum(), layer.weight)[0]
    theirs = torch.autograd.grad((expected * weights).sum(), layer.weight)[0]
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", TABLES)
def test_it_equals_a_masked_dense_convolution(name):
    layer = SparseConv2d(TABLES[name], 3, generator=seeded())
    mask = torch.tensor([[float(i in row) for i in range(layer.in_maps)] for row in layer.table])[:, :, None, None]
    full = layer.dense_weight()
    assert torch.equal(full * mask, full)
    assert (full != 0).sum() == layer.weight.numel()
    x = torch.randn(4, layer.in_maps, 7, 6, generator=seeded(1))
    torch.testing.assert_close(layer(x), F.conv2d(x, full, layer.bias), atol=1e-5, rtol=1e-5)


def test_equal_groups_are_not_padded_with_zeros():
    groups = {name: SparseConv2d(table, 3).groups for name, table in TABLES.items()}
    assert groups == {
        "LeNet-5": None,
        "the survey": None,
        "all": 1,
        "two groups": 2,
        "one each": 3,
        "two of each": 2,
        "not in order": None,
    }


def test_units_start_as_torchs_do_whatever_they_see():
    layer = SparseConv2d(LENET_TABLE, 5, generator=seeded())
    assert layer.weight.shape == (60, 5, 5)
    first = 0
    for row, bias in zip(layer.table, layer.bias, strict=True):
        kernels = layer.weight[first : first + len(row)]
        first += len(row)
        bound = (25 * len(row)) ** -0.5
        assert 0.9 * bound < kernels.abs().max() <= bound
        assert abs(bias) <= bound


@pytest.mark.parametrize(
    ("table", "in_maps", "message"),
    [
        ([], None, "an empty connection table"),
        ([[0], []], None, "output map 1 sees nothing: give its row one input map at least"),
        ([[0, 4]], 4, "output map 0 sees map 4, and there are 4, 0 to 3: maps are counted from 0"),
        ([[-1]], 4, "output map 0 sees map -1"),
        ([[0], [1, 1]], None, r"output map 1 sees a map twice, \[1, 1\]"),
    ],
)
def test_a_table_that_is_none_is_refused(table, in_maps, message):
    with pytest.raises(ValueError, match=message):
        SparseConv2d(table, 3, in_maps=in_maps)


def test_another_number_of_maps_is_refused(unchecked):
    with pytest.raises(ValueError, match=r"shape \(2, 3, 9, 9\) for 4 maps: \(batch, 4, height, width\)"):
        SparseConv2d(SURVEY_TABLE, 3)(torch.zeros(2, 3, 9, 9))
    with pytest.raises(ValueError, match="kernels of 0x0"):
        SparseConv2d(SURVEY_TABLE, 0)


def windows(x, size, stride):
    """(batch, maps, high, wide, size * size), by slicing; NaN for what sticks out."""
    high, wide = (length // stride for length in x.shape[2:])
    wider = F.pad(x, (0, size, 0, size), value=float("nan"))
    rows = [
        torch.stack([wider[:, :, i * stride :, j * stride :][:, :, :size, :size] for j in range(wide)], 2)
        for i in range(high)
    ]
    return torch.stack(rows, 2).flatten(4)


@pytest.mark.parametrize(("size", "stride"), [(1, None), (2, None), (3, None), (2, 1), (3, 2), (3, 1)])
@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("average", lambda w, layer: w.nanmean(4)),
        ("max", lambda w, layer: w.nan_to_num(-99).amax(4)),
        ("strided", lambda w, layer: w[..., 0]),
        ("trainable", lambda w, layer: w.nansum(4) * layer.weight[:, None, None] + layer.bias[:, None, None]),
    ],
)
@pytest.mark.parametrize("shape", [(8, 7), (6, 6)])
def test_each_value_comes_from_its_window(kind, formula, size, stride, shape):
    layer = Subsample(3, size, kind, stride).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, generator=seeded())
    x = torch.randn(2, 3, *shape, dtype=torch.float64, generator=seeded(1))
    torch.testing.assert_close(layer(x), formula(windows(x, size, stride or size), layer))


def test_trainable_sub_sampling_begins_as_the_average():
    x = torch.randn(2, 3, 6, 6, generator=seeded())
    torch.testing.assert_close(Subsample(3)(x), F.avg_pool2d(x, 2))
    assert sum(p.numel() for p in Subsample(6).parameters()) == 12
    assert not list(Subsample(6, kind="max").parameters())


def test_other_kinds_and_windows_are_refused():
    with pytest.raises(ValueError, match='sub-sampling "mean": it is one of trainable, average, max, strided'):
        Subsample(3, kind="mean")
    for size, stride in ((0, 0), (2, 3), (2, 0)):
        with pytest.raises(ValueError, match=f"windows of {size}x{size} at steps of {stride}: steps are at least 1"):
            Subsample(3, size, stride=stride)
    for kind in KINDS:
        with pytest.raises(ValueError, match=r"an input of shape \(2, 3, 8, 8\) for 4 maps: \(batch, 4, height, width"):
            Subsample(4, kind=kind)(torch.rand(2, 3, 8, 8))


def test_a_table_may_be_a_tensor_but_no_matrix_of_dots(unchecked):
    assert SparseConv2d(torch.tensor([[0, 1], [1, 2]]), 3).table == ((0, 1), (1, 2))
    with pytest.raises(ValueError, match="a table of True and False: give the numbers of the maps"):
        SparseConv2d([[True, False], [False, True]], 3)
