"""What each strategy trains in two processes, and for what a rank's step waits besides its exchanges."""

from functools import partial
from typing import Any, NamedTuple

import torch
from rehearsed import examples
from rehearsed.examples import images, labels, rows
from torch import Tensor, nn

from dlkit import Experiment
from dlkit.models import LocalNet
from dlkit.strategies import DataParallel, Hybrid, ModelAveraging, OneWeirdTrick, Pipeline, SpatialParallel
from dlkit.strategies import TensorParallel as Tensors
from dlkit.training import CD, PCD, CrossEntropy, Reconstruction, UpDown

COUNT = 26  # images, in batches of 12: the last has two
GREY = (images(COUNT), labels(COUNT))
BRIGHTEST = float(GREY[0][:, 0, 0].max())


class Case(NamedTuple):
    """by_gloo: whether it is tried by gloo too."""

    strategy: Any
    experiment: Any
    by_gloo: bool = False


class Routed(nn.Module):
    """Whose dark images and bright ones go different ways: of a batch, and of a rank's part, one may be unused."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.dark, self.bright, self.never = (nn.Linear(256, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        bright = x[:, 0] > 0.5
        ways = (self.dark, ~bright), (self.bright, bright)
        out = x.new_zeros(len(x), 3)
        for layer, taken in ways:
            if taken.any():
                out = out + layer(x) * taken[:, None]
        return out


class Forgetful(nn.Module):
    """Which a trial shows to use all that it has for each image; from the second step on it uses `first` alone, but for
    the brightest image, which takes `bright` too."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.bright, self.forgotten = (nn.Linear(256, 3) for _ in range(3))
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        begins, out = not self.passes, self.first(x)
        if self.training:
            self.passes += 1
        is_bright = x[:, :1] >= BRIGHTEST
        if begins or is_bright.any():
            out = out + self.bright(x) * is_bright
        return out + self.forgotten(x) if begins else out


def of(model, data, learner, **arguments):
    arguments = {"batch_size": 12, "epochs": 1, "lr": 0.05, "momentum": 0.5} | arguments
    return Experiment(model, data, learner, **arguments)


def local():
    torch.manual_seed(0)
    return LocalNet((16, 16), 3)


def chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.Tanh(), nn.Linear(8, 3))


net = of(examples.net, GREY, CrossEntropy())
dense = of(examples.dense, GREY, CrossEntropy())
cd, pcd = of(examples.rbm, rows(COUNT), CD()), of(examples.rbm, rows(COUNT), PCD())
autoassociator = of(examples.autoassociator, rows(COUNT), Reconstruction(corruption=0.25))
autoencoder = of(examples.autoencoder, rows(COUNT), Reconstruction(corruption=0.25))
up_down = of(partial(examples.dbn, True), (rows(COUNT), labels(COUNT)), UpDown())
adam = of(examples.net, GREY, CrossEntropy(), momentum=None, optimizer=torch.optim.Adam)
routed = of(Routed, GREY, CrossEntropy(), weight_decay=0.01)
forgetful = of(Forgetful, GREY, CrossEntropy(), weight_decay=0.01)
dtensors = of(chain, GREY, CrossEntropy(), optimizer=torch.optim.SGD)
CASES = {
    "DataParallel": {
        "net": Case(DataParallel(bucket=1000), net, by_gloo=True),
        "naive": Case(DataParallel("naive"), net),
        "ring": Case(DataParallel("ring"), net),
        "ddp": Case(DataParallel("ddp"), net, by_gloo=True),
        "dropout": Case(DataParallel(), dense),
        "CD": Case(DataParallel(), cd),
        "PCD": Case(DataParallel(), pcd, by_gloo=True),
        "up-down": Case(DataParallel(), up_down),
        "Adam": Case(DataParallel(), adam),
        "routed": Case(DataParallel(), routed),
        "forgetful": Case(DataParallel(), forgetful),
        "forgetful, naive": Case(DataParallel("naive"), forgetful),
    },
    "ModelAveraging": {
        "net": Case(ModelAveraging(every=1), of(examples.net, GREY, CrossEntropy(), momentum=None)),
        "PCD": Case(ModelAveraging(every=1), of(examples.rbm, rows(COUNT), PCD(), momentum=None), by_gloo=True),
    },
    "TensorParallel": {
        "net": Case(Tensors(), net, by_gloo=True),
        "dropout": Case(Tensors(), dense),
        "PCD": Case(Tensors(), pcd),
        "autoassociator": Case(Tensors(), autoassociator),
        "dtensor": Case(Tensors("dtensor"), dtensors),
    },
    "SpatialParallel": {
        "net": Case(SpatialParallel(), net),
        "local filters": Case(SpatialParallel(), of(local, GREY, CrossEntropy()), by_gloo=True),
    },
    "Pipeline": {
        "net": Case(Pipeline(3), net, by_gloo=True),
        "autoencoder": Case(Pipeline(3, "gpipe"), autoencoder),
        "dropout": Case(Pipeline(3), dense),
    },
    "Hybrid": {
        "neurons": Case(Hybrid(1, 2), net),
        "CD": Case(Hybrid(2, 1), cd, by_gloo=True),
    },
    "OneWeirdTrick": {"net": Case(OneWeirdTrick(), net, by_gloo=True)},
}
WAITS = {  # cases in which a step makes the host wait, by NCCL, how often at most, and why
    ("DataParallel", "routed"): (6, "the net looks at its images; ranks sum up what a batch has not used, to read it"),
    ("DataParallel", "forgetful"): (3, "the net looks at its images"),
    ("DataParallel", "forgetful, naive"): (3, "the net looks at its images"),
    ("DataParallel", "ddp"): (10, "torch makes its buckets anew in the second step; and to it the exchange is a CPU's"),
}
ALWAYS = ["synchronize"]  # in `after_step`: a rank's Python must not be steps ahead of what its GPU has exchanged
NO_TENSORS = {
    "Cost": "numbers",
    "LayerCost": "numbers",
    "RankMemory": "numbers",
    "memory_on_paper": "numbers, of shapes",
    "bubble": "a formula",
    "cost": "numbers, of shapes",
    "explain": "words, of shapes",
    "measured_bubble": "numbers, of spans",
    "Adagrad": "on a server, in the CPU's memory",
    "ByStaleness": "the same",
    "Plain": "the same",
    "Rule": "the same",
    "Downpour": "servers and messages are in the CPU's memory; its replicas on a GPU are not rehearsed yet",
    "BackupWorkers": "the same",
    "ElasticAveraging": "the same",
    "Sandblaster": "the same, of its workers",
    "sandblast_virtually": "on the CPU",
    "train_virtually": "on the CPU",
    "Outer": "numbers; ModelAveraging's step with it is torch's SGD",
}
