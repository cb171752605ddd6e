"""Splitting by neurons: layers against the whole module, and runs against one process."""

import copy
import gc
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from ranks import team
from splitting import STEPS, difference, digits, experiments, run, same_bits, small_dbn
from torch import nn

from dlkit import Experiment
from dlkit.core import matmul
from dlkit.distributed.group import Group
from dlkit.models.convnet import ConvNet, LeNet5
from dlkit.models.convolution import SparseConv2d, Subsample
from dlkit.models.graph_check import graph_of
from dlkit.models.rbm import RBM, GaussianRBM
from dlkit.models.sparse_coding import SparseCoding
from dlkit.models.top_rbms import CodeRBM, LabelledRBM
from dlkit.strategies.graph.on_rank import gather_part, on_rank, scatter_whole
from dlkit.strategies.tensor.rbm import split_hidden
from dlkit.strategies.tensor.tensor_parallel import TensorParallel, plan_neurons
from dlkit.training import CD, PCD, CrossEntropy, Reconstruction, UpDown
from dlkit.training.dictionary import DictionaryLearning
from dlkit.training.fine_tuning import LineSearches
from dlkit.training.run import Run

EXPERIMENTS = experiments()


class Residual(nn.Module):
    """A forward of its own around a chain."""

    def __init__(self, units):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(units, 9), nn.Tanh(), nn.Linear(9, units), nn.Tanh())
        self.scale = nn.Linear(units, units)

    def forward(self, x):
        return x + self.scale(x) * self.body(x)


def same_activation():
    squash = nn.Sigmoid()
    return nn.Sequential(nn.Linear(30, 8), squash, nn.Linear(8, 9), squash, nn.Linear(9, 7), squash)


def hooked():
    net = nn.Sequential(nn.Linear(30, 8), nn.Tanh(), nn.Linear(8, 9), nn.Linear(9, 7))
    net[2].register_forward_hook(lambda module, args, found: found.softmax(1))
    return net


NETS = {
    "LeNet-5": (LeNet5, (28, 28)),
    "LeNet-5, softmax": (partial(LeNet5, output="softmax", sub_sampling="average"), (28, 28)),
    "ConvNet": (ConvNet, (28, 28)),
    "DBN": (lambda: small_dbn().classifier(10), (784,)),
    "autoencoder": (lambda: small_dbn().autoencoder(), (784,)),
    "one activation": (same_activation, (30,)),
    "a layer alone": (lambda: nn.Sequential(nn.Linear(30, 7, bias=False)), (30,)),
    "no biases": (
        lambda: nn.Sequential(nn.Linear(30, 7, bias=False), nn.ReLU(True), nn.Linear(7, 5, bias=False)),
        (30,),
    ),
    "layers that know nothing of parts": (
        lambda: nn.Sequential(nn.Linear(30, 7), nn.BatchNorm1d(7), nn.Linear(7, 8), nn.Softmax(1), nn.Linear(8, 2)),
        (30,),
    ),
    "chains within": (
        lambda: nn.Sequential(nn.Linear(30, 8), nn.Tanh(), Residual(8), nn.Sequential(nn.Tanh(), nn.Linear(8, 6))),
        (30,),
    ),
    "maps of all kinds": (
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 5, 3, stride=2, padding=1, padding_mode="circular"), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(5, 2, 3, padding=1), SparseConv2d([[0], [0, 1], [1], [0, 1]], 2), Subsample(4, 2, stride=1)),
            *(nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 7, 1, bias=False), nn.AdaptiveAvgPool2d(2), nn.Tanh()),
            *(nn.Flatten(), nn.Tanh(), nn.Linear(28, 4)),
        ),
        (2, 16, 16),
    ),
    "a layer with a hook": (hooked, (30,)),
    "rows of rows": (lambda: nn.Sequential(nn.Linear(30, 8), nn.Tanh(), nn.Linear(8, 6), nn.Linear(6, 5)), (4, 30)),
    "maps come out": (lambda: nn.Sequential(nn.Conv2d(1, 6, 3), nn.Sequential(nn.Tanh())), (1, 6, 6)),
}


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_answers_and_gradients_of_split_nets_are_those_of_the_whole(ranks):
    def compared(name, make, shape):
        torch.manual_seed(0)
        whole = make().double()
        x = torch.rand(5, *shape, dtype=torch.float64, requires_grad=True)
        found, group = copy.deepcopy(whole), Group()
        layouts = on_rank(plan_neurons(graph_of(found, x), group.world_size), group)
        push = torch.rand_like(whole(x))
        answers, gradients = [], []
        for net in (whole, found):
            x.grad = None
            answers.append(net(x))
            (answers[-1] * push).sum().backward()
            gradients.append({name: p.grad for name, p in net.named_parameters()} | {"x": x.grad})
        torch.testing.assert_close(answers[1], answers[0], msg=lambda text: f"{name}: {text}")
        assert list(gradients[0]) == list(gradients[1])
        for each, gradient in gradients[0].items():
            part = gather_part(each, gradients[1][each], layouts, group)
            torch.testing.assert_close(part, gradient, msg=lambda text, each=each: f"{name}, {each}: {text}")
        return sum(p.numel() for p in found.parameters()) / sum(p.numel() for p in whole.parameters())

    def all_compared():
        return {name: compared(name, *net) for name, net in NETS.items()}

    for held in team(ranks).call(all_compared):
        assert max(held.values()) < 1, held
        assert held["DBN"] < 1.1 / ranks


@pytest.mark.parametrize("ranks", [3, 4])
def test_each_rank_holds_its_part_alone(ranks):
    def whole_kernels():
        gc.collect()
        tensors = [x for x in gc.get_objects() if type(x) in (torch.Tensor, nn.Parameter)]
        return sum(x.shape == (120, 16, 5, 5) for x in tensors)

    def held():
        before = whole_kernels()  # of tests that these ranks have run
        started = Run(Experiment(LeNet5, digits(200), CrossEntropy()), 1, torch.device("cpu"), None, TensorParallel())
        return {name: p.numel() for name, p in started.model.named_parameters()}, whole_kernels() - before

    parts = team(ranks).call(held)
    expected = {
        "c1.0.weight": {3: [50, 50, 50], 4: [50, 50, 25, 25]},
        "s2.0.bias": {3: [2, 2, 2], 4: [2, 2, 1, 1]},
        "c3.0.weight": {3: [25 * 18, 25 * 20, 25 * 22], 4: [25 * 12, 25 * 14, 25 * 16, 25 * 18]},
        "c3.0.bias": {3: [6, 5, 5], 4: [4, 4, 4, 4]},
        "c5.0.weight": {3: [40 * 400] * 3, 4: [30 * 400] * 4},
        "f6.0.weight": {3: [84 * 40] * 3, 4: [84 * 30] * 4},  # of its inputs
        "f6.0.bias": {3: [84] * 3, 4: [84] * 4},
    }
    for name, counts in expected.items():
        assert [held[name] for held, _ in parts] == counts[ranks], name
    assert [whole for _, whole in parts] == [0] * ranks


def test_a_group_of_some_ranks_or_of_one_splits_a_model_too():
    def answered(sets):
        groups = [dist.new_group(ranks) for ranks in sets]
        mine = next(place for place, ranks in enumerate(sets) if dist.get_rank() in ranks)
        group = Group(groups[mine])
        torch.manual_seed(0)
        net = ConvNet()
        x = torch.rand(3, 28, 28)
        whole = net(x)
        layouts = on_rank(plan_neurons(graph_of(net, x), group.world_size), group)
        weight = net.output.weight.detach()
        again = scatter_whole("output.weight", gather_part("output.weight", weight, layouts, group), layouts, group)
        torch.testing.assert_close(net(x), whole)
        return weight.shape, torch.equal(weight, again)

    assert team(4).call(answered, [[0, 1], [2, 3]]) == [((10, 48), True)] * 4
    assert team(2).call(answered, [[0], [1]]) == [((10, 96), True)] * 2


@pytest.mark.skipif(matmul._one_dnn is None, reason="torch has no other products here")
def test_parts_of_linear_layers_are_multiplied_by_the_faster_library():
    def made():
        net = nn.Sequential(nn.Linear(256, 256), nn.Sigmoid(), nn.Linear(256, 256))
        x = torch.rand(128, 256)
        on_rank(plan_neurons(graph_of(net, x), 2), Group())
        with matmul.fast_linear(net, len(x)):
            todo, names = [net(x).grad_fn], []
        while todo:
            node = todo.pop()
            names.append(node.name())
            todo += [below for below, _ in node.next_functions if below is not None]
        return names.count("_LinearBackward")

    assert team(2).call(made) == [2, 2]


# Runs


def noisy(rows):
    return rows + 0.5 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))


def machines():
    """RBMs of each kind under CD and PCD, by name."""
    images, labels = digits()
    rows = images.flatten(1)
    kinds = {
        "RBM": (RBM, rows, 0.05),
        "Gaussian": (GaussianRBM, noisy(rows), 0.001),
        "labelled": (partial(LabelledRBM, labels=10), (rows, labels), 0.05),
        "code": (CodeRBM, rows, 0.001),
    }
    return {
        f"{name}, {type(learner).__name__}": Experiment(
            partial(kind, 784, 30), data, learner, lr=lr, momentum=0.5, weight_decay=2e-4
        )
        for name, (kind, data, lr) in kinds.items()
        for learner in (CD(), PCD(k=2))
    } | {"sparse RBM": replace(EXPERIMENTS["CD"], learner=CD(sparsity_target=0.1))}


def alike(outcomes, alone):
    assert difference(alone.model, outcomes[0].model) < 1e-5
    assert all(same_bits(outcomes[0].model, other.model) for other in outcomes[1:])
    for mine, theirs in zip(alone.history, outcomes[0].history, strict=True):
        for column in ("loss", "error"):
            if column in mine:
                assert theirs[column] == pytest.approx(mine[column], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", ["LeNet-5", "ConvNet", "DBN", "autoencoder", "autoassociator"])
def test_a_split_net_learns_what_one_process_does(name):
    alone = run(EXPERIMENTS[name])
    for ranks in (2, 3, 4) if name in ("LeNet-5", "DBN") else (3,):
        alike(team(ranks).call(run, EXPERIMENTS[name], TensorParallel()), alone)


@pytest.mark.parametrize("name", machines())
def test_a_split_rbm_learns_what_one_process_does(name):
    experiment = machines()[name]
    alone = run(experiment)
    for ranks in (2, 3, 4) if name == "RBM, CD" else (3,):
        alike(team(ranks).call(run, experiment, TensorParallel()), alone)


def test_a_sparse_denoising_autoassociator_splits_too():
    learner = Reconstruction(corruption=0.2, sparsity_target=0.1)
    experiment = replace(EXPERIMENTS["autoassociator"], learner=learner)
    alike(team(3).call(run, experiment, TensorParallel()), run(experiment))


def test_parts_of_an_rbm_give_the_energies_of_the_whole():
    def compared(make):
        generator = torch.Generator().manual_seed(0)
        whole, group = make(generator=generator, std=0.5).double(), Group()
        v, h = (torch.rand(6, count, generator=generator, dtype=torch.float64) for count in (9, 7))
        part = copy.deepcopy(whole)
        split_hidden(part, group)
        mine = slice(part.units.start, part.units.stop)
        pairs = [
            (part.energy(v, h[:, mine]), whole.energy(v, h)),
            (part.free_energy(v), whole.free_energy(v)),
            (part.visible_given(h[:, mine]), whole.visible_given(h)),
            (part.hidden_given(v), whole.hidden_given(v)[:, mine]),
        ]
        if isinstance(whole, LabelledRBM):
            pairs.append((part.label_free_energies(v[:, :6]), whole.label_free_energies(v[:, :6])))
        for one, other in pairs:
            torch.testing.assert_close(one, other)

    for make in (RBM, GaussianRBM, CodeRBM):
        team(3).call(compared, partial(make, 9, 7))
    team(3).call(compared, partial(LabelledRBM, 6, 7, labels=3))


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 60), nn.Sigmoid(), nn.Linear(60, 10))


def convolutions():
    return nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.Conv2d(6, 8, 5), nn.AvgPool2d(20))


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_bytes_sent_are_those_of_the_formulas(ranks):
    def sent(make):
        started = Run(Experiment(make, digits(100), Silent()), 1, torch.device("cpu"), None, TensorParallel())
        for _ in started._steps():
            pass
        return [(span.name, span.bytes_sent) for span in started.shard.recorder.spans if span.kind == "exchange"]

    sums = 2 * (ranks - 1) / ranks
    for spans in team(ranks).call(sent, perceptron):
        assert spans == [("all-reduce", int(sums * 4 * 100 * 10))]
    maps = 4 * 100 * 24 * 24
    for spans in team(ranks).call(sent, convolutions):
        assert spans == [
            ("all-gather", (ranks - 1) * -(-6 // ranks) * maps),
            ("all-gather", (ranks - 1) * (8 // ranks + bool(8 % ranks)) * 4 * 100),
            ("all-reduce", int(sums * 6 * maps)),
        ]


class Silent(CrossEntropy):
    """Of maps of 1x1, and with no look at the net first."""

    def start(self, model, data, batch_size, generator):
        pass

    def inputs(self, batch, generator):
        return batch.images[:, None]

    def loss(self, found, batch):
        loss = F.cross_entropy(found.flatten(1), batch.labels % found.shape[1])
        return loss, {"loss": loss.detach()}


# Torch's own


@pytest.mark.parametrize("ranks", [2, 3])
def test_torchs_own_tensor_parallelism_agrees(ranks):
    experiment = replace(EXPERIMENTS["autoencoder"], optimizer=torch.optim.SGD)
    alike(team(ranks).call(run, experiment, TensorParallel("dtensor")), run(experiment))


def test_a_run_goes_on_split_by_torch_from_a_checkpoint_of_ours_and_back(tmp_path):
    experiment, folder = replace(EXPERIMENTS["DBN"], optimizer=torch.optim.SGD), str(tmp_path)
    team(3).call(run, experiment, TensorParallel("dtensor"), steps=4, checkpoint=folder)
    team(3).call(run, experiment, TensorParallel(), steps=8, checkpoint=folder, resume=True)
    alike(team(2).call(run, experiment, TensorParallel("dtensor"), checkpoint=folder, resume=True), run(experiment))


# Checkpoints


@pytest.mark.parametrize("name", ["ConvNet", "PCD"])
def test_a_run_goes_on_split_or_alone_from_the_same_checkpoint(name, tmp_path):
    experiment = EXPERIMENTS[name]
    if name == "ConvNet":
        experiment = replace(experiment, model=partial(ConvNet, sub_sampling="trainable"))
    alone = run(experiment)
    split = team(3).call(run, experiment, TensorParallel())[0]

    folder = str(tmp_path / "split")
    team(3).call(run, experiment, TensorParallel(), steps=10, checkpoint=folder)
    copy_of = str(shutil.copytree(folder, tmp_path / "copy"))
    on_one = run(experiment, checkpoint=folder, resume=True)
    assert on_one.step == STEPS
    assert difference(alone.model, on_one.model) < 1e-5
    resumed = team(3).call(run, experiment, TensorParallel(), checkpoint=copy_of, resume=True)[0]
    assert same_bits(split.model, resumed.model)
    assert [row["loss"] for row in split.history] == [row["loss"] for row in resumed.history]

    folder = str(tmp_path / "alone")
    run(experiment, steps=10, checkpoint=folder)
    on_two = team(2).call(run, experiment, TensorParallel(), checkpoint=folder, resume=True)[0]
    assert difference(alone.model, on_two.model) < 1e-5


def test_state_of_adam_is_split_with_the_parameters(tmp_path):
    experiment = replace(EXPERIMENTS["ConvNet"], optimizer=torch.optim.Adam, lr=0.001, momentum=None)
    alone, folder = run(experiment), str(tmp_path)
    team(2).call(run, experiment, TensorParallel(), steps=10, checkpoint=folder)
    on_three = team(3).call(run, experiment, TensorParallel(), steps=11, checkpoint=folder, resume=True)[0]
    on_one = run(experiment, checkpoint=folder, resume=True)
    assert (on_three.step, on_one.step) == (11, STEPS)
    assert difference(alone.model, on_one.model) < 1e-4  # Adam divides by gradients near 0


# What is refused


def tied():
    net = nn.Sequential(nn.Linear(784, 784), nn.Sigmoid(), nn.Linear(784, 784), nn.Linear(784, 10))
    net[2].weight = net[0].weight
    return net


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(784, 10)

    def forward(self, x):
        return self.rnn(x[None])[0][0]


class OwnRBM(RBM):
    pass


def test_layers_that_share_a_parameter_stay_whole():
    images, labels = digits(200)
    experiment = Experiment(tied, (images.flatten(1), labels), CrossEntropy(), lr=0.01)
    alike(team(2).call(run, experiment, TensorParallel()), run(experiment))


def one_output():
    return nn.Sequential(nn.Linear(784, 1))


def untied():
    return small_dbn().untied()


def reasons(cases):
    """What each rank is told of each experiment; ranks that refuse alike stay in step."""

    def told(experiment, strategy):
        try:
            run(experiment, strategy)
        except ValueError as error:
            return str(error)
        return "it was not refused"

    def all_told():
        return [told(experiment, strategy) for experiment, strategy, _ in cases]

    first, second = team(2).call(all_told)
    assert first == second
    return zip(first, [sentence for *_, sentence in cases], strict=True)


def test_what_cannot_be_split_is_refused_with_the_reason():
    images, labels = digits(200)
    cases = [
        (Recurrent, CrossEntropy(), "Recurrent has nothing to split by neurons, which takes a Linear, a convolution"),
        (partial(RBM, 784, 1), CD(), "1 hidden units for 2 ranks: give each at least one"),
        (partial(RBM, 784, 9), CD(centred=True), "centred=True moves each visible bias by the means of all hidden"),
        (partial(OwnRBM, 784, 9), CD(), "OwnRBM may do with its hidden units what needs all of them"),
        (untied, UpDown(), "UpDown trains a DBN by passes of its own, which need each layer's"),
        (partial(SparseCoding, 784, 9), DictionaryLearning(), "DictionaryLearning trains a SparseCoding by passes of"),
    ]
    experiments = [
        (Experiment(make, (images.flatten(1), labels), learner), TensorParallel(), sentence)
        for make, learner, sentence in cases
    ]
    too_small = Experiment(one_output, (images.flatten(1), labels * 0), CrossEntropy())
    line_searches = replace(EXPERIMENTS["DBN"], optimizer=LineSearches, momentum=None, lr=1.0)
    experiments += [
        (too_small, TensorParallel(), "no layer of this Sequential has as many outputs as there are ranks, 2 (0 has"),
        (
            line_searches,
            TensorParallel(),
            "LineSearches looks at all parameters, or at whole ones, at once (their norm, say), and under Tensor",
        ),
    ]
    for reason, sentence in reasons(experiments):
        assert reason.startswith(sentence)


def test_what_torchs_own_does_not_split_is_refused_with_the_reason():
    unfused = {"optimizer": torch.optim.SGD}
    maps = Experiment(convolutions, digits(200), Silent(), **unfused)
    cases = [
        (maps, "0, a Conv2d: DTensor's conv2d gathers everything first and splits nothing: TensorParallel() splits it"),
        (replace(EXPERIMENTS["LeNet-5"], **unfused), 'pad, a InputPad: "dtensor" is for chains of Linear layers'),
        (replace(EXPERIMENTS["CD"], **unfused), 'the model, a RBM: "dtensor" is for chains of Linear layers'),
        (EXPERIMENTS["DBN"], "torch's fused SGD takes no DTensors: give the Experiment optimizer=torch.optim.SGD"),
    ]
    for reason, sentence in reasons([(case, TensorParallel("dtensor"), sentence) for case, sentence in cases]):
        assert reason.startswith(sentence)


def test_another_way_to_split_is_refused():
    with pytest.raises(ValueError, match='using="torch": it is "dlkit" or "dtensor"'):
        TensorParallel("torch")
