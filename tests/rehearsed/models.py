"""A model's own methods take tensors on its device, as those of all modules do; functions take them from anywhere."""

import inspect
import tempfile
from itertools import islice
from pathlib import Path

import torch
from models import layer_examples
from rehearsed import examples
from rehearsed.examples import dbn, images, rbm, rows
from torch import nn

from dlkit import models

SMALL = {"visible": 5, "hidden": 3, "features": 5, "labels": 2, "in_maps": 2, "out_maps": 3, "size": 2}
SMALL |= {"maps": 3, "input": (4, 5), "table": ((0, 1), (1,))}
MAKERS = {  # a model, and what it is given
    "RBM": (rbm, rows()),
    "GaussianRBM": (examples.gaussian, rows()),
    "CodeRBM": (examples.code, rows()),
    "LabelledRBM": (examples.labelled, rows(20, 15)),
    "DBN": (dbn, rows()),
    "DirectedLayer": (lambda: dbn(untied=True).layers[0], rows()),
    "Autoassociator": (examples.autoassociator, rows()),
    "SparseCoding": (examples.coding, rows()),
    "ConvNet": (examples.net, images()),
    "LeNet5": (models.LeNet5, images(2, 28)),
    "LocalNet": (models.LocalNet, images(2, 28)),
    "ScaledTanh": (models.ScaledTanh, rows()),
    "RICAStage": (examples.rica, images(2, 12)),
    "RICAStack": (lambda: models.RICAStack([examples.rica()]), images(2, 12)),
}
UP = ("hidden_given", "free_energy", "set_visible_bias", "up")  # methods of images


def calls(on, make, x):
    """All that a model's methods make of x, on its device; of what it draws only that it draws there."""
    torch.manual_seed(0)
    model = make()
    if next(model.parameters(), None) is None:
        return model(on.inputs(x))
    model = on.model(model)
    x = x.to(on.devices["model"])
    results = {name: getattr(model, name)(x) for name in UP if hasattr(model, name)}
    if hasattr(model, "label_probabilities"):
        results["labels"] = model.label_probabilities(x[:, : rows().shape[1]])
    if type(model).forward is not nn.Module.forward:
        results["forward"] = model(x.clone())
    if "hidden_given" in results and hasattr(model, "visible_given"):
        results["visible_given"] = model.visible_given(results["hidden_given"])
    if isinstance(model, models.RBM):
        v, h, generator = x, results["hidden_given"], on.generator()
        results["energy"] = model.energy(v, h)
        results["gradient"] = model.energy_gradient(v, h, v.new_ones(len(v)))
        results["drawn"] = [model.draw_hidden(h, generator), model.draw_visible(results["visible_given"], generator)]
    if isinstance(model, models.DBN):
        results["down"] = model.down(results["up"], on.generator())
        model.untied(), model.classifier(), model.autoencoder()
    return results


def made(on, kind):
    """A model with numbers from a generator, which may be anywhere: it is made where torch makes tensors."""
    needed = {name: SMALL[name] for name in inspect.signature(kind).parameters if name in SMALL}
    return list(kind(**needed, generator=on.generator()).parameters())


def saved(on, make):
    """Written where it is, read on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        on.model(make()).save(path)
        return list(type(make()).load(path).parameters())


def chains(on, **arguments):
    return models.gibbs(on.model(rbm()), on.inputs(rows()), steps=2, generator=on.generator(), **arguments)


def begun(on, **start):
    return models.init_dream(on.model(dbn()), generator=on.generator(), **start)


def dreams(on, start, **arguments):
    model = on.model(dbn())
    begin = models.init_dream(model, generator=on.generator(), **start)
    return [tuple(one) for one in islice(models.dream(model, begin, generator=on.generator(1), **arguments), 2)]


def cases_of(name, kind):
    make, x = MAKERS.get(name) or (layer_examples.EXAMPLES[kind], torch.rand(2, *layer_examples.IMAGE))
    cases = {"its methods": lambda on: calls(on, make, x)}
    if "generator" in inspect.signature(kind).parameters:
        cases["made from a generator"] = lambda on: made(on, kind)
    if hasattr(kind, "save"):
        cases["saved"] = lambda on: saved(on, make)
        cases["saved"].on_the_cpu = True
    return cases


KINDS = {
    name: kind for name in dir(models) if inspect.isclass(kind := getattr(models, name)) and issubclass(kind, nn.Module)
}
half = torch.arange(12) < 6
NO_TENSORS = {
    "KINDS": "a table of kinds of layer",
    "LayerKind": "functions of a layer and of shapes",
    "Dream": "what `dream` gives",
    "pretrained": "a name; the model is on the CPU",
}
KNOWN = {*MAKERS, *(kind.__name__ for kind in layer_examples.EXAMPLES)}
CASES = {name: cases_of(name, kind) for name, kind in KINDS.items() if name in KNOWN}
CASES |= {
    "init_chains": lambda on: models.init_chains(on.model(rbm()), 4, on.generator(), a=on.inputs(half.float())),
    "chain": lambda on: list(islice(models.chain(on.model(rbm()), on.inputs(rows()), generator=on.generator()), 2)),
    "gibbs": {
        "free": chains,
        "clamped": lambda on: chains(on, clamped=on.inputs(half)),
        "clamped by a mask of the CPU": lambda on: chains(on, clamped=half),
    },
    "init_dream": {
        "from noise": lambda on: begun(on, chains=3),
        "from images": lambda on: begun(on, images=on.inputs(rows())),
    },
    "dream": {
        "of anything": lambda on: dreams(on, {"chains": 3}),
        "of a label": lambda on: dreams(on, {"chains": 3}, label=1),
        "of labels": lambda on: dreams(on, {"chains": 3}, label=on.inputs(torch.arange(3))),
        "from a state": lambda on: dreams(on, {"images": on.inputs(rows(3))}),
        "in part": lambda on: dreams(on, {"chains": 3}, images=on.inputs(rows(3)), clamped=half),
    },
    "classifier": lambda on: list(models.classifier([on.model(rbm())], 4, generator=on.generator()).parameters()),
}
