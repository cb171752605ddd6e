"""A learner whose gradient on a batch is not the weighted sum of those on its parts is told so before it trains."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ranks import team
from splitting import difference, experiments, run
from torch import nn

from dlkit.core import bernoulli
from dlkit.models import RBM
from dlkit.strategies import DataParallel, Hybrid, ModelAveraging, Pipeline
from dlkit.training import CD, Backprop, CrossEntropy, Experiment, Learner

EXPERIMENTS = experiments()
DBN = EXPERIMENTS["DBN"]
SETTINGS = {"steps": 3, "device": "cpu", "progress": False}


@dataclass
class Hinge(Backprop):
    """Only a loss, as a mean over the batch: nothing of weights or ranks."""

    def loss(self, output, batch):
        return F.multi_margin_loss(output, batch.labels), {"loss": F.multi_margin_loss(output, batch.labels)}


class Delta(Learner):
    """Fills .grad without backpropagation: a delta rule on the mean of the visible units."""

    def fill_grad(self, model, batch, generator):
        x = batch.images.flatten(1)
        kept = x * bernoulli(torch.full_like(x, 0.5), generator)
        model.W.grad, model.b.grad = torch.zeros_like(model.W), torch.zeros_like(model.b)
        model.a.grad = model.a.detach() - kept.mean(0)
        return {"loss": (model.a - kept).square().sum(1).mean().detach()}


class OwnBackward(Learner):
    """Backpropagates in a fill_grad of its own: its gradients must not be sent before they are weighted."""

    def fill_grad(self, model, batch, generator):
        model.zero_grad()
        loss = F.cross_entropy(model(batch.images), batch.labels)
        loss.backward()
        return {"loss": loss.detach()}


class Summed(Hinge):
    def loss(self, output, batch):
        loss = F.cross_entropy(output, batch.labels, reduction="sum")
        return loss, {"loss": loss}


class Weighed(Hinge):
    """The mean over the weights of the classes that are in the batch, as torch's cross-entropy with weights is."""

    def loss(self, output, batch):
        loss = F.cross_entropy(output, batch.labels, weight=torch.arange(1.0, 11.0, dtype=output.dtype))
        return loss, {"loss": loss}


class Contrasted(Hinge):
    """Compares the images of a batch with each other."""

    def loss(self, output, batch):
        likeness = output @ output.T
        loss = F.cross_entropy(likeness, torch.arange(len(output)))
        return loss, {"loss": loss}


class Largest(Hinge):
    """A right gradient, and a scalar that is no mean."""

    def loss(self, output, batch):
        loss, metrics = super().loss(output, batch)
        return loss, metrics | {"largest": output.abs().max()}


class TorchsDraws(Hinge):
    def inputs(self, batch, generator):
        return batch.images * (torch.rand_like(batch.images) > 0.5)


class NumpysDraws(Hinge):
    def inputs(self, batch, generator):
        return batch.images * torch.from_numpy(np.random.rand(*batch.images.shape)).to(batch.images.dtype)


RIGHT = {
    "Hinge": replace(DBN, learner=Hinge()),
    "OwnBackward": replace(DBN, learner=OwnBackward()),
    "Delta": replace(EXPERIMENTS["CD"], learner=Delta()),
    "TorchsDraws": replace(DBN, learner=TorchsDraws()),
}
SPLIT_BATCHES = [DataParallel(), DataParallel(reduce="ddp"), ModelAveraging(2), Pipeline(2)]
WRONG = {Summed: "the gradient", Weighed: "the gradient", Contrasted: "the gradient", Largest: '"largest"'}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("reduce", ["bucketed", "naive", "ring"])
def test_a_learner_that_knows_nothing_of_weights_learns_split_what_it_learns_alone(name, reduce):
    experiment = RIGHT[name]
    alone = run(experiment, **SETTINGS)
    split = team(3).call(run, experiment, DataParallel(reduce=reduce), **SETTINGS)
    assert difference(alone.model, split[0].model) < 1e-5
    assert [row["loss"] for row in split[0].history] == pytest.approx([row["loss"] for row in alone.history], rel=1e-5)


@pytest.mark.parametrize("learner", WRONG, ids=lambda learner: learner.__name__)
@pytest.mark.parametrize("strategy", SPLIT_BATCHES, ids=str)
def test_what_does_not_add_up_is_refused_by_trial(learner, strategy):
    name = type(strategy).__name__
    message = rf"under {name} .* and {WRONG[learner]} that {learner.__name__} gives for the first batch differs"
    with pytest.raises(ValueError, match=message):
        team(2).call(run, replace(DBN, learner=learner()), strategy, **SETTINGS)


def test_draws_for_each_image_that_are_not_torch_s_are_found():
    with pytest.raises(
        ValueError, match=r"the gradient that NumpysDraws .* must be drawn by dlkit.core.random or by torch"
    ):
        team(2).call(run, replace(DBN, learner=NumpysDraws()), DataParallel(), **SETTINGS)


def test_a_mesh_tries_its_learner_too():
    with pytest.raises(ValueError, match=r"under Hybrid .* the gradient that Summed gives"):
        team(4).call(run, replace(DBN, learner=Summed()), Hybrid(2, 2), **SETTINGS)


def test_alone_such_learners_train():
    for learner in WRONG:
        assert run(replace(DBN, learner=learner()), **SETTINGS).step == 3


def test_the_trial_is_on_few_images_of_a_large_batch():
    """In float64 and three times over, all of a large batch would take longer than the first steps."""

    def sizes_tried():
        sizes = []

        class Counting(Hinge):
            def loss(self, output, batch):
                if output.dtype == torch.float64:
                    sizes.append(len(output))
                return super().loss(output, batch)

        run(replace(DBN, learner=Counting(), batch_size=500), DataParallel(), **SETTINGS)
        return sizes

    assert team(2).call(sizes_tried) == [[48, 17, 31] * 2] * 2  # with two sizes of weights


def test_the_trial_leaves_no_trace():
    """The same bits as before it: the model, the learner's state and the generator are copies."""
    images = (torch.rand(40, 20, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    experiment = Experiment(partial(RBM, 20, 10), images, CD(k=2), batch_size=10)
    alone = run(experiment, steps=1, device="cpu", progress=False)
    (split,) = team(1).call(run, experiment, DataParallel(), steps=1, device="cpu", progress=False)
    assert difference(alone.model, split.model) == 0
    both = team(2).call(run, experiment, DataParallel(), steps=1, device="cpu", progress=False)
    assert difference(alone.model, both[0].model) < 1e-5


def test_a_net_that_takes_no_float64_is_tried_in_its_own_dtype():
    class Picky(nn.Linear):
        def forward(self, x):
            if x.dtype != torch.float32:
                raise TypeError("float32 only")
            return super().forward(x)

    experiment = replace(DBN, model=partial(Picky, 784, 10), learner=CrossEntropy())
    alone, split = run(experiment, **SETTINGS), team(2).call(run, experiment, DataParallel(), **SETTINGS)
    assert difference(alone.model, split[0].model) < 1e-5
    with pytest.raises(ValueError, match="differs from the weighted sum"):
        team(2).call(run, replace(experiment, learner=Summed()), DataParallel(), **SETTINGS)


def test_what_is_no_learner_is_refused(unchecked):
    class Own:
        def fill_grad(self, model, batch, generator):
            return {}

    with pytest.raises(TypeError, match="class Own, which is no Learner: derive it"):
        replace(DBN, learner=Own())
