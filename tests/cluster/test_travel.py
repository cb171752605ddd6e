"""What the reader wrote in files of their own is on the engines as it is in the notebook."""

import importlib
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from splitting import difference

from dlkit import Experiment
from dlkit.cluster import travel
from dlkit.strategies import DataParallel

LAYERS = """
from torch import nn
FACTOR = {factor}
class Scaled(nn.Linear):
    def forward(self, x):
        return super().forward(x) * FACTOR
"""
NETS = """
import own_layers
from own_package import part
class Net(own_layers.Scaled):
    def __init__(self):
        super().__init__(12, 4)
    def forward(self, x):
        from own_package.deep import shift
        return super().forward(x) + part.SHIFT + shift()
def watch(run):
    return {{"factor": own_layers.FACTOR}}
class Learner(__import__("dlkit.training", fromlist=["x"]).CrossEntropy):
    def loss(self, output, batch):
        from own_layers import FACTOR
        return super().loss(output * FACTOR, batch)
class Slow(__import__("torch").optim.SGD):
    def step(self, closure=None):
        import own_layers
        for group in self.param_groups:
            group["lr"] /= own_layers.FACTOR
        return super().step(closure)
"""
FILES = {
    "own_layers.py": LAYERS,
    "own_nets.py": NETS,
    "own_package/__init__.py": "",
    "own_package/part.py": "SHIFT = {factor}\n",
    "own_package/deep.py": "from .part import SHIFT\ndef shift():\n    from . import part\n    return part.SHIFT\n",
}
NAMES = ("own_layers", "own_package.part", "own_package.deep", "own_package", "own_nets")


def write(folder, factor):
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text.format(factor=factor) + "#" * int(factor))


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Makes the modules in files, of which the folder is told to this process alone."""
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path, 1.0)
    yield importlib.import_module("own_nets")
    for name in NAMES:
        sys.modules.pop(name, None)


def compare(own, cluster):
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(60, 12, generator=generator), torch.randint(0, 4, (60,), generator=generator)
    experiment = Experiment(own.Net, data, own.Learner(), optimizer=own.Slow, epochs=2, batch_size=20, lr=0.5)
    alone = experiment.run(callbacks=[own.watch], progress=False)
    split = cluster.run(experiment, DataParallel(), callbacks=[own.watch], progress=False)
    assert alone.history["factor"] == split.history["factor"]
    assert difference(alone.model, split.model) < 1e-5
    return split.history["factor"][-1], split.model


def test_nets_learners_optimizers_and_callbacks_of_one_s_own_files_travel_also_when_they_change(own, tmp_path, cluster):
    assert compare(own, cluster)[0] == 1
    write(tmp_path, 2.0)
    assert compare(own, cluster)[0] == 1  # a file that has changed is not what the notebook has
    for name in NAMES:
        importlib.reload(sys.modules[name])
    factor, model = compare(own, cluster)
    assert factor == 2
    assert type(model) is own.Net


def test_a_result_is_of_the_notebook_s_class(own, cluster):
    nets = cluster.call(own.Net)
    assert {type(net) for net in nets} == {own.Net}


def test_what_is_installed_goes_by_reference(own, tmp_path):
    mine = set(travel.own_modules())
    assert set(NAMES) - {"own_package.deep"} <= mine  # which only a function imports
    assert not mine & {"torch", "torch.ops", "dlkit", "dlkit.training", "random", "cloudpickle", "__main__"}
    with travel.by_value(travel.own_modules()):
        pass
    assert not travel.cloudpickle.list_registry_pickle_by_value()
    folder = tmp_path / "target"
    (folder / "some-1.0.dist-info").mkdir(parents=True)
    assert travel.is_installed(str(folder / "some" / "__init__.py"), "some")
    assert travel.is_installed(str(folder / "some" / "part.py"), "some.part")
    assert not travel.is_installed(str(tmp_path / "own_layers.py"), "own_layers")


COMPILED = list(Path(sysconfig.get_path("stdlib"), "lib-dynload").glob("xxlimited.*"))


@pytest.mark.skipif(not COMPILED, reason="this Python came without its example of a compiled module")
def test_a_compiled_module_is_the_same_on_engines_or_refused(tmp_path, monkeypatch, cluster):
    copy = tmp_path / COMPILED[0].name
    copy.write_bytes(COMPILED[0].read_bytes())
    assert "xxlimited" not in sys.modules
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "lib-dynload" not in entry])
    module = importlib.import_module("xxlimited")
    try:
        assert cluster.call(module.foo, 2, 3) == [5, 5]
        with copy.open("ab") as file:
            file.write(b"changed")
        travel.digest.cache_clear()
        with pytest.raises(ImportError, match=r"the engines have another `xxlimited` \(.*\) than the notebook"):
            cluster.call(module.foo, 2, 3)
    finally:
        del sys.modules["xxlimited"]
        travel.digest.cache_clear()


def test_a_module_that_engines_cannot_find_is_named_with_the_mend(tmp_path, monkeypatch, cluster):
    def needs():
        return importlib.import_module("own_needed").VALUE

    class Missing:
        def __reduce__(self):
            return needs_module, ("own_needed",)

    (tmp_path / "own_needed.py").write_text("VALUE = 7\n")
    with pytest.raises(ImportError, match=r"the engines find no module `own_needed`: put the folder of its file on"):
        cluster.call(lambda item: item, Missing())
    monkeypatch.syspath_prepend(tmp_path)
    assert cluster.call(needs) == [7, 7]


def needs_module(name):
    return importlib.import_module(name).VALUE
