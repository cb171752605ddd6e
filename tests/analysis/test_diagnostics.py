"""Constructed RBMs whose illness is known, hand calculations, and RBMs that are really made ill by training."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from oracles import number_of, random_gaussian, random_rbm, random_states, seeded, visible_distribution
from torch import nn

from dlkit import Experiment, data
from dlkit.analysis.diagnostics import examine, health_metrics
from dlkit.analysis.rbm_statistics import (
    always_on,
    dead,
    free_energy_gap,
    hidden_probabilities,
    idle,
    influence,
    reconstruction_error,
    update_ratio,
    updates,
    weight_kurtosis,
)
from dlkit.data import Batch
from dlkit.models import RBM, GaussianRBM
from dlkit.training import CD, PCD, Learner


@torch.no_grad()
def five_kinds() -> tuple[RBM, torch.Tensor]:
    """One unit of each kind: dead, always on, a tossed coin, one that follows pixel 0, one on for pixel 1's images.

    Of 2,000 images pixel 0 is on in half, pixel 1 in ten: 0.5 % is rare, but not dead.
    """
    rbm = RBM(3, 5, std=0.0)
    rbm.b.copy_(torch.tensor([-12.0, 12.0, 0.0, -10.0, -10.0]))
    rbm.W[0, 3] = rbm.W[1, 4] = 20.0
    images = torch.zeros(2000, 3)
    images[::2, 0] = 1
    images[:10, 1] = 1
    return rbm, images


def test_each_kind_of_unit_is_told_from_the_others():
    rbm, images = five_kinds()
    p = hidden_probabilities(rbm, images)
    assert dead(p).tolist() == [True, False, False, False, False]
    assert always_on(p).tolist() == [False, True, False, False, False]
    assert idle(p).tolist() == [False, False, True, False, False]
    health = examine(rbm, images, images)
    assert (health.dead, health.always_on, health.idle, health.hidden) == (1, 1, 1, 5)


def test_the_verdict_counts_and_names_the_units():
    rbm, images = five_kinds()
    verdict = examine(rbm, images, images).verdict
    assert "1 of 5 units are dead (on for less than 0.1% of the images)" in verdict
    assert "1 of 5 units are always on (for more than 99.9% of the images)" in verdict
    assert "1 of 5 units toss coins" in verdict


def test_hidden_probabilities_are_units_by_cases():
    rbm, images = random_rbm(4, 3), random_states(6, 4)
    W, b = rbm.W.tolist(), rbm.b.tolist()
    for i, image in enumerate(images.tolist()):
        for j in range(3):
            x = b[j] + sum(pixel * W[row][j] for row, pixel in enumerate(image))
            assert hidden_probabilities(rbm, images)[j, i].item() == pytest.approx(1 / (1 + torch.e ** (-x)), rel=1e-5)


def test_the_kurtosis_of_normal_weights_is_3_and_of_one_large_weight_their_number():
    rbm = RBM(784, 64, generator=seeded())
    assert weight_kurtosis(rbm) == pytest.approx(3, abs=0.1)
    with torch.no_grad():
        rbm.W.zero_()[0] = 1  # one of n: its fourth moment over its variance squared is n - 2, and a little
    assert weight_kurtosis(rbm) == pytest.approx(782, abs=0.1)


def test_influence_is_nothing_for_units_that_never_change_and_most_for_the_one_that_changes_most():
    rbm, images = five_kinds()
    influences = influence(rbm, images)
    assert influences[:3].abs().max() < 1e-5
    assert influences[3] == pytest.approx(20 * 0.5, rel=1e-3)  # on for half the images, with a weight of 20
    assert influences[4] == pytest.approx(20 * (0.005 * 0.995) ** 0.5, rel=1e-2)
    assert influences.argsort(descending=True)[:2].tolist() == [3, 4]


@pytest.mark.parametrize("make", [random_rbm, random_gaussian])
def test_reconstruction_error_is_the_squared_error_of_each_image(make):
    rbm, images = make(4, 3), random_states(6, 4)
    W, a, b = rbm.W.detach().double(), rbm.a.detach().double(), rbm.b.detach().double()
    v = images.double()
    gaussian = isinstance(rbm, GaussianRBM)
    h = torch.sigmoid((v / rbm.log_variance.detach().double().exp() if gaussian else v) @ W + b)
    mean = h @ W.T + a
    expected = ((v - (mean if gaussian else torch.sigmoid(mean))) ** 2).sum(1)
    torch.testing.assert_close(reconstruction_error(rbm, images).double(), expected, rtol=1e-4, atol=1e-5)


def test_the_free_energy_gap_is_the_difference_of_exact_log_probabilities():
    rbm, train, validation = (
        random_rbm(6, 4),
        random_states(40, 6, seed=1),
        random_states(30, 6, seed=2, probability=0.8),
    )
    log_p = visible_distribution(rbm).log()
    seen, unseen = log_p[number_of(train)], log_p[number_of(validation)]
    gap, error = free_energy_gap(rbm, train, validation)
    assert gap == pytest.approx(float(seen.mean() - unseen.mean()), abs=1e-4)
    assert error == pytest.approx(float((seen.std() ** 2 / 40 + unseen.std() ** 2 / 30) ** 0.5), rel=1e-4)


def test_images_may_be_rows_or_pictures():
    rbm, images = random_rbm(6, 4), random_states(10, 6)
    assert examine(rbm, images.view(10, 2, 3), images.view(10, 2, 3)) == examine(rbm, images, images)


def with_gradients(rbm: RBM, seed: int) -> None:
    for parameter in rbm.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=seeded(seed))


def test_updates_are_what_sgd_with_momentum_and_decay_does_next_by_hand():
    rbm = random_rbm(4, 3)
    sgd = torch.optim.SGD(rbm.parameters(), lr=0.1, momentum=0.5, weight_decay=0.01, fused=True)
    first = rbm.W.detach().clone()
    with_gradients(rbm, 1)
    velocity = rbm.W.grad + 0.01 * first
    sgd.step()
    second = rbm.W.detach().clone()
    with_gradients(rbm, 2)
    velocity = 0.5 * velocity + rbm.W.grad + 0.01 * second
    torch.testing.assert_close(updates(rbm, sgd)["W"], -0.1 * velocity)
    expected = (0.1 * velocity).abs().mean() / second.abs().mean()
    assert update_ratio(rbm, sgd) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("optimizer", [partial(torch.optim.SGD, momentum=0.9), torch.optim.Adam])
def test_looking_at_updates_changes_nothing(optimizer):
    looked, left = random_rbm(4, 3), random_rbm(4, 3)
    pairs = [(rbm, optimizer(rbm.parameters(), lr=0.1)) for rbm in (looked, left)]
    for step in range(3):
        for rbm, optimiser in pairs:
            with_gradients(rbm, step)
            if rbm is looked:
                announced, before = updates(rbm, optimiser), rbm.W.detach().clone()
            optimiser.step()
            if rbm is looked:
                torch.testing.assert_close(announced["W"], rbm.W.detach() - before)
    assert torch.equal(looked.W, left.W)


def test_a_parameter_that_is_not_trained_has_no_update():
    rbm = random_gaussian(4, 3, learn_variance=False)
    with_gradients(rbm, 0)
    sgd = torch.optim.SGD([p for p in rbm.parameters() if p.requires_grad], lr=0.1)
    assert set(updates(rbm, sgd)) == {"W", "a", "b"}


# RBMs that are made ill, and well, by training.


@pytest.fixture(scope="module")
def digits():
    mnist = data.load("mnist", binarise="sample")
    return mnist.train.images[:2000].flatten(1), mnist.validation.images[:500].flatten(1)


def trained(images, learner=None, std=0.01, **settings):
    settings = {"epochs": 10, "lr": 0.1} | settings
    model = partial(RBM, 784, 64, std=std)
    return Experiment(model, data=images, learner=learner or CD(), momentum=0.5, **settings).run(progress=False)


no_bias = {"learner": PCD(visible_bias_from_data=False), "lr": 0.2}
ILLS = {
    "units are dead": {"lr": 2.0},
    "units are always on": no_bias,
    "units toss coins": {"lr": 1e-5},
    "has learnt next to nothing": {"learner": CD(sparsity_target=0.01, sparsity_cost=1.0)},
    "weights look like random numbers": {"std": 1.0},
    "updates are": {"lr": 0.3, "epochs": 1},
}


@pytest.fixture(
    scope="module",
    params=[CD(), CD(centred=True), PCD(), PCD(centred=True)],
    ids=["CD", "centred CD", "PCD", "centred PCD"],
)
def healthy(request, digits):
    train, validation = digits
    run = trained(train, request.param, lr=0.03)
    return examine(run.model, train, validation, run.optimizer)


def test_a_healthy_run_has_no_problem(healthy):
    assert healthy.problems == []
    assert healthy.verdict.startswith("Healthy: all 64 units are of use")


@pytest.mark.parametrize("words", ILLS)
def test_the_verdict_names_the_illness(words, digits):
    train, validation = digits
    run = trained(train, **ILLS[words])
    health = examine(run.model, train, validation, run.optimizer)
    assert not health.healthy
    assert words in health.verdict


def test_too_long_on_too_few_images_is_called_over_fitting(digits):
    train, validation = digits
    run = trained(train[:100], epochs=200)
    health = examine(run.model, train[:100], validation, run.optimizer)
    assert "It over-fits" in health.verdict
    assert len(health.problems) == 1


def test_a_few_dead_units_are_no_illness(digits):
    train, validation = digits
    run = trained(train)
    with torch.no_grad():
        run.model.b[0] = -200.0
        assert examine(run.model, train, validation).healthy
        run.model.b[:2] = -200.0
    health = examine(run.model, train, validation)
    assert health.dead == 2
    assert "2 of 64 units are dead" in health.verdict


@pytest.fixture(scope="module")
def photos():
    patches = data.patches(size=8, count=3000).images.flatten(1)
    return patches[:2500], patches[2500:]


def sparse_gaussian() -> GaussianRBM:
    rbm = GaussianRBM(64, 32, std=0.1)
    nn.init.constant_(rbm.b, -4.0)
    return rbm


def test_a_healthy_gaussian_rbm_has_no_problem_and_no_pseudo_log_likelihood(photos):
    train, validation = photos
    run = Experiment(sparse_gaussian, data=train, learner=CD(), lr=0.03, momentum=0.9).run(progress=False)
    health = examine(run.model, train, validation, run.optimizer)
    assert health.problems == []
    assert health.pseudo_log_likelihood is None
    assert "pseudo" not in str(health)


def test_a_gaussian_rbm_that_starts_at_rest_tosses_coins(photos):
    train, validation = photos
    run = Experiment(partial(GaussianRBM, 64, 32), data=train, learner=CD(), lr=0.001).run(progress=False)
    assert "32 of 32 units toss coins" in examine(run.model, train, validation, run.optimizer).verdict


def test_a_gaussian_rbm_that_blows_up_is_told_to_start_again(photos):
    train, validation = photos
    rbm, learner = GaussianRBM(64, 32, generator=seeded()), CD()
    sgd = torch.optim.SGD(rbm.parameters(), lr=3.0)
    batch = Batch(train[:100])
    learner.start(rbm, batch, 100, seeded())
    for _ in range(50):
        learner.fill_grad(rbm, batch, seeded())
        sgd.step()
    health = examine(rbm, train, validation, sgd)
    assert health.problems == ["the parameters are no longer numbers: start again with a rate ten times lower"]


# The callback.


def test_watch_adds_its_columns_to_every_row(digits):
    train, validation = digits
    experiment = Experiment(partial(RBM, 784, 16), data=train, learner=CD(), epochs=2, row_every=8)
    run = experiment.run(callbacks=[health_metrics(train[:300], validation[:300])], progress=False)
    health = examine(run.model, train[:300], validation[:300])
    assert len(run.history) == 6
    for name in ("free_energy_gap", "dead", "reconstruction", "pseudo_log_likelihood"):
        assert None not in run.history[name]
        assert run.history[name][-1] == getattr(health, name)


def test_watching_does_not_change_what_is_learnt(digits):
    train, validation = digits
    experiment = Experiment(partial(RBM, 784, 16), data=train, learner=PCD(), epochs=1, row_every=5, momentum=0.5)
    watched = experiment.run(callbacks=[health_metrics(train[:100], validation[:100])], progress=False)
    assert torch.equal(watched.model.W, experiment.run(progress=False).model.W)


def test_grey_images_have_no_pseudo_log_likelihood(digits):
    grey = digits[0] * 0.5
    experiment = Experiment(partial(RBM, 784, 16), data=grey, learner=CD(), epochs=1)
    run = experiment.run(callbacks=[health_metrics(grey[:100], grey[100:200])], progress=False)
    assert "free_energy_gap" in run.history
    assert "pseudo_log_likelihood" not in run.history


class Still(Learner):
    """A learner that learns nothing."""

    def fill_grad(self, model, batch, generator):
        return {"loss": torch.zeros(())}


def test_health_metrics_says_what_it_is_for(digits):
    train, validation = digits
    experiment = Experiment(partial(nn.Linear, 784, 2), data=train, learner=Still(), epochs=1)
    with pytest.raises(TypeError, match="for an RBM, and this run trains a Linear"):
        experiment.run(callbacks=[health_metrics(train, validation)], progress=False)


def test_health_shows_the_same_numbers_as_text_and_as_a_table(digits):
    train, validation = digits
    run = trained(train, epochs=1)
    health = examine(run.model, train, validation, run.optimizer)
    html = health._repr_html_()
    for name, value in health.rows():
        assert f"<th>{name}</th><td>{value}</td>" in html
        assert value in str(health)
    assert f"{health.free_energy_gap:.1f} ± {health.gap_error:.1f} nats" in str(health)
    assert repr(replace(health, finite=False)) == f"Health({health.hidden} hidden units, 1 problem)"
