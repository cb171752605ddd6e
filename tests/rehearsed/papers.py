"""What papers measure a model by, on a few digits: each function of a paper that is given a model or tensors."""

import inspect
import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from unittest import mock

import rehearsal
from rehearsal import on_the_cpu, once
from rehearsed import examples
from torch import Tensor, nn

from dlkit import data, papers
from dlkit.models import DBN
from dlkit.papers import hinton2006, hinton_salakhutdinov2006, salakhutdinov2008
from dlkit.training import CD

TAKES = (DBN, nn.Module, Tensor)


def functions():
    """The names of the functions of all papers that take a model or tensors: module.function."""
    for paper in papers.NAMES:
        module = import_module(f"dlkit.papers.{paper}")
        for name, function in vars(module).items():
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                kinds = [parameter.annotation for parameter in inspect.signature(function).parameters.values()]
                if any(inspect.isclass(kind) and issubclass(kind, TAKES) for kind in kinds):
                    yield f"{paper}.{name}"


def deep():
    return DBN.of([784, 8, 6], labels=10, std=0.5, generator=examples.seeded())


def errors(on):
    few = data.Split(on.inputs(examples.images(6, 28)), on.inputs(examples.labels()))
    with mock.patch.object(hinton2006.data, "load", return_value=data.Dataset(few, few, few)):
        return hinton2006.errors(on.model(deep()), draws=1)


def squared_error(on):
    return hinton_salakhutdinov2006.squared_error(on.model(examples.autoencoder()), on.inputs(examples.rows()))


@once
def estimate():
    """The digits may be anywhere; a paper trains on the CPU, for its table to be measured again to the bit."""
    training = replace(salakhutdinov2008.trainings()[0], learner=CD(), name="CD-1")
    settings = {"QUICK_STEPS": 3, "QUICK_BURN_IN": 2}
    digits = examples.rows(100, 784)
    with mock.patch.multiple(salakhutdinov2008, **settings):
        results = []
        for device in ("cpu", rehearsal.DEVICE):
            with tempfile.TemporaryDirectory() as folder:
                there = digits.to(device)
                results.append(salakhutdinov2008.estimate(training, there, there[:9], Path(folder), quick=True))
    assert results[0]["ais"] == results[1]["ais"]
    assert results[0]["reverse"] == results[1]["reverse"]


NO_TENSORS = {
    "NAMES": "names",
    "measured": "a name",
    "measured_table": "a name",
    "le2012.experiment": "a description of a training, which is on the CPU",
    "run": "a name; papers train on the CPU",
}
CASES = {
    "hinton2006.errors": on_the_cpu(errors),
    "hinton2006.misread_dreams": on_the_cpu(lambda on: hinton2006.misread_dreams(on.model(deep()), chains=1, steps=2)),
    "hinton_salakhutdinov2006.squared_error": on_the_cpu(squared_error),
    "salakhutdinov2008.estimate": estimate,
}
