"""What an Experiment is given and cannot take: one sentence, with a mend that is run here and then trains."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import seeded
from torch import nn

from dlkit import Experiment
from dlkit.models import RBM, GaussianRBM
from dlkit.strategies import DataParallel
from dlkit.training import CD, PCD, Backprop, CrossEntropy, LineSearches, Reconstruction

IMAGES, LABELS = torch.rand(41, 12, generator=seeded()), torch.arange(41) % 4
LINEAR = nn.Linear(12, 4)


def small(**changes):
    """Five steps an epoch, the last on one image."""
    usual = {"model": partial(nn.Linear, 12, 4), "data": (IMAGES, LABELS), "learner": CrossEntropy()}
    return Experiment(**usual | {"batch_size": 10, "epochs": 1} | changes)


def trained(**changes):
    steps = {"steps": changes.pop("steps")} if "steps" in changes else {}
    return small(**changes).run(progress=False, device="cpu", **steps)


class Hinge(Backprop):
    def loss(self, output, batch):
        loss = F.multi_margin_loss(output, batch.labels)
        return loss, {"loss": loss}


class Spread(Backprop):
    """One image has none."""

    def loss(self, output, batch):
        loss = output.std(0).mean()
        return loss, {"loss": loss}


class Masked(nn.Module):
    """Its mask is no number that is trained."""

    def __init__(self, mask):
        super().__init__()
        self.layer, self.mask = nn.Linear(12, 4), nn.Parameter(mask, requires_grad=False)

    def forward(self, x):
        return self.layer(x * self.mask)


class Fourier(nn.Module):
    """Weights of two parts, as complex numbers or as floats."""

    def __init__(self, as_floats=False):
        super().__init__()
        weight = torch.ones(12, 4, dtype=torch.complex64) / 12
        self.as_floats, self.W = as_floats, nn.Parameter(torch.view_as_real(weight) if as_floats else weight)

    def forward(self, x):
        return (x.to(torch.complex64) @ (torch.view_as_complex(self.W) if self.as_floats else self.W)).abs()


class Words(nn.Module):
    def __init__(self, sparse):
        super().__init__()
        self.embed = nn.EmbeddingBag(16, 4, sparse=sparse)

    def forward(self, x):
        return self.embed((x * 15).long())


def standardised(x):
    return (x - x.mean(0)) / x.std(0)  # of one image NaN, and not an error


class Standardised(nn.Linear):
    def forward(self, x):
        return super().forward(standardised(x))


def frozen(made):
    return made.requires_grad_(False)


def normalised(kind=nn.BatchNorm1d):
    return nn.Sequential(nn.Linear(12, 5), kind(5), nn.ReLU(), nn.Linear(5, 4))


REFUSED = {  # the wrong arguments, the words, and the arguments that the mend makes of them
    "a model": (
        {"model": LINEAR},
        "model= is itself a model, Linear: give what makes one, partial(Linear, ...), or to go on from this one "
        "partial(copy.deepcopy, model).",
        {"model": partial(copy.deepcopy, LINEAR)},
    ),
    "a name for a model": (
        {"model": "LeNet5"},
        "model='LeNet5' cannot be called: give what makes a model, such as partial(RBM, 784, 500).",
        {"model": partial(RBM, 12, 5), "learner": CD()},
    ),
    "a class that needs arguments": (
        {"model": nn.Linear},
        "model= is called with no argument, and Linear needs some: give partial(Linear, in_features=..., "
        "out_features=...).",
        {"model": partial(nn.Linear, in_features=12, out_features=4)},
    ),
    "a partial that needs more": (
        {"model": partial(nn.Linear, 12)},
        "Linear needs some: give partial(Linear, out_features=...).",
        {"model": partial(nn.Linear, 12, out_features=4)},
    ),
    "a function that needs arguments": (
        {"model": lambda width: nn.Linear(12, width)},
        "needs some: give partial(<lambda>, width=...).",
        {"model": partial(lambda width: nn.Linear(12, width), width=4)},
    ),
    "no model": (
        {"model": lambda: None},
        "model= gives a NoneType when it is called, not a model: let it return one.",
        {"model": lambda: nn.Linear(12, 4)},
    ),
    "the same model again": (
        {"model": lambda: LINEAR},
        "model= gives the same model each time it is called, so that a run would go on from the one before it: give "
        "partial(copy.deepcopy, net) for a net that is there already, or copy.deepcopy of a part of it.",
        {"model": partial(copy.deepcopy, LINEAR)},
    ),
    "the same part again": (
        {"model": lambda: nn.Sequential(LINEAR, nn.ReLU())},
        "model= gives models that have 0.weight in common each time it is called",
        {"model": lambda: nn.Sequential(copy.deepcopy(LINEAR), nn.ReLU())},
    ),
    "the same layers again": (
        {"model": partial(nn.Sequential, LINEAR, nn.ReLU())},
        "model= gives models that have 0.weight in common each time it is called",
        {"model": partial(copy.deepcopy, nn.Sequential(LINEAR, nn.ReLU()))},
    ),
    "a learner's class": (
        {"learner": CrossEntropy},
        "learner=CrossEntropy is the class itself: give a learner, CrossEntropy().",
        {"learner": CrossEntropy()},
    ),
    "a learner's name": (
        {"learner": "cross-entropy"},
        "learner='cross-entropy' is a name: give a learner, such as CrossEntropy() or Reconstruction().",
        {"learner": CrossEntropy()},
    ),
    "torch's loss": (
        {"learner": nn.CrossEntropyLoss()},
        "learner= is a loss, CrossEntropyLoss, and no learner: give CrossEntropy() for the cross-entropy of logits, or "
        'for another loss a Backprop whose loss(output, batch) returns it, as `loss, {"loss": loss}`.',
        {"learner": CrossEntropy()},
    ),
    "torch's function": ({"learner": F.multi_margin_loss}, "is a loss, multi_margin_loss, and", {"learner": Hinge()}),
    "the class of a loss": ({"learner": nn.MultiMarginLoss}, "is a loss, MultiMarginLoss, and", {"learner": Hinge()}),
    "another object": (
        {"learner": 3},
        "learner= is of class int, which is no Learner: derive it from dlkit.training.Learner, or, if it "
        "backpropagates a loss, from dlkit.training.Backprop.",
        {"learner": Hinge()},
    ),
    "an optimizer's name": (
        {"optimizer": "adam"},
        "optimizer='adam' is a name: give the class, torch.optim.Adam.",
        {"optimizer": torch.optim.Adam},
    ),
    "an optimizer made already": (
        {"optimizer": torch.optim.Adam(LINEAR.parameters(), betas=(0.5, 0.9))},
        "optimizer= is made already, of the parameters of another model: give "
        "optimizer=partial(torch.optim.Adam, betas=(0.5, 0.9)), lr=0.001, weight_decay=0, and the Experiment makes it.",
        {"optimizer": partial(torch.optim.Adam, betas=(0.5, 0.9)), "lr": 0.001, "weight_decay": 0},
    ),
    "SGD made already": (
        {"optimizer": torch.optim.SGD(LINEAR.parameters(), lr=0.01, momentum=0.9)},
        "give optimizer=torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=0, and",
        {"optimizer": torch.optim.SGD, "lr": 0.01, "momentum": 0.9, "weight_decay": 0},
    ),
    "no optimizer": (
        {"optimizer": None},
        "optimizer=None cannot be called: give a class, such as torch.optim.Adam.",
        {"optimizer": torch.optim.Adam},
    ),
    "a momentum that would not count": (
        {"optimizer": partial(torch.optim.SGD, momentum=0.9)},
        "optimizer= has momentum=0.9, and the Experiment momentum=0.0, which is what counts: give momentum=0.9 to the "
        "Experiment.",
        {"optimizer": torch.optim.SGD, "momentum": 0.9},
    ),
    "an lr that would not count": (
        {"optimizer": partial(torch.optim.Adam, lr=0.001)},
        "optimizer= has lr=0.001, and the Experiment lr=0.1, which is what counts: give lr=0.001 to the Experiment.",
        {"optimizer": torch.optim.Adam, "lr": 0.001},
    ),
    "momentum for Adam": (
        {"optimizer": torch.optim.Adam, "momentum": 0.9},
        "Adam takes no momentum: leave momentum out of the Experiment.",
        {"optimizer": torch.optim.Adam},
    ),
    "decay for line searches": (
        {"optimizer": LineSearches, "lr": 1.0, "weight_decay": 0.1},
        "LineSearches takes no weight decay: leave it out of the Experiment.",
        {"optimizer": LineSearches, "lr": 1.0},
    ),
    "a whole float": (
        {"batch_size": 10.0},
        "batch_size=10.0 is of type float: give a whole number, batch_size=10.",
        {"batch_size": 10},
    ),
    "a part of an epoch": (
        {"epochs": 2.5},
        "epochs=2.5 is of type float: give a whole number, epochs=2 or, to end within an epoch, run(steps=...).",
        {"steps": 12},
    ),
    "a count as text": (
        {"row_every": "2"},
        "row_every='2' is text: give the number, row_every=2.",
        {"row_every": 2},
    ),
    "none of them": ({"epochs": 0}, "epochs=0: it must be at least 1.", {"epochs": 1}),
    "no row": (
        {"row_every": 0},
        "row_every=0: it must be at least 1, or None for a row an epoch.",
        {"row_every": None},
    ),
    "an lr as text": ({"lr": "0.1"}, "lr='0.1' is text: give the number, lr=0.1.", {"lr": 0.1}),
    "an lr as list": (
        {"lr": [0.1, 0.01]},
        "lr=[0.1, 0.01] is no number: give one, or a function of the epoch.",
        {"lr": lambda epoch: 0.1 if epoch < 1 else 0.01},
    ),
    "a decay that is none": (
        {"weight_decay": None},
        "weight_decay=None is no number: give one.",
        {"weight_decay": 0.0},
    ),
    "no seed": (
        {"seed": None},
        "seed=None gives no random numbers that can be had again: give a number, such as seed=0.",
        {"seed": 0},
    ),
    "a seed as float": ({"seed": 3.0}, "seed=3.0 is of type float: give a whole number, seed=3.", {"seed": 3}),
    "a seed too large": (
        {"seed": 2**60 + 5},
        f"seed={2**60 + 5} is too large: give a smaller one, seed=5.",
        {"seed": 5},
    ),
    "a batch too large": (
        {"batch_size": 64},
        "41 images for batches of 64: make batch_size smaller.",
        {"batch_size": 41},
    ),
    "frozen": (
        {"model": lambda: frozen(nn.Linear(12, 4))},
        "all parameters of the Linear are frozen, and so nothing is trained: `requires_grad_(True)` those that are to "
        "learn.",
        {"model": lambda: frozen(nn.Linear(12, 4)).requires_grad_(True)},
    ),
    "nothing to train": (
        {"model": nn.Flatten},
        "the Flatten has no parameters, and so nothing to train: give a model with layers that have some.",
        {"model": lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 4))},
    ),
    "half": (
        {"model": lambda: nn.Linear(12, 4).half()},
        "weight is torch.float16 and the images torch.float32: make the model .float().",
        {"model": lambda: nn.Linear(12, 4).half().float()},
    ),
    "complex": (
        {"model": Fourier},
        "W is torch.complex64: hold its parts as floats, nn.Parameter(torch.view_as_real(...)), and take "
        "torch.view_as_complex of it in forward.",
        {"model": partial(Fourier, as_floats=True)},
    ),
    "sparse gradients": (
        {"model": partial(Words, True)},
        "the gradient of embed.weight is sparse, which SGD does not take: make that layer with sparse=False.",
        {"model": partial(Words, False)},
    ),
    "a lone image": (
        {"model": normalised},
        "41 images in batches of 10 leave one image alone in a batch, from which the Sequential cannot learn (Expected "
        "more than 1 value per channel when training, got input size torch.Size([1, 5])): batch_size=9.",
        {"model": normalised, "batch_size": 9},
    ),
    "batches of one": (
        {"model": normalised, "batch_size": 1},
        "41 images in batches of 1 leave one image alone in a batch",
        {"model": normalised, "batch_size": 3},
    ),
    "a lone image that gives NaN": (
        {"model": partial(Standardised, 12, 4)},
        "from which the Standardised cannot learn (its gradient is not finite): batch_size=9.",
        {"model": partial(Standardised, 12, 4), "batch_size": 9},
    ),
    "a loss that needs two": (
        {"learner": Spread()},
        "leave one image alone in a batch, from which the Linear cannot learn (its gradient is not finite): "
        "batch_size=9.",
        {"learner": Spread(), "batch_size": 9},
    ),
    "no labels": ({"data": IMAGES}, "the data have no labels: give (images, labels).", {"data": (IMAGES, LABELS)}),
    "more classes than outputs": (
        {"data": (IMAGES, LABELS + 1)},
        "labels run from 1 to 4, not 0 to 3 for 4 classes, first in labels[3] = 4: they are counted from 1, "
        "`labels - 1`.",
        {"data": (IMAGES, LABELS)},
    ),
    "maps for a net of rows": (
        {"data": (IMAGES.reshape(41, 3, 4), LABELS)},
        "begin it with nn.Flatten(), or give images.flatten(1).",
        {
            "data": (IMAGES.reshape(41, 3, 4), LABELS),
            "model": lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 4)),
        },
    ),
    "a model without forward": (
        {"model": partial(RBM, 12, 4)},
        "RBM has no forward for images to go through: unroll a stack by `dbn.classifier()` or `dbn.autoencoder()`, or "
        "train it by CD or UpDown.",
        {"model": partial(RBM, 12, 4), "learner": CD()},
    ),
    "a model of another kind": (
        {"learner": CD()},
        "contrastive divergence trains models of class RBM, and model= makes a Linear.",
        {"learner": CD(), "model": partial(RBM, 12, 4)},
    ),
    "another width": (
        {"learner": CD(), "model": partial(RBM, 10, 4)},
        "images have shape (12,), 12 values each, and the model takes 10: resize the images to (10,), or build the "
        "model for 12.",
        {"learner": CD(), "model": partial(RBM, 12, 4)},
    ),
    "a reconstruction of another size": (
        {"learner": Reconstruction()},
        "the net gives 4 values for images of 12 pixels: it must give as many back.",
        {"learner": Reconstruction(), "model": lambda: nn.Sequential(nn.Linear(12, 12), nn.Sigmoid())},
    ),
    "16 levels for a probability": (
        {"learner": CD(), "model": partial(RBM, 12, 4), "data": (IMAGES * 16).round()},
        "images run from 0 to 16, outside [0, 1], in 41 of 41 images, first in images[0]: `images / 16`.",
        {"learner": CD(), "model": partial(RBM, 12, 4), "data": (IMAGES * 16).round() / 16},
    ),
    "any numbers for a probability": (
        {"learner": CD(), "model": partial(RBM, 12, 4), "data": IMAGES * 3 - 1},
        "`(images - images.min()) / (images.max() - images.min())`, or a model with Gaussian visible units.",
        {"learner": CD(), "model": partial(GaussianRBM, 12, 4), "data": IMAGES * 3 - 1},
    ),
    "a loss that is no number": (
        {"model": lambda: nn.Sequential(nn.Linear(12, 4)), "learner": Hinge(), "lr": 1e38, "epochs": 3},
        "try a smaller lr (now 1e+38).",
        {"model": lambda: nn.Sequential(nn.Linear(12, 4)), "learner": Hinge(), "lr": 0.1, "epochs": 3},
    ),
}


@pytest.mark.filterwarnings("ignore:std")  # torch's, of one image
@pytest.mark.parametrize(("wrong", "words", "mended"), REFUSED.values(), ids=REFUSED)
@pytest.mark.usefixtures("unchecked")
def test_what_is_refused_is_said_in_a_sentence_and_the_mend_trains(wrong, words, mended):
    before = {name: value.clone() for name, value in LINEAR.state_dict().items()}
    with pytest.raises((TypeError, ValueError, FloatingPointError)) as refused:
        trained(**wrong)
    assert words in str(refused.value)
    assert str(refused.value).endswith(".")
    run = trained(**mended)
    assert run.stopped is None
    assert math.isfinite(run.history["loss"][-1])
    assert all(torch.equal(value, before[name]) for name, value in LINEAR.state_dict().items())


@pytest.mark.usefixtures("unchecked")
def test_sound_arguments_are_taken():
    for sound in (
        {"batch_size": np.int64(10), "seed": np.int32(3), "lr": np.float32(0.1)},
        {"lr": lambda epoch: 0.1, "momentum": None},
        {"optimizer": partial(torch.optim.SGD, momentum=0.9, nesterov=True), "momentum": 0.9},
        {"optimizer": partial(torch.optim.SGD, momentum=0.9), "momentum": lambda epoch: 0.5},
        {"seed": -1},
    ):
        assert trained(**sound).step == 5
    for template in (None, RBM):  # for fine_tune and layer_experiments, which replace the model
        small(model=template)


def test_a_mask_that_is_no_number_is_no_hindrance():
    """It was refused, with a mend that did not help."""
    mask = torch.arange(12) % 3 > 0
    masked, multiplied = trained(model=partial(Masked, mask)), trained(model=partial(Masked, mask.float()))
    assert torch.equal(masked.model.layer.weight, multiplied.model.layer.weight)
    assert masked.model.mask.dtype == torch.bool


def test_sparse_gradients_go_to_optimizers_that_take_them():
    dense, sparse = (
        trained(model=partial(Words, sparse), optimizer=torch.optim.SGD).model.embed.weight for sparse in (False, True)
    )
    torch.testing.assert_close(dense, sparse)


def test_sparse_gradients_are_refused_in_a_split_run_before_ranks_meet():
    with pytest.raises(ValueError, match=r"^the gradient of embed is sparse, which a split run .*with sparse=False\.$"):
        small(model=partial(Words, True), optimizer=torch.optim.SGD).run(strategy=DataParallel(), progress=False)


# One image alone


@pytest.mark.parametrize(
    ("model", "batch_size", "steps"),
    [
        (lambda: nn.Sequential(nn.Linear(12, 5), nn.GroupNorm(1, 5), nn.Linear(5, 4)), 10, None),
        (lambda: normalised().eval(), 10, None),
        (normalised, 10, 4),  # the lone image is never reached
        (normalised, 41, None),
    ],
)
def test_nets_that_learn_from_one_image_or_never_meet_one_are_left_alone(model, batch_size, steps):
    assert trained(model=model, batch_size=batch_size, **({} if steps is None else {"steps": steps})).step > 0


def test_the_trial_leaves_the_run_and_the_global_generator_as_they_were():
    """Dropout draws in it, and normalisation of maps counts it."""

    def net():
        layers = nn.Unflatten(1, (3, 4)), nn.BatchNorm1d(3), nn.Dropout(), nn.Flatten(), nn.Linear(12, 4)
        return nn.Sequential(*layers)

    state = torch.get_rng_state()
    run = trained(model=net, steps=5)
    assert run.model[1].num_batches_tracked == 5
    torch.set_rng_state(state)
    untried = trained(model=net, steps=4).model.state_dict()  # the lone image is never reached
    torch.set_rng_state(state)
    tried = small(model=net, epochs=2)
    after = []
    tried.run(progress=False, device="cpu", steps=5, on_step=lambda run: after.append(copy.deepcopy(run.model)))
    assert all(torch.equal(value, after[3].state_dict()[name]) for name, value in untried.items())


# State kept in a closure


def test_what_is_frozen_may_be_shared_and_stays_as_it_is():
    """A trained part under a new one, and constants: each run has a copy of them, also of what it counts."""
    below = nn.Sequential(nn.Linear(12, 5), nn.BatchNorm1d(5)).requires_grad_(False)
    before = copy.deepcopy(below.state_dict())
    runs = [trained(model=lambda: nn.Sequential(below, nn.Linear(5, 4)), batch_size=41) for _ in range(2)]
    assert all(torch.equal(value, before[name]) for name, value in below.state_dict().items())
    assert runs[0].model[0][1].num_batches_tracked == 1
    for name, value in runs[0].model.state_dict().items():
        assert torch.equal(value, runs[1].model.state_dict()[name])


@pytest.mark.parametrize("shared", ["view", "parameter", "tied"])
def test_shared_memory_is_found_under_another_name(shared):
    weight = nn.Parameter(torch.zeros(4, 12))

    def model():
        made = nn.Linear(12, 4)
        made.weight = {"view": nn.Parameter(weight.data[:4]), "parameter": weight}.get(shared, made.weight)
        if shared == "tied":  # within one model: no fault
            return nn.Sequential(made, nn.Linear(4, 12), made)
        return made

    if shared == "tied":
        assert trained(model=model).step == 5
        return
    with pytest.raises(ValueError, match="models that have weight in common each time"):
        trained(model=model)


# Lazy layers


def lazy_rows():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.Tanh(), nn.LazyLinear(4))


def lazy_maps():
    maps = nn.LazyConv2d(3, 2), nn.LazyInstanceNorm2d(affine=True), nn.ReLU()
    return nn.Sequential(nn.Unflatten(1, (1, 3)), *maps, nn.Flatten(), nn.LazyLinear(4))


def lazy_autoencoder():
    return nn.Sequential(nn.LazyLinear(5), nn.Sigmoid(), nn.LazyLinear(12), nn.Sigmoid())


@pytest.mark.parametrize(
    ("model", "learner"),
    [(lazy_rows, CrossEntropy()), (lazy_maps, Hinge()), (lazy_autoencoder, Reconstruction(corruption=0.2))],
)
def test_lazy_layers_get_their_sizes_from_the_data_and_the_same_bits_each_time(model, learner):
    images = IMAGES if model is lazy_autoencoder else IMAGES.reshape(41, 3, 4)
    experiment = small(model=model, learner=learner, data=(images, LABELS), batch_size=9)
    before, state = experiment.initial_model(), torch.get_rng_state()
    assert not any(isinstance(p, nn.UninitializedParameter) for p in before.parameters())
    for other in (experiment.initial_model(), experiment.initial_model()):
        for name, value in before.state_dict().items():
            assert torch.equal(value, other.state_dict()[name])
    assert all(module.training for module in before.modules())
    runs = [experiment.run(progress=False, device="cpu") for _ in range(2)]
    for name, value in runs[0].model.state_dict().items():
        assert torch.equal(value, runs[1].model.state_dict()[name])
    assert torch.equal(torch.get_rng_state(), state)


# Features that carry a graph


def test_features_of_a_trained_layer_are_data():
    """Their graph is left alone: nothing below them learns, and all their steps can be taken."""
    below = RBM(12, 6, generator=seeded())
    features = below.hidden_given(IMAGES)
    assert features.requires_grad
    for experiment in (
        small(model=partial(nn.Linear, 6, 4), data=(features, LABELS)),
        small(model=partial(RBM, 6, 3), data=features, learner=PCD()),
        small(model=partial(RBM, 6, 3), data=nn.Parameter(features.detach()), learner=CD()),
    ):
        run = experiment.run(progress=False, device="cpu")
        assert run.step == 5
        assert not run.data.images.requires_grad
        assert all(parameter.grad is None for parameter in below.parameters())


# Gaussian units whose pixels hardly vary


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1e-3, 0.5)])
@pytest.mark.parametrize("learner", [CD(), PCD()])
def test_pixels_that_hardly_vary_are_named_and_both_mends_train(learner, scale, shift):
    """Half of the pixels vary by 2, the others not at all, as at the border of digits; or all by a thousandth."""
    images = shift + scale * 2 * torch.randn(50, 12, generator=seeded())
    if scale == 1:
        images[:, ::2] = 0.5
        images[0, ::4] = 1.0
    given = {"learner": learner, "data": images, "lr": 0.1, "epochs": 8}
    with pytest.raises(FloatingPointError) as refused:
        trained(model=partial(GaussianRBM, 12, 5), **given)
    little = 6 if scale == 1 else 12
    assert f"{little} of 12 pixels vary too little for their variance to be learned at lr=0.1" in str(refused.value)
    assert "GaussianRBM(..., learn_variance=False)" in str(refused.value)
    assert trained(model=partial(GaussianRBM, 12, 5, learn_variance=False), **given).step == 40
    if scale == 1:
        assert "leave them out, `images[:, images.var(0) > 1]`" in str(refused.value)
        given["data"] = images[:, images.var(0) > 1]
        assert trained(model=partial(GaussianRBM, 6, 5), **given).step == 40
