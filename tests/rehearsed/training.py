"""Each learner with each of its options, on each of its models, beside the CPU; and what surrounds a run."""

import inspect
import tempfile
from dataclasses import MISSING, fields, replace
from functools import partial

import pretended
import pytest
import rehearsal
import torch
from rehearsal import once
from rehearsed import examples
from rehearsed.examples import images, labels, rbm, rows
from torch import nn

from dlkit import training
from dlkit.models import DBN
from dlkit.training import CD, PCD, CrossEntropy, Experiment, LineSearches, Reconstruction, fine_tune, pretrain
from dlkit.training.run import Run

count = 24
GREY = (images(count), labels(count))
DATA = {  # for each learner: its models, and the data that they learn from
    "CD": {
        "RBM": (rbm, rows(count)),
        "GaussianRBM": (examples.gaussian, rows(count)),
        "CodeRBM": (examples.code, rows(count)),
        "LabelledRBM": (examples.labelled, (rows(count), labels(count))),
    },
    "UpDown": {
        "DBN": (partial(examples.dbn, True), (rows(count), labels(count))),
        "no labels": (partial(examples.dbn, True, None), rows(count)),
    },
    "DictionaryLearning": {"SparseCoding": (examples.coding, rows(count))},
    "CrossEntropy": {"ConvNet": (examples.net, GREY), "dense": (examples.dense, GREY)},
    "Reconstruction": {
        "autoencoder": (examples.autoencoder, rows(count)),
        "Autoassociator": (examples.autoassociator, rows(count)),
    },
    "OwnCost": {"RICAStage": (examples.rica, examples.images(count, 12))},
}
DATA["PCD"] = DATA["CD"]
ONLY = {"sparsity_target": {"Reconstruction": "Autoassociator"}, "sparsity_cost": {"Reconstruction": "Autoassociator"}}
OTHERWISE = {  # other values of options than their defaults, where those do not tell
    "products": ["bfloat16"],
    "sparsity_target": [0.1],
    "sparsity_cost": [0.2],
    "chains": [8],
    "cost": ["squared"],
    "corruption": [0.25],
    "distortion": [training.Affine(), training.InputDropout()],
    "rubbish": [5.0],
}
TOGETHER = {"sparsity_cost": {"sparsity_target": 0.1}}
WAITS = {  # learners for whose steps the host waits for the device, how often a step at most, and why
    "DictionaryLearning": (1, "torch looks whether the largest eigenvalue of DDᵀ has been found"),
    "LineSearches": (60, "each loss that is tried decides the next one"),
}


def options_of(kind):
    """Each option of a learner, with other values than its default."""
    yield {}
    for option in fields(kind):
        if not option.init:
            continue
        usual = None if option.default is MISSING else option.default
        values = OTHERWISE.get(option.name)
        if values is None:
            assert isinstance(usual, bool | int), f"{kind.__name__}.{option.name}: add another value to OTHERWISE"
            values = [not usual if isinstance(usual, bool) else usual + 1]
        for value in values:
            yield {option.name: value} | TOGETHER.get(option.name, {})


class Steps:
    """Context that watches the steps of runs: `waits` has for each that for which the host waited."""

    def __init__(self):
        self.waits: list[list[str]] = []

    def __enter__(self):
        self.learn = learn = Run._learn

        def watched(run, batch):
            pretended.waits.clear()
            report = learn(run, batch)
            self.waits.append(list(pretended.waits))
            return report

        Run._learn = watched
        return self

    def __exit__(self, *_):
        Run._learn = self.learn


def devices(run):
    state = [x for values in run.optimizer.state.values() for x in values.values() if isinstance(x, torch.Tensor)]
    tensors = [*run.model.state_dict().values(), *state, *run.learner.state.values()]
    tensors += [p.grad for p in run.model.parameters() if p.grad is not None]
    return {tensor.device.type for tensor in tensors}


def learn(experiment, name=""):
    """Holds a run on the device to the rule, and to what the CPU learns from the CPU's random numbers; its steps' waits
    to the table, by the learner's name."""
    seen: list[tuple[set[str], int]] = []
    look = [lambda run: seen.append((devices(run), run.memory_bytes))]
    arguments = {"steps": 4, "progress": False, "callbacks": look}
    here = experiment.run(device="cpu", **arguments)
    seen.clear()
    there = experiment.run(device=rehearsal.DEVICE, rng_device="cpu", **arguments)
    close = rehearsal.tolerance()
    if getattr(experiment.learner, "products", "") == "bfloat16":
        close = {"rtol": 0.02, "atol": max(1e-3, close.get("atol", 0.0))}
    expected, found = here.model.state_dict(), there.model.state_dict()
    torch.testing.assert_close(found, expected, **close)
    held = {parameter for group in there.optimizer.param_groups for parameter in group["params"]}
    assert held == {p for p in there.model.parameters() if p.requires_grad}, "the optimizer has other parameters"
    assert devices(there) == {"cpu"}, "what comes back is not all on the CPU"
    for where, memory_bytes in seen:
        assert rehearsal.DEVICE in where
        assert memory_bytes == there.memory_bytes == here.memory_bytes
    with Steps() as steps:
        experiment.run(device=rehearsal.DEVICE, steps=4, progress=False)
    if not rehearsal.is_pretended():  # tools/gpu_check asks CUDA itself for what the host waits
        return
    waits = steps.waits[1:]
    most, _ = WAITS.get(name, (0, ""))
    assert max(map(len, waits)) <= most, f"a step waits {max(map(len, waits))} times: {waits[0]}"
    assert not most or all(waits), f"{name} waits no longer: take it out of WAITS"


def experiment_of(model, data, learner, **arguments):
    return Experiment(model, data, learner, **{"batch_size": 6, "epochs": 1, "lr": 0.05, "momentum": 0.5} | arguments)


def experiments_of(name, kind):
    """What is said of an experiment, and a function that makes it: each of the learner's models with each option."""
    for of, (model, data) in DATA[name].items():
        for options in options_of(kind):
            if all(ONLY.get(option, {}).get(name, of) == of for option in options):
                text = ", ".join(f"{option}={value}" for option, value in options.items())
                yield f"{of} {text}".strip(), partial(experiment_of, model, data, kind(**options))


def cases_of(name, kind):
    for text, experiment in experiments_of(name, kind):
        yield text, once(lambda experiment=experiment: learn(experiment(), name))


LEARNERS = {
    name: kind
    for name in dir(training)
    if inspect.isclass(kind := getattr(training, name))
    and issubclass(kind, training.Learner)
    and kind not in (training.Learner, training.Backprop)
}


@once
def line_searches():
    arguments = {"lr": 1.0, "momentum": None, "optimizer": LineSearches}
    learn(experiment_of(examples.autoencoder, rows(24), Reconstruction(), **arguments), "LineSearches")


def with_optimizer(optimizer, **arguments):
    experiment = experiment_of(examples.net, GREY, CrossEntropy(), optimizer=optimizer, **arguments)
    return once(lambda: learn(experiment))


@once
def capturable():
    """Adam with its count of steps on the device, as CUDA graphs need it; afterwards it can go on, on the CPU."""
    optimizer = partial(torch.optim.Adam, capturable=True)
    experiment = experiment_of(examples.net, GREY, CrossEntropy(), momentum=None, optimizer=optimizer)
    run = experiment.run(device=rehearsal.DEVICE, progress=False)
    assert devices(run) == {"cpu"}
    run.optimizer.step()


@once
def a_part_of_one_s_own():
    """A frozen layer that the reader keeps, or a whole net that is refused, stays where it is."""
    part = nn.Linear(12, 6).requires_grad_(False)
    experiment = experiment_of(lambda: nn.Sequential(part, nn.Linear(6, 3)), (rows(24), labels(24)), CrossEntropy())
    assert devices(experiment.run(device=rehearsal.DEVICE, progress=False)) == {"cpu"}
    assert part.weight.device.type == "cpu"
    net = examples.net()
    with pytest.raises(ValueError, match="the same model each time"):
        experiment_of(lambda: net, GREY, CrossEntropy()).run(device=rehearsal.DEVICE, progress=False)
    assert net.output.weight.device.type == "cpu"


@once
def data_there():
    """Images and labels that are on the device already, for a run there and on the CPU."""
    grey, kinds = (tensor.to(rehearsal.DEVICE) for tensor in GREY)
    learn(experiment_of(examples.net, (grey, kinds), CrossEntropy()))


@once
def checkpoints():
    """Begun on one device and gone on with on the other, with the CPU's random numbers; the same as on one alone."""
    experiment = experiment_of(rbm, rows(24), PCD(), row_every=1)
    whole = experiment.run(steps=6, device="cpu", progress=False)
    there = rehearsal.DEVICE
    for first, second in (("cpu", there), (there, "cpu"), (there, there)):
        with tempfile.TemporaryDirectory() as folder:
            common = {"checkpoint": folder, "rng_device": "cpu", "progress": False}
            experiment.run(steps=2, device=first, **common)
            parts = experiment.run(steps=6, device=second, resume=True, **common)
        close = 0.0 if rehearsal.is_pretended() else rehearsal.ROUNDED["rtol"]
        assert parts.history["loss"] == pytest.approx(whole.history["loss"], rel=close, abs=0.0)
        torch.testing.assert_close(parts.model.W, whole.model.W, **rehearsal.tolerance())
    with tempfile.TemporaryDirectory() as folder:
        common = {"checkpoint": folder, "device": rehearsal.DEVICE, "progress": False}
        experiment.run(steps=2, **common)
        with pytest.raises(ValueError, match=f"rng_device: {there} there, cpu here"):
            experiment.run(steps=6, resume=True, **common | {"device": "cpu"})


@once
def stacks():
    """Layers trained one upon the other, unrolled, and fine-tuned: each is given what the one before gave back."""
    first = experiment_of(rbm, rows(24), CD())
    second = replace(first, model=partial(examples.RBM, 6, 4), data=None)
    for stochastic in (False, True):
        runs = pretrain([first, second], progress=False, device=rehearsal.DEVICE, stochastic=stochastic)
    net = DBN([run.model for run in runs]).classifier(3)
    tuning = experiment_of(None, (rows(24), labels(24)), CrossEntropy())
    assert devices(fine_tune(net, tuning, top_epochs=1, progress=False, device=rehearsal.DEVICE)[-1]) == {"cpu"}


NO_TENSORS = {
    "Backprop": "a base class: a learner of one's own is rehearsed as CrossEntropy is",
    "Learner": "a base class",
    "Comparison": "numbers of runs",
    "compare": "numbers of runs",
    "EarlyStop": "numbers of a history",
    "History": "numbers",
    "Run": "what `Experiment.run` makes",
    "Shard": "a run has one",
    "Strategy": "a protocol; strategies are rehearsed in two processes",
    "layer_experiments": "sizes",
    "linear_schedule": "numbers",
    "piecewise_constant": "numbers",
}
CASES = {name: dict(cases_of(name, kind)) for name, kind in LEARNERS.items() if name in DATA}
CASES |= {
    "Affine": lambda on: training.Affine()(on.inputs(images()), on.generator()),
    "InputDropout": lambda on: training.InputDropout()(on.inputs(images()), on.generator()),
    "Experiment": {
        "a part of one's own": a_part_of_one_s_own,
        "data there": data_there,
        "checkpoints": checkpoints,
        "momentum": with_optimizer(partial(torch.optim.SGD, fused=True), momentum=0.9),
        "weight decay": with_optimizer(torch.optim.SGD, weight_decay=1e-3),
        "Adam": with_optimizer(torch.optim.Adam, momentum=None),
        "Adam, fused": with_optimizer(partial(torch.optim.Adam, fused=True), momentum=None),
        "Adam, capturable": capturable,
        "Adam, not fused": with_optimizer(partial(torch.optim.AdamW, foreach=False), momentum=None),
        "RMSprop": with_optimizer(torch.optim.RMSprop),
        "float64": once(lambda: learn(experiment_of(rbm, rows(24), CD(), dtype=torch.float64))),
    },
    "LineSearches": line_searches,
    "features": {
        "means": lambda on: training.features(on.model(rbm()), on.inputs(rows()), progress=False),
        "samples": lambda on: training.features(on.model(rbm()), on.inputs(rows()), on.generator(), progress=False),
    },
    "pretrain": stacks,
    "fine_tune": stacks,
}
