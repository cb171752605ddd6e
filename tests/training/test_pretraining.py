"""Greedy pre-training, against the same experiments run by hand."""

import signal
from dataclasses import replace
from functools import partial

import pytest
import torch
from oracles import seeded

from dlkit.models import DBN, RBM, LabelledRBM
from dlkit.models.autoencoder import Autoassociator
from dlkit.training import CD, Experiment, Reconstruction, pretrain

IMAGES = (torch.rand(60, 4, 2, generator=seeded()) < 0.3).float()
LABELS = torch.arange(60) % 3


def layers():
    settings = {"batch_size": 10, "epochs": 3, "lr": 0.1}
    return [
        Experiment(partial(RBM, 8, 5), (IMAGES, LABELS), CD(), **settings),
        Experiment(partial(RBM, 5, 4), None, CD(), **settings, seed=1),
        Experiment(partial(LabelledRBM, 4, 6, labels=3), None, CD(), **settings, seed=2),
    ]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_each_layer_learns_from_the_means_of_the_one_below():
    runs = pretrain(layers(), progress=False)
    below = IMAGES.flatten(1)
    for run, layer in zip(runs, layers(), strict=True):
        by_hand = Experiment(layer.model, (below, LABELS), CD(), 10, 3, lr=0.1, seed=layer.seed).run(progress=False)
        assert same(run.model, by_hand.model)
        if not isinstance(run.model, LabelledRBM):
            below = torch.sigmoid(below @ run.model.W + run.model.b).detach()
    assert DBN([run.model for run in runs]).sizes == [8, 5, 4, 6]


def test_stochastic_features_are_samples():
    runs = pretrain(layers()[:2], stochastic=True, progress=False)
    assert set(runs[1].data.images.unique().tolist()) == {0.0, 1.0}
    p = runs[0].model.hidden_given(IMAGES.flatten(1))
    assert (runs[1].data.images.mean(0) - p.mean(0)).abs().max() < 5 * 0.5 / 60**0.5
    assert same(runs[1].model, pretrain(layers()[:2], stochastic=True, progress=False)[1].model)


def test_other_layers_are_pretrained_by_the_same_call():
    settings = {"batch_size": 10, "epochs": 2, "lr": 0.1}
    runs = pretrain(
        [
            Experiment(partial(Autoassociator, 8, 5), IMAGES, Reconstruction(), **settings),
            Experiment(partial(Autoassociator, 5, 3), None, Reconstruction(corruption=0.2), **settings),
        ],
        progress=False,
    )
    assert runs[1].data.images.shape == (60, 5)
    assert runs[1].data.labels is None


def test_it_resumes_to_the_bit_in_whatever_layer_it_was_stopped(tmp_path):
    whole = pretrain(layers(), progress=False)
    seen = []

    def interrupt(run):
        seen.append(run)
        if len(seen) == 5:  # in the second layer
            signal.raise_signal(signal.SIGINT)

    arguments = {"checkpoint": tmp_path, "checkpoint_every": 1, "progress": False}
    cut = pretrain(layers(), callbacks=[interrupt], **arguments)
    assert len(cut) == 2
    assert cut[-1].stopped == "interrupted"
    again = pretrain(layers(), resume=True, **arguments)
    assert all(same(run.model, other.model) for run, other in zip(again, whole, strict=True))


def test_an_empty_stack_is_refused():
    with pytest.raises(ValueError, match="an empty stack: give one experiment at least"):
        pretrain([])


def test_layers_that_do_not_chain_are_refused():
    with pytest.raises(ValueError, match="layer 1 has 5 hidden units and layer 2 takes 7"):
        pretrain([layers()[0], Experiment(partial(RBM, 7, 3), None, CD(), 10)], progress=False)


def test_what_would_fail_at_the_top_is_refused_before_the_bottom_is_trained():
    trained = []
    with pytest.raises(ValueError, match=r"layer 3 has 3 label units, but the data have no labels: give \(images"):
        pretrain([replace(layers()[0], data=IMAGES), *layers()[1:]], callbacks=[trained.append], progress=False)
    no_layer = replace(layers()[0], model=lambda: torch.nn.Linear(8, 5), learner=Reconstruction())
    with pytest.raises(ValueError, match="layer 1, a Linear, has no hidden_given"):
        pretrain([no_layer, layers()[1]], callbacks=[trained.append], progress=False)
    assert trained == []


def test_looking_at_the_stack_first_draws_no_numbers_of_the_users():
    torch.manual_seed(5)
    pretrain(layers()[:1], progress=False)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


def test_other_labels_are_another_run(tmp_path):
    first = layers()[:1]
    arguments = {"checkpoint": tmp_path, "progress": False}
    pretrain(first, **arguments)
    with pytest.raises(ValueError, match=r"is of another run \(labels: "):
        pretrain([replace(first[0], data=(IMAGES, 2 - LABELS))], resume=True, **arguments)


def test_a_model_in_place_of_what_makes_one_is_told():
    with pytest.raises(TypeError, match=r"model= is itself a model, RBM: give what makes one, partial\(RBM, ...\)"):
        Experiment(RBM(8, 5), IMAGES, CD())
