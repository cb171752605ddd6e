"""DistributedArray: what a layer gives of an array is what it gives of the whole, forward, backward, and in bytes."""

import copy
import random
from functools import partial

import nets
import pytest
import torch
import torch.nn.functional as F
from oracles import Doubled
from ranks import team
from torch import nn

from dlkit.distributed.array import DistributedArray, Grid
from dlkit.distributed.arrays.core import Call
from dlkit.distributed.arrays.tile_exchange import Trade, exchange_tiles, gather_tiles
from dlkit.distributed.arrays.tiles import Tiles
from dlkit.distributed.autograd import reduce_from_ranks
from dlkit.distributed.group import Group
from dlkit.models import L2Pool, LocalContrastNorm, LocallyConnected2d

GRIDS = [(2, 1), (1, 2), (3, 1), (1, 3), (2, 2), (4, 1), (1, 4)]
TRIPLES = 30  # of each grid


# Random windows.


def triple(seed, grid):
    """Settings of a layer, and the size of its images."""
    rng = random.Random(seed)
    kind = rng.choice(["conv", "conv", "conv", "transposed", "max", "average"])
    size = [rng.randint(max(grid), 15) for _ in range(2)]
    one_side = [rng.choice([0, 0, 1, 3]) for _ in range(4)]
    kernel, stride, dilation, padding = [], [], [], []
    for length, after in zip(size, (sum(one_side[2:]), sum(one_side[:2])), strict=True):
        step = rng.choice([1, 1, 2]) if kind in ("conv", "transposed", "max") else 1
        own = rng.randint(1, max(1, min(9, (length + after - 1) // step + 1)))
        kernel.append(own)
        dilation.append(step)
        stride.append(rng.choice([1, 1, 2, 3]))
        padding.append(rng.randint(0, own // 2 if kind in ("max", "average") else (own - 1) * step))
    return kind, size, one_side, kernel, stride, dilation, padding


def layer_of(kind, kernel, stride, dilation, padding, seed):
    rng = random.Random(seed)
    if kind == "conv":
        return nn.Conv2d(2, 4, kernel, stride, padding, dilation, groups=rng.choice([1, 2]))
    if kind == "transposed":
        beyond = [rng.randint(0, max(step, hole) - 1) for step, hole in zip(stride, dilation, strict=True)]
        return nn.ConvTranspose2d(2, 4, kernel, stride, padding, beyond, rng.choice([1, 2]), dilation=dilation)
    if kind == "max":
        return nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=rng.random() < 0.5)
    return nn.AvgPool2d(kernel, stride, padding, ceil_mode=rng.random() < 0.5, count_include_pad=rng.random() < 0.5)


def parts(length, count):
    """The first and the last of so many nearly equal parts, the larger ones first."""
    sizes = [len(each) for each in torch.arange(length).tensor_split(count)]
    starts = [sum(sizes[:number]) for number in range(count)]
    return [set(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]


def seen(outputs, length, kernel, stride, dilation, padding, transposed):
    """The inputs from the first to the last that these outputs see."""
    inputs = set()
    for output in outputs:
        for tap in range(kernel):
            if not transposed:
                inputs.add(output * stride - padding + tap * dilation)
            elif (output + padding - tap * dilation) % stride == 0:
                inputs.add((output + padding - tap * dilation) // stride)
    if transposed and outputs:  # the first and last that its kernel reaches, with the holes that dilation leaves
        reach = dilation * (kernel - 1)
        low, high = min(outputs) + padding - reach, max(outputs) + padding
        inputs = set(range(-(-low // stride), high // stride + 1))
    inputs = range(min(inputs), max(inputs) + 1) if inputs else range(0)
    return {place for place in inputs if 0 <= place < length}


def lent(rank, grid, settings, size, output_size, numbers):
    """The bytes that a rank sends forward, and those that it borrows, for a layer over images of this size."""
    kind, _, _, *each = settings
    have = [parts(length, count) for length, count in zip(size, grid, strict=True)]
    need = [
        [
            seen(own, size[dim], *(setting[dim] for setting in each), kind == "transposed")
            for own in parts(output_size[dim], grid[dim])
        ]
        for dim in range(2)
    ]
    row, column = divmod(rank, grid[1])
    sends = borrows = 0
    for peer in range(grid[0] * grid[1]):
        if peer != rank:
            i, j = divmod(peer, grid[1])
            sends += len(have[0][row] & need[0][i]) * len(have[1][column] & need[1][j])
            borrows += len(need[0][row] & have[0][i]) * len(need[1][column] & have[1][j])
    return sends * numbers, borrows * numbers


def tried(grid, seed, dtype, overlaps):
    """Of one triple on this rank the largest relative error, the bytes that are sent and those of the formula, and
    whether something was gathered that need not be: where one rank would have all of the output, everything is.
    """
    settings = triple(seed, grid)
    kind, size, one_side, kernel, stride, dilation, padding = settings
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 2, *size, generator=generator, dtype=dtype)
    torch.manual_seed(seed)
    layer = layer_of(kind, kernel, stride, dilation, padding, seed).to(dtype)
    alone = copy.deepcopy(layer)
    images, images_alone = x.clone().requires_grad_(), x.clone().requires_grad_()
    grid = Grid(Group(), grid, overlaps=overlaps)
    array = F.pad(grid.split(images), one_side)
    before = count(grid)
    output = layer(array)
    forward = count(grid)
    expected = alone(F.pad(images_alone, one_side))
    weights = torch.randn(expected.shape, generator=generator, dtype=dtype)
    (output * weights).sum().backward()
    backward = count(grid, "halo, back")
    (expected * weights).sum().backward()
    pairs = [(output.whole(), expected), (images.grad, images_alone.grad)]
    pairs += [(p.grad, q.grad) for p, q in zip(layer.parameters(), alone.parameters(), strict=True)]
    error = max(((a - b).abs().max() / b.abs().max().clamp(min=1e-3)).item() for a, b in pairs)
    numbers = x.shape[0] * x.shape[1] * x.element_size()
    if (
        all(n == 1 or ranks == 1 for n, ranks in zip(expected.shape[2:], grid.shape, strict=True))
        and kind != "transposed"
    ):
        return error, (forward - before, backward - padded(grid, size, one_side, numbers)), (0, 0), not grid.gathered
    formula = lent(grid.group.rank, grid.shape, settings, array.shape[2:], expected.shape[2:], numbers)
    return error, (forward - before, backward - padded(grid, size, one_side, numbers)), formula, dict(grid.gathered)


def count(grid, name="halo"):
    return sum(span.bytes_sent for span in grid.group.recorder.spans if span.name == name)


def padded(grid, size, one_side, numbers):
    """What comes back of padding on one side, which moves places from tile to tile."""
    length = size[0] + sum(one_side[2:]), size[1] + sum(one_side[:2])
    settings = ("conv", None, None, (1, 1), (1, 1), (1, 1), (one_side[2], one_side[0]))
    return lent(grid.group.rank, grid.shape, settings, size, length, numbers)[1]


def all_tried(grid, seeds, dtype, overlaps):
    torch.set_num_threads(1)
    return [tried(grid, seed, dtype, overlaps) for seed in seeds]


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: f"{grid[0]}x{grid[1]}")
@pytest.mark.parametrize(
    ("dtype", "bound", "overlaps"),
    [(torch.float64, 1e-12, False), (torch.float64, 1e-12, True), (torch.float32, 1e-5, False)],
    ids=["double", "double, overlapping", "single"],
)
def test_any_grid_any_window_any_size(grid, dtype, bound, overlaps):
    seeds = [100 * GRIDS.index(grid) + number for number in range(TRIPLES)]
    for found in team(grid[0] * grid[1]).call(all_tried, grid, seeds, dtype, overlaps):
        for seed, (error, sent, formula, gathered) in zip(seeds, found, strict=True):
            assert error < bound, (seed, error, triple(seed, grid))
            assert sent == formula, (seed, triple(seed, grid))
            assert not gathered


# Nets that nobody here wrote, and what they are made of.


def net_tried(shape, make, images, overlaps=False):
    """The largest errors of a net's outputs and gradients, relative to the largest of each; what was gathered."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = make().to(images.dtype)
    alone, grid = copy.deepcopy(net), Grid(Group(), shape, overlaps=overlaps)
    torch.manual_seed(1)
    output = net(grid.split(images))
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3), dtype=images.dtype)
    (output * weights).sum().backward()
    torch.manual_seed(1)
    expected = alone(images)
    (expected * weights).sum().backward()
    pairs = zip(net.parameters(), alone.parameters(), strict=True)
    gradients = [(p.grad, q.grad) for p, q in pairs if q.grad is not None]
    largest = max(q.abs().max() for _, q in gradients)
    buffers = [(p - q).abs().max().item() for p, q in zip(net.buffers(), alone.buffers(), strict=True)]
    return (
        ((output.whole() - expected).abs().max() / expected.abs().max()).item(),
        max(((p - q).abs().max() / largest).item() for p, q in gradients),
        max(buffers, default=0.0),
        dict(grid.gathered),
    )


@pytest.mark.parametrize(
    ("name", "gathered"),
    [
        ("resnet18", {"conv2d": 2}),  # of one place
        ("mobilenet_v3_small", {}),
        ("densenet", {}),
        ("shufflenet, GroupNorm", {"conv2d": 2}),
        ("U-Net", {}),
        ("convolutional autoencoder", {}),
        ("ResNet, GroupNorm", {}),
        ("Swin transformer", {"pad": 2}),
        ("CNN, BatchNorm and Dropout", {"flatten": 1}),
        ("LSTM", {"lstm": 1}),
    ],
)
def test_nets_that_nobody_here_wrote_read_an_array_as_if_it_were_whole(name, gathered):
    images = nets.data_for(name)[0][:3]
    for grid in ((2, 1), (1, 2)):
        for output, gradient, buffer, found in team(2).call(net_tried, grid, partial(nets.make, name), images):
            assert max(output, gradient, buffer) < 1e-11, (output, gradient, buffer)
            assert found == gathered


def cots_stage():
    """Two stages of untied filters, L2 pooling and local contrast normalisation in Gaussian windows."""
    return nn.Sequential(
        LocallyConnected2d(2, 3, 4, (17, 19)),
        L2Pool(3, 2),
        LocalContrastNorm(5),
        LocallyConnected2d(3, 2, 2, (6, 7), stride=2),
        L2Pool(2, 1),
        LocalContrastNorm(3, floor=None),
    )


@pytest.mark.parametrize("grid", [(2, 1), (1, 2), (2, 2)], ids=lambda grid: f"{grid[0]}x{grid[1]}")
@pytest.mark.parametrize("overlaps", [False, True])
def test_layers_without_shared_weights_and_windows_of_contrast(grid, overlaps):
    images = torch.randn(3, 2, 17, 19, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for output, gradient, _, found in team(grid[0] * grid[1]).call(net_tried, grid, cots_stage, images, overlaps):
        assert max(output, gradient) < 1e-12
        assert not found


class Everything(nn.Module):
    """Functions that keep places, move them, average over them, and lose them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.LayerNorm((9, 11))
        self.instance = nn.InstanceNorm2d(4, affine=True)
        self.prelu = nn.PReLU(4)
        self.shuffle = nn.PixelShuffle(2)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        x = self.prelu(self.norm(self.conv(x)))
        x = x - x.mean((2, 3), keepdim=True) + x.amax(1, keepdim=True) * torch.linspace(0, 1, 11, dtype=x.dtype)
        a, b = x.split(2, 1)
        x = torch.cat([a.sigmoid() * b, F.pad(x[:, 1:3], (2, 0, 1, 1), "reflect")[:, :, :-2, :-2]], 1)
        x = self.instance(x).softmax(1)
        x = x + F.interpolate(F.avg_pool2d(x, 2, 2, ceil_mode=True), x.shape[2:], mode="bilinear")
        x -= 0.125
        x = F.interpolate(x, scale_factor=1.5, mode="bicubic", align_corners=True)
        x = torch.where(x > 0.2, x, x.square()).flip(2, 3) + F.adaptive_avg_pool2d(x, (1, 1))
        x = F.adaptive_avg_pool2d(x, (7, 6))
        x = self.last(x.permute(0, 2, 3, 1)).movedim(-1, 1) + x.flip(1)[:, :3]
        return self.shuffle(torch.cat([x, x.transpose(2, 3).transpose(-1, -2)], 1)[:, :4]).unsqueeze(1).squeeze(1)


@pytest.mark.parametrize("grid", [(2, 1), (1, 2), (2, 2), (3, 1), (1, 3)], ids=lambda grid: f"{grid[0]}x{grid[1]}")
def test_a_net_of_many_functions(grid):
    images = torch.randn(3, 2, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for output, gradient, _, found in team(grid[0] * grid[1]).call(net_tried, grid, Everything, images):
        assert max(output, gradient) < 1e-12
        assert not found


class InPlace(nn.Module):
    """Changes images, maps, and parts of maps in place."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x):
        x = x.clone()
        x.sub_(0.25).mul_(2)
        part = x[1:]
        part += 0.125
        x = self.first(x)
        x = F.relu(x, inplace=True) * 1.0
        x[:, 0] = 1.5
        x = self.second(x) + 1
        x[:, :, 2:4, 1] -= 0.5
        x.clamp_(min=-0.1)
        return self.first(x[:, :1] * 1.0) * x.mean()


@pytest.mark.parametrize("grid", [(2, 1), (1, 2), (1, 1)], ids=lambda grid: f"{grid[0]}x{grid[1]}")
def test_what_is_changed_in_place_is_changed_for_all_that_comes_after(grid):
    images = torch.randn(3, 1, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    before = images.clone()
    for output, gradient, _, found in team(grid[0] * grid[1]).call(net_tried, grid, InPlace, images):
        assert max(output, gradient) < 1e-12
        assert set(found) == {"setitem"} | ({"getitem"} if grid == (1, 2) else set()) or grid == (1, 1)
    assert torch.equal(images, before)


class Views(nn.Module):
    """Changes maps through views of rows and columns, where arrays have copies."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x):
        x = self.first(x) * 1.0
        x[:, :, 1:6].add_(1.0)
        part = x[:, 1:, :, 2:5]
        part[0] *= 3.0
        y = x + 0.5
        part.mul_(2.0)
        x = self.second(x + y) * part.mean()
        x.narrow(2, 1, 5).zero_()
        x.select(3, 0).mul_(2.0)
        x.flatten(2)[:, :, 3:9] -= 1.0
        last = x[:, :, -3:]
        last.clamp_(min=-0.1)
        last = last.clone()
        last.transpose_(2, 3).unsqueeze_(1)
        total = torch.zeros_like(images := torch.zeros(x.shape, dtype=x.dtype))
        alias = total
        total += x.detach()
        torch.add(x.detach(), 1.0, out=images)
        x = x + alias.mean() * images.std()
        image = x[1:]
        image[:, :, 2, 3] = 0.25
        return x * last.sum()


@pytest.mark.parametrize("grid", [(2, 1), (1, 2), (1, 1)], ids=lambda grid: f"{grid[0]}x{grid[1]}")
def test_what_is_changed_through_a_view_is_changed_where_arrays_have_a_copy_too(grid):
    images = torch.randn(3, 1, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for output, gradient, _, _ in team(grid[0] * grid[1]).call(net_tried, grid, Views, images):
        assert max(output, gradient) < 1e-12


def a_part_that_is_old(shape):
    x = Grid(Group(), shape).split(torch.rand(1, 1, 6, 6)) * 1.0
    part = x[:, :, 2:5]
    x += 1.0
    with pytest.raises(RuntimeError, match="changed in place after a part of it was taken, which a view would show"):
        part.mean()
    return x.mean().whole().item(), x[:, :, 1:4].mean().whole().item()


def test_a_part_of_what_was_changed_since_is_refused():
    for found in team(2).call(a_part_that_is_old, (2, 1)):
        assert min(found) > 1


def with_a_function_of_its_own(shape):
    layer = nn.Conv2d(1, 2, 3, bias=False)
    images = torch.rand(1, 1, 6, 6)
    found = []
    for x in (images, Grid(Group(), shape).split(images)):
        layer.zero_grad()
        mapped = layer(x)
        if x is not images:
            with pytest.raises(RuntimeError, match=r"Doubled.apply does not know arrays, .* give it x.whole\(\)"):
                Doubled.apply(mapped).mean()
            mapped = mapped.whole()
        Doubled.apply(mapped).square().mean().backward()
        found.append(layer.weight.grad.clone())
    return found


def test_a_function_that_does_not_know_arrays_does_not_lose_their_gradient():
    for alone, split in team(2).call(with_a_function_of_its_own, (2, 1)):
        torch.testing.assert_close(alone, split)


# Each exchange against its transpose.


def inner(a, b, group):
    total = (a * b).sum().detach().clone()
    group.all_reduce(total)
    return total.item()


def all_adjoint_errors(grid, seeds):
    return [adjoint_errors(grid, seed) for seed in seeds]


def adjoint_errors(grid_shape, seed):
    """|<Ax, y> - <x, A'y>| over |Ax| |y|, of each exchange; all ranks' tiles are one vector."""
    group, rng = Group(), random.Random(seed)
    grid = Grid(group, grid_shape)
    size = [rng.randint(2 * count, 12) for count in grid_shape]

    def window(length):
        start = rng.randint(0, length - 1)
        return range(start, rng.randint(start, length))

    have = grid.tiles(size)
    need = Tiles(*(tuple(window(length) for _ in range(count)) for length, count in zip(size, grid_shape, strict=True)))
    generator = torch.Generator().manual_seed(seed * 100 + group.rank)
    own = have.of(group.rank).size
    x = torch.randn(2, 3, *own, generator=generator, dtype=torch.float64, requires_grad=True)
    trade = Trade(group, have, need, (2, 3))
    found = exchange_tiles(x, trade)
    y = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    (back,) = torch.autograd.grad(found, x, y)
    errors = [error(inner(found, y, group), inner(x, back, group), inner(found, found, group), inner(y, y, group))]
    # What all ranks have alike is one vector, not one of each rank.
    alike = torch.Generator().manual_seed(seed)
    every = gather_tiles(x, Trade(group, have, have, (2, 3)))
    y = torch.randn(every.shape, generator=alike, dtype=torch.float64)
    (back,) = torch.autograd.grad(every, x, y)
    scale = every.square().sum().item(), y.square().sum().item()
    errors.append(error((every * y).sum().item(), inner(x, back, group), *scale))
    together = torch.randn(2, 3, *size, generator=alike, dtype=torch.float64, requires_grad=True)
    cut = Call(F.relu, "relu", (grid.everywhere(together),), {}).take(together, need, (2, 3))
    y = torch.randn(cut.shape, generator=generator, dtype=torch.float64)
    (back,) = torch.autograd.grad(cut, together, y)
    scale = inner(cut, cut, group), inner(y, y, group)
    errors.append(error(inner(cut, y, group), (together * back).sum().item(), *scale))
    total = reduce_from_ranks(x.sum(), group)
    (back,) = torch.autograd.grad(total, x)
    errors.append(error(total.item(), inner(x, back, group), 1.0, 1.0))
    return errors


def error(first, second, *squares):
    scale = max((squares[0] * squares[1]) ** 0.5, 1e-3)
    return abs(first - second) / scale


@pytest.mark.parametrize("grid", [(2, 1), (1, 2), (2, 2), (3, 1)], ids=lambda grid: f"{grid[0]}x{grid[1]}")
def test_each_exchange_passes_the_adjoint_test(grid):
    for found in team(grid[0] * grid[1]).call(all_adjoint_errors, grid, range(20)):
        assert max(map(max, found)) < 1e-12, found


def overlapping_net(shape):
    images = nets.data_for("U-Net")[0][:3]
    errors = net_tried(shape, partial(nets.make, "U-Net"), images, overlaps=True)[:2]
    x = Grid(Group(), shape, overlaps=True).split(images.clone().requires_grad_())
    output = nn.Conv2d(images.shape[1], 1, 3).to(images.dtype)((x * 1.0).square())
    with pytest.raises(RuntimeError, match="exchanges that overlap give no gradient of a gradient"):
        torch.autograd.grad(output.square().sum().whole(), x.source, create_graph=True)
    return errors


def test_a_net_whose_exchanges_overlap_gives_the_same():
    for errors in team(2).call(overlapping_net, (2, 1)):
        assert max(errors) < 1e-11


def gradient_of_gradient(shape):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 5, padding=2), nn.Tanh(), nn.Conv2d(3, 2, 3), nn.Tanh()).double()
    alone, images = copy.deepcopy(net), torch.randn(2, 1, 8, 7, dtype=torch.float64)
    grid, found = Grid(Group(), shape), []
    for model, split in ((net, True), (alone, False)):
        x = images.clone().requires_grad_()
        output = model(grid.split(x) if split else x)
        (gradient,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    return max((p - q).abs().max().item() / q.abs().max().item() for p, q in zip(*found, strict=True))


def test_gradients_of_gradients_come_out_right_too():
    for shape in ((2, 1), (1, 2)):
        assert max(team(2).call(gradient_of_gradient, shape)) < 1e-12


# What is refused, and what is said.


def test_an_array_s_own_names_hide_none_of_a_tensor_s():
    own = {name for name in vars(DistributedArray) if not name.startswith("__")}
    assert own & set(dir(torch.Tensor)) == {"shape", "ndim"}  # which are the same


def refused(shape, size):
    try:
        Grid(Group(), shape).split(torch.zeros(size))
    except ValueError as error:
        return str(error)


def test_grids_and_images_that_do_not_fit_are_refused():
    for sentence, *given in (
        ("a grid of 3 x 1 for 2 ranks", (3, 1), (1, 1, 5, 5)),
        ("leave a rank nothing: take a smaller grid", (2, 1), (1, 1, 1, 9)),
        ("images are (batch, ..., rows, columns)", (1, 2), (7, 5)),
    ):
        assert all(sentence in found for found in team(2).call(refused, *given))


def joined(shape):
    grid = Grid(Group(), shape)
    first, second = (grid.split(torch.rand(1, 1, size, 6)) for size in (6, 8))
    try:
        return torch.cat([first, second], 1)
    except RuntimeError as error:
        return str(error)


def test_maps_of_other_sizes_are_not_joined_without_a_word():
    assert all("must match" in found for found in team(2).call(joined, (2, 1)))


def other_sizes(shape):
    """Images of another size in a later batch."""
    torch.manual_seed(0)
    net, grid = nn.Conv2d(1, 2, 3, padding=1).double(), Grid(Group(), shape)
    images = [torch.randn(2, 1, size, size + 1, dtype=torch.float64) for size in (6, 9)]
    return max((net(grid.split(x)).whole() - net(x)).abs().max().item() for x in images)


def test_a_later_batch_may_have_images_of_another_size():
    assert max(team(2).call(other_sizes, (2, 1))) < 1e-14
