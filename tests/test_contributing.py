"""CONTRIBUTING's examples, run as they stand there; and its map, against the tree."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ranks import team
from splitting import difference, digits, run, same_bits
from torch import nn

from dlkit import Experiment
from dlkit.data import Batch
from dlkit.models import KINDS
from dlkit.strategies import DataParallel, TensorParallel, cost
from dlkit.training import CrossEntropy

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SETTINGS = {"steps": 3, "device": "cpu", "progress": False}


def example(name):
    """What the first block of Python after "**name" defines."""
    (block,) = re.findall(r"```python\n(.*?)```", TEXT.split(f"**{name}**")[1].split("\n**")[0], flags=re.DOTALL)
    names = {"__name__": "example"}
    exec(compile(block, f"CONTRIBUTING.md: {name}", "exec", dont_inherit=True), names)
    return SimpleNamespace(**{key: value for key, value in names.items() if key != "__name__"})


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.Tanh(), nn.Linear(20, 10))


def test_a_model():
    net = example("A model").TwoLayers()
    images = torch.rand(3, 28, 28)
    by_hand = net[3](torch.tanh(images.flatten(1) @ net[1].weight.T + net[1].bias))
    torch.testing.assert_close(net(images), by_hand)


def test_a_kind_of_layer(request):
    def trained(kind, strategy=None):
        KINDS[kind.Square] = kind.KINDS[kind.Square]  # on each rank
        net = lambda: nn.Sequential(  # noqa: E731
            nn.Flatten(), nn.Linear(784, 20), kind.Square(), nn.Linear(20, 10)
        )
        return run(Experiment(net, digits(200), CrossEntropy(), lr=0.01), strategy, **SETTINGS)

    kind = example("A kind of layer")
    request.addfinalizer(lambda: KINDS.pop(kind.Square))
    split = team(2).call(lambda: trained(example("A kind of layer"), TensorParallel()))
    assert difference(trained(kind).model, split[0].model) < 1e-5


def test_a_learner():
    learner = example("A learner").Hinge()
    output, labels = torch.randn(5, 10), torch.tensor([1, 2, 3, 4, 9])
    loss, _ = learner.loss(output, Batch(torch.zeros(5, 1), labels))
    by_hand = [
        sum(max(0.0, 1 - float(row[label]) + float(row[k])) for k in range(10) if k != label) / 10
        for row, label in zip(output, labels.tolist(), strict=True)
    ]
    assert float(loss) == pytest.approx(sum(by_hand) / 5)
    experiment = Experiment(perceptron, digits(250), learner, lr=0.1)
    split = team(3).call(run, experiment, DataParallel(), **SETTINGS)
    assert difference(run(experiment, **SETTINGS).model, split[0].model) < 1e-5


def test_an_optimizer(tmp_path):
    optimizer = example("An optimizer").MuonAndSGD
    experiment = Experiment(perceptron, digits(250), CrossEntropy(), batch_size=250, lr=0.01, optimizer=optimizer)
    whole, net = run(experiment, **SETTINGS).model, experiment.initial_model()
    run(experiment, **SETTINGS | {"steps": 1}, checkpoint=tmp_path)
    assert same_bits(whole, run(experiment, **SETTINGS, checkpoint=tmp_path, resume=True).model)
    by_hand = [
        torch.optim.Muon([net[1].weight, net[3].weight], lr=0.01, weight_decay=0.0),
        torch.optim.SGD([net[1].bias, net[3].bias], lr=0.01),
    ]
    images, labels = digits(250)
    for _ in range(SETTINGS["steps"]):
        net.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        for one in by_hand:
            one.step()
    plain = replace(experiment, optimizer=torch.optim.SGD)
    assert difference(whole, net) < 5e-3 < difference(whole, run(plain, **SETTINGS).model)  # Muon computes in bfloat16


def test_a_strategy():
    strategy = example("A strategy").OneMessageEach()
    experiment = Experiment(perceptron, digits(250), CrossEntropy(), lr=0.1)
    split = team(2).call(run, experiment, strategy, **SETTINGS)
    assert difference(run(experiment, **SETTINGS).model, split[0].model) < 1e-5
    paper = cost(perceptron(), (28, 28), 100, 2, strategy)
    assert split[0].bytes_sent == pytest.approx(3 * paper.bytes_sent(0), abs=3 * 8)


def test_a_widget():
    widget = example("A widget").OneImage(torch.rand(3, 28, 28))
    before = widget.picture.value
    widget.index.value = 2
    assert widget.picture.value != before
    assert repr(widget) == "OneImage(3 images)"


def test_an_exercise(capsys):
    check = example("An exercise").mean_of_two
    assert check(lambda a, b: (a + b) / 2)
    assert not check(lambda a, b: a + b)
    assert "That is their sum" in capsys.readouterr().out


def test_a_notebook():
    assert example("A notebook").run.step == 5


def test_a_bench():
    (row,) = example("A bench").measure()
    assert row.value > 0


def test_a_paper(tmp_path):
    measure = example("A paper").measure
    (row,) = measure(tmp_path, quick=True)
    assert 0 < float(row.measured) < 100
    assert measure(tmp_path, quick=True) == [row]  # from the file


def test_the_map_names_every_module():
    tree = TEXT.split("```")[1]
    modules = [path for path in (ROOT / "dlkit").rglob("*.py") if not path.stem.startswith("_")]
    spread = {"ui", "draw", "controls", "exercises", "bench", "papers", "data", "tensor", "spatial", "pipeline"}
    missing = [path for path in modules if path.parent.name not in spread and path.name not in tree]
    assert not missing
    assert not [name for name in re.findall(r"\b(\w+\.py)\b", tree) if not any(p.name == name for p in modules)]
