"""By image region: each rank has a band of the rows of every map, and borrows the rows just outside that it sees."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.core.evaluation import eval_no_grad
from dlkit.core.random import ShardedGenerator
from dlkit.data.batch import Batch
from dlkit.distributed.group import Group
from dlkit.models.convnet import ScaledTanh
from dlkit.models.convolution import SparseConv2d
from dlkit.models.locally_connected import ContrastNorm, LocallyConnected2d
from dlkit.strategies.base import DistributedShard, kind, refuse_optimizer, refuse_what_differs
from dlkit.strategies.data.data_parallel import unflatten_into
from dlkit.strategies.spatial.halo import Windows, gather_rows, halo_exchange, overlap, rows_of, windows_of
from dlkit.training.learner import Backprop

CONVOLUTIONS = (nn.Conv2d, SparseConv2d)
WEIGHED = (*CONVOLUTIONS, LocallyConnected2d)
EACH_PLACE = (  # what they give for a place is of that place alone
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Hardtanh),
    *(nn.Tanh, nn.Sigmoid, ScaledTanh, ContrastNorm),
)


@dataclass(frozen=True)
class SpatialParallel:
    """Rank r computes the r-th of nearly equal bands of rows of every map, from its own rows and a halo of others'.

    A net's first layers are split so: convolutions, locally connected layers, sub-sampling and pooling, and what works
    place by place. At the first layer that sees whole maps, such as Flatten, their rows are gathered, and from there on
    each rank computes the same. Weights of convolutions are on all ranks, and their gradients, each of a band, are
    added up; of a locally connected layer a rank has the weights of its rows alone.
    A rank sends in a step, with n ranks and numbers of 4 bytes: for each layer but the first, the rows that others
    lack, forward, and the gradients of those that it lacked itself, back: rows x width x maps x batch x 4; where rows
    are gathered, (n-1) times the largest band, forward; and 2 (n-1)/n of the split layers' shared weights.
    Source: Coates, Huval, Wang, Wu, Catanzaro, Ng 2013, Deep learning with COTS HPC systems.
    """

    def shard(self, run: Any) -> "SpatialShard":
        """ValueError for learners without a backward pass, and for nets and optimizers that cannot be split so."""
        refuse_what_differs(run.model, "SpatialParallel")
        if not isinstance(run.learner, Backprop):
            raise ValueError(
                f"{kind(run.learner)} has no net that images go through layer by layer, whose maps SpatialParallel "
                "could split: use DataParallel."
            )
        return SpatialShard(run)


class SpatialShard(DistributedShard):
    """A net of which this rank computes a band; every batch is here whole."""

    model_is_whole = False

    def __init__(self, run: Any):
        super().__init__(run.model, run.learner)
        image = Batch(run.data.images[:1].to(run.device))
        given = run.learner.inputs(image, ShardedGenerator(run.generator.device))
        self.bands = SpatialNet(run.model, given, self.group)
        self.model: nn.Module = self.bands
        if self.bands.cut:
            refuse_optimizer(run.experiment, "SpatialParallel")

    def reduce_grad(self, batch: Batch, generator: ShardedGenerator) -> dict[str, Tensor]:
        report = self.learner.fill_grad(self.model, batch, generator)
        self.bands.reduce_gradients()
        return report

    def gather(self, name: str, part: Tensor) -> Tensor:
        return self.bands.gather(name, part)

    def scatter(self, name: str, whole: Tensor) -> Tensor:
        return self.bands.scatter(name, whole)


class Layer(NamedTuple):
    """A module that is no chain itself, and which rows of its input (`have`) and output (`own`) each rank has.

    They are None where each rank has all. `given` and `gives` are the shapes of one image's maps.
    """

    name: str
    module: nn.Module
    have: list[range] | None
    own: list[range] | None
    given: tuple[int, ...]
    gives: tuple[int, ...]
    windows: Windows | None

    def need(self) -> list[range]:
        """The rows of its input that each rank's rows of its output see."""
        assert self.windows is not None
        assert self.own is not None
        return [overlap(self.windows.seen(rows), range(self.given[1])) for rows in self.own]


def plan(net: nn.Module, image: Tensor, world_size: int) -> list[Layer]:
    """The layers of `net`, and who has which rows; `image` (1, ...) is what the net is given, for its shape alone.

    ValueError, with the reason, if there is nothing to split, or the net goes on with places after its maps were whole.
    """
    found: list[Layer] = []
    have, mixer, x = None, "", image.clone()
    with eval_no_grad(net):
        for name, module in chain(net):
            given, x = tuple(x.shape[1:]), module(x)
            gives, windows = tuple(x.shape[1:]), windows_of(module) if len(given) == 3 else None
            full = type(module) in CONVOLUTIONS and len(gives) == 3 and gives[1] == 1  # sees all rows there are
            if mixer and type(module) in WEIGHED and not full:
                raise ValueError(
                    f"{mixer} needs whole maps, and {name}, a {kind(module)}, is to be split again after it: "
                    "SpatialParallel splits layers up to the first that needs whole maps."
                )
            own = None
            if windows is not None and not full and not mixer:
                own = rows_of(gives[1], world_size)
            elif have is not None and type(module) in EACH_PLACE:
                own = have
            elif have is not None:
                mixer = f"{name}, a {kind(module)},"
            found.append(Layer(name, module, have, own, given, gives, windows))
            have = own
    split = [layer for layer in found if layer.own and type(layer.module) in WEIGHED]
    if not split:
        raise ValueError(
            f"{kind(net)} has no layer with places, a convolution or a locally connected layer, whose rows "
            "SpatialParallel could split: use DataParallel or TensorParallel."
        )
    if split[0].gives[1] < world_size:
        rows, name = split[0].gives[1], split[0].name
        raise ValueError(
            f"the maps of {name} have {rows} rows, fewer than {world_size} ranks: use at most {rows} engines."
        )
    used = [id(parameter) for layer in found for parameter in layer.module.parameters()]
    if len(set(used)) < len(used):
        raise ValueError(f"{kind(net)} uses weights twice, which SpatialParallel cannot part: give each layer its own.")
    return found


def chain(net: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules that images pass one after another. ValueError if the net is no chain."""
    if not isinstance(net, nn.Sequential) or type(net).forward is not nn.Sequential.forward:
        if not name:
            raise ValueError(
                f"{kind(net)} is no nn.Sequential, so SpatialParallel cannot tell in which order images pass its "
                "layers: use DataParallel."
            )
        yield name, net
        return
    for each, module in net._modules.items():
        assert module is not None
        yield from chain(module, f"{name}.{each}" if name else each)


class SpatialNet(nn.Sequential):
    """`net`, of which this rank of `group` computes a band of every map, from whole images and to whole answers.

    The net's own modules are changed for it. Parameters have the names they had; of those in `cut` only this rank's
    rows are here. After a backward pass `reduce_gradients` makes the gradients the whole net's. `given`: a batch for
    its shape.
    """

    def __init__(self, net: nn.Module, given: Tensor, group: Group):
        layers = plan(net, given, group.world_size)
        super().__init__(OrderedDict((name, module) for name, module in net._modules.items() if module is not None))
        self.layers, self.group = layers, group
        self.cut: dict[str, list[range]] = {}
        self.partial: list[nn.Parameter] = []  # have gradients of this rank's rows alone
        end = max(number for number, layer in enumerate(layers) if layer.own)
        for layer in layers[: end + 1]:
            if isinstance(layer.module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) and layer.own:
                layer.module.padding = (0, 0)  # a band has none at its inner edges
            if type(layer.module) is not LocallyConnected2d:
                self.partial += [p for p in layer.module.parameters() if p.requires_grad]
                continue
            assert layer.own is not None
            for name, whole in list(layer.module.named_parameters()):
                self.cut[f"{layer.name}.{name}"] = layer.own
                mine = nn.Parameter(self.scatter(f"{layer.name}.{name}", whole.detach()), whole.requires_grad)
                setattr(layer.module, name, mine)

    def forward(self, input: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        x = input
        for layer in self.layers:
            if layer.have is not None and layer.own is None:
                x = gather_rows(x, self.group, layer.have)
            x = layer.module(x) if layer.own is None or layer.windows is None else self.band(x, layer)
        end = self.layers[-1].own
        return x if end is None else gather_rows(x, self.group, end)

    def band(
        self, x: Float[Tensor, "batch maps height width"], layer: Layer
    ) -> Float[Tensor, "batch out_maps high wide"]:
        """This rank's rows of a layer's output, from its rows of the input."""
        windows, rank = layer.windows, self.group.rank
        assert windows is not None
        assert layer.own is not None
        if layer.have is None and tuple(x.shape[1:]) != layer.given:
            raise ValueError(f"maps of {tuple(x.shape[1:])} for a net that was split for maps of {layer.given}.")
        own, everything = layer.own[rank], [range(layer.given[1])] * self.group.world_size
        x = halo_exchange(x, self.group, layer.have or everything, layer.need())
        if not own:  # no rows, but all that autograd asks of the other ranks too
            nothing = x.new_zeros(len(x), layer.gives[0], 0, layer.gives[2])
            return nothing * sum((parameter.sum() for parameter in layer.module.parameters()), x.sum())
        seen = windows.seen(own)
        if windows.fill is not None:
            above, below = max(-seen.start, 0), max(seen.stop - layer.given[1], 0) + windows.unseen
            edges = (*windows.sides, above, below)
            x = F.pad(x, edges, value=windows.fill) if any(edges) else x
        return layer.module(x)[:, :, : len(own)]

    def reduce_gradients(self) -> None:
        """Make .grad the whole net's: the sum over all ranks, by one message, where each has that of its rows."""
        gradients = [parameter.grad for parameter in self.partial if parameter.grad is not None]
        if gradients:
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            self.group.all_reduce(flat)
            unflatten_into(flat, gradients)

    def gather(self, name: str, part: Tensor) -> Tensor:
        """The whole of a parameter of this name, or of what is kept beside it."""
        return self.group.all_gather(part, [len(rows) for rows in self.cut[name]]) if name in self.cut else part

    def scatter(self, name: str, whole: Tensor) -> Tensor:
        """This rank's rows of such a whole, if it is cut."""
        if name not in self.cut:
            return whole
        rows = self.cut[name][self.group.rank]
        return whole[rows.start : rows.stop].clone()
