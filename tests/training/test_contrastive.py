import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from oracles import (
    chi_square,
    chi_square_bound,
    every_state,
    gibbs_matrix,
    likelihood_gradient,
    log_joint,
    number_of,
    parameters,
    random_gaussian,
    random_rbm,
    random_states,
    seeded,
    visible_distribution,
)
from torch.nn.utils import parameters_to_vector

from dlkit.data import Batch
from dlkit.models import RBM, CodeRBM, GaussianRBM, LabelledRBM
from dlkit.training import CD, PCD, Experiment

IMAGES = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])


def gradient(learner, rbm, images, seed=0):
    """What the learner puts in .grad on one batch, the parameters left as they are."""
    learner = copy.deepcopy(learner)
    generator = seeded(seed)
    learner.visible_bias_from_data = False
    learner.start(rbm, Batch(images), len(images), generator)
    learner.fill_grad(rbm, Batch(images), generator)
    return {name: p.grad.clone() for name, p in rbm.named_parameters() if p.requires_grad}


def largest_difference(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def statistics(v, h, p):
    """<∂E/∂θ> where (v, h) has probability p."""
    return {"W": -(p[:, None] * v).T @ h, "a": -p @ v, "b": -p @ h}


def enumerated_cd(rbm, images, k, sample_visible):
    """The mean of CD-k's gradient over all that its chain might do, by enumeration."""
    W, a, b = parameters(rbm).values()
    n = len(images)
    x, states, hidden = images.double(), every_state(rbm.visible), every_state(rbm.hidden)
    positive = statistics(x, torch.sigmoid(x @ W + b), torch.full((n,), 1 / n, dtype=torch.float64))
    joint = log_joint(W, a, b)
    start = torch.bincount(number_of(images), minlength=len(states)).double() / n
    if sample_visible:
        p, v = start @ torch.linalg.matrix_power(gibbs_matrix(rbm), k), states
    else:  # from hidden state to hidden state, by way of the mean of the visible units
        v = torch.sigmoid(hidden @ W.T + a)
        p = start @ joint.softmax(1)
        on = torch.sigmoid(v @ W + b)
        step = (hidden * on[:, None] + (1 - hidden) * (1 - on[:, None])).prod(2)
        p = p @ torch.linalg.matrix_power(step, k - 1)
    negative = statistics(v, torch.sigmoid(v @ W + b), p)
    return {name: positive[name] - negative[name] for name in positive}


@pytest.mark.parametrize("sample_visible", [True, False])
@pytest.mark.parametrize("k", [1, 3])
def test_cd_s_gradient_is_the_enumerated_one_on_average(k, sample_visible):
    rbm = random_rbm(4, 3, std=2.0)
    copies = 20_000
    found = gradient(CD(k=k, sample_visible=sample_visible), rbm, IMAGES.repeat(copies, 1))
    bound = 5 * 0.5 / (3 * copies) ** 0.5  # 5 standard errors: what is averaged lies in [0, 1]
    expected = enumerated_cd(rbm, IMAGES, k, sample_visible)
    assert largest_difference(found, expected) < bound
    for other in ((4 - k, sample_visible), (k, not sample_visible)):  # it would tell the others apart
        assert largest_difference(expected, enumerated_cd(rbm, IMAGES, *other)) > 3 * bound


def test_cd_of_many_steps_is_the_gradient_of_the_likelihood():
    rbm = random_rbm(4, 3, std=2.0)
    expected = likelihood_gradient(rbm, IMAGES)
    found = gradient(CD(k=50, sample_visible=True), rbm, IMAGES.repeat(5_000, 1))
    bound = 5 * 0.5 / 15_000**0.5
    assert largest_difference(found, expected) < bound
    assert largest_difference(enumerated_cd(rbm, IMAGES, 1, True), expected) > 4 * bound  # as CD-1 is not


def gaussian_likelihood_gradient(rbm, images):
    """Gradient of the mean of -log p(v), log Z being a sum over hidden states of integrals known in closed form."""
    leaves = {name: value.requires_grad_() for name, value in parameters(rbm).items()}
    W, a, b, log_variance = (leaves[name] for name in ("W", "a", "b", "log_variance"))
    variance, h, x = log_variance.exp(), every_state(rbm.hidden), images.double()
    means = a + h @ W.T
    log_z = torch.logsumexp(h @ b + ((means**2 - a**2) / (2 * variance)).sum(1), 0)
    log_z = log_z + 0.5 * (2 * math.pi * variance).log().sum()
    energies = ((x - a) ** 2 / (2 * variance)).sum(1)[:, None] - h @ b - (x / variance) @ W @ h.T
    loss = (torch.logsumexp(-energies, 1).neg() + log_z).mean()
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def test_gaussian_cd_of_many_steps_is_the_gradient_of_the_likelihood_variance_included():
    rbm = random_gaussian(3, 2, std=0.7)
    images = torch.randn(3, 3, generator=seeded(5)) + 1
    expected = gaussian_likelihood_gradient(rbm, images)
    runs = [gradient(CD(k=30, sample_visible=True), rbm, images.repeat(1_000, 1), seed) for seed in range(20)]
    assert set(expected) == {"W", "a", "b", "log_variance"}
    for name in expected:
        found = torch.stack([run[name] for run in runs]).double()
        error = found.std(0) / len(runs) ** 0.5
        assert ((found.mean(0) - expected[name]).abs() < 6 * error + 1e-6).all(), name  # t of 19 degrees: 1 in 10^5


def test_cd_1_is_the_five_lines_of_the_textbook():
    rbm, x = random_rbm(12, 7, std=0.5), random_states(20, 12, probability=0.3)
    W, a, b = rbm.W.detach(), rbm.a.detach(), rbm.b.detach()
    positive = torch.sigmoid(x @ W + b)
    h = (torch.empty(20, 7).uniform_(generator=seeded()) < positive).float()
    v = torch.sigmoid(h @ W.T + a)
    negative = torch.sigmoid(v @ W + b)
    expected = {"W": (v.T @ negative - x.T @ positive) / 20, "a": (v - x).mean(0), "b": (negative - positive).mean(0)}

    generator, learner = seeded(), CD()
    report = learner.fill_grad(rbm, Batch(x.reshape(20, 3, 4)), generator)
    for name, parameter in rbm.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-7, msg=name)
    torch.testing.assert_close(report["loss"], ((x - v) ** 2).sum(1).mean())


def test_the_visible_bias_comes_from_the_data_unless_it_is_not_wanted():
    images = random_states(100, 6, probability=0.2)
    for wanted in (True, False):
        rbm = RBM(6, 3)
        CD(visible_bias_from_data=wanted).start(rbm, Batch(images), 10, seeded())
        expected = (images.sum(0) + 0.5) / 101 if wanted else torch.full((6,), 0.5)
        torch.testing.assert_close(rbm.a.detach().sigmoid(), expected)


# Persistent chains


@pytest.mark.parametrize("k", [1, 2])
def test_persistent_chains_go_k_steps_from_where_they_were_and_not_from_the_batch(k):
    rbm = random_rbm(4, 3)
    learner, generator = PCD(k=k, chains=20_000, visible_bias_from_data=False), seeded()
    learner.start(rbm, Batch(IMAGES), 3, generator)
    learner.state["chains"].copy_(every_state(4)[6].expand(20_000, -1))
    learner.fill_grad(rbm, Batch(IMAGES), generator)
    after = [torch.linalg.matrix_power(gibbs_matrix(rbm), steps)[6] for steps in (k, 3 - k)]
    assert chi_square(learner.state["chains"], after[0]) < chi_square_bound(16)
    assert chi_square(learner.state["chains"], after[1]) > 2 * chi_square_bound(16)


@pytest.mark.parametrize("k", [1, 2])
def test_persistent_chains_of_a_model_held_still_have_its_distribution_and_its_gradient(k):
    rbm = random_rbm(4, 3)
    learner, generator = PCD(k=k, chains=20_000, visible_bias_from_data=False), seeded()
    learner.start(rbm, Batch(IMAGES), 3, generator)
    for _ in range(60 // k):
        report = learner.fill_grad(rbm, Batch(IMAGES), generator)
    chains = learner.state["chains"]
    assert chi_square(chains, visible_distribution(rbm)) < chi_square_bound(16)
    found = {name: parameter.grad for name, parameter in rbm.named_parameters()}
    assert largest_difference(found, likelihood_gradient(rbm, IMAGES)) < 5 * 0.5 / 20_000**0.5
    gap = rbm.free_energy(IMAGES).mean() - rbm.free_energy(chains).mean()
    torch.testing.assert_close(report["loss"], gap.detach(), rtol=1e-4, atol=1e-5)


def test_there_are_as_many_chains_as_images_in_a_batch_unless_said_otherwise():
    rbm = RBM(4, 3)
    for learner, count in ((PCD(), 2), (PCD(chains=7), 7)):
        learner.start(rbm, Batch(IMAGES), 2, seeded())
        assert learner.state["chains"].shape == (count, 4)
        learner.fill_grad(rbm, Batch(IMAGES[:1]), seeded())  # a short last batch
        assert learner.state["chains"].shape == (count, 4)


def test_pcd_learns_what_independent_pixels_cannot():
    experiment = Experiment(lambda: RBM(4, 6), IMAGES.repeat(10, 1), PCD(chains=500), batch_size=30, epochs=300, lr=0.5)
    learnt = visible_distribution(experiment.run(progress=False, device="cpu").model)
    # -log 3 = -1.10 at best; -2.55 for the best of independent pixels: 4 entropies of a coin of 1/3.
    assert learnt[number_of(IMAGES)].log().mean() > -1.7


# Centring


def melchior(rbm, batches, learner, lr, generator):
    """Algorithm 1 of Melchior, Fischer and Wiskott 2016 with CD-1, in the centred RBM's own parameters.

    E(v, h) = -(v-mu)·b - c·(h-lam) - (v-mu)ᵀW(h-lam); returned as W, a, b of the RBM without offsets.
    """
    mu, lam = learner.state["visible_offset"].clone(), learner.state["hidden_mean"].clone()
    W = rbm.W.detach().clone()
    b, c = rbm.a.detach() + W @ lam, rbm.b.detach() + mu @ W
    for x in batches:
        n = len(x)
        h_d = torch.sigmoid((x - mu) @ W + c)
        h = (torch.empty(h_d.shape).uniform_(generator=generator) < h_d).float()
        v_m = torch.sigmoid((h - lam) @ W.T + b)
        h_m = torch.sigmoid((v_m - mu) @ W + c)
        mu_new, lam_new = 0.99 * mu + 0.01 * x.mean(0), 0.99 * lam + 0.01 * h_d.mean(0)
        b, c = b + W @ (lam_new - lam), c + (mu_new - mu) @ W
        mu, lam = mu_new, lam_new
        W_gradient = ((x - mu).T @ (h_d - lam) - (v_m - mu).T @ (h_m - lam)) / n
        W, b, c = W + lr * W_gradient, b + lr * (x - v_m).mean(0), c + lr * (h_d - h_m).mean(0)
    return {"W": W, "a": b - W @ lam, "b": c - mu @ W}


def test_centring_is_the_published_algorithm():
    rbm, images = random_rbm(8, 5, std=0.3), random_states(120, 8, probability=0.8)
    learner = CD(centred=True)
    learner.start(rbm, Batch(images), 20, seeded())
    batches = images.split(20)
    expected = melchior(rbm, batches, learner, 0.5, seeded())
    generator, optimizer = seeded(), torch.optim.SGD(rbm.parameters(), lr=0.5)
    for x in batches:
        learner.fill_grad(rbm, Batch(x), generator)
        optimizer.step()
    for name, parameter in rbm.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("make", [random_rbm, random_gaussian])
def test_centring_with_offsets_of_zero_is_no_centring(make):
    rbm, x = make(8, 5, std=0.3), random_states(30, 8, probability=0.8)
    plain = gradient(CD(), rbm, x)
    learner, generator = CD(centred=True, visible_bias_from_data=False), seeded()
    learner.start(rbm, Batch(x), 30, generator)
    with torch.no_grad():  # so that they are 0 once the batch has moved them by 1 %
        learner.state["visible_offset"].copy_(rbm.scaled(x).mean(0) * -0.01 / 0.99)
        learner.state["hidden_mean"].copy_(rbm.hidden_given(x).mean(0) * -0.01 / 0.99)
    learner.fill_grad(rbm, Batch(x), generator)
    for name, parameter in rbm.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("learner", [CD(centred=True), PCD(centred=True)])
def test_a_centred_step_is_the_same_for_data_with_black_and_white_swapped(learner):
    rbm, x = random_rbm(5, 3, std=0.5), random_states(60, 5, probability=0.8)
    swapped = copy.deepcopy(rbm)
    with torch.no_grad():  # p'(1-v, h) = p(v, h)
        swapped.W.neg_()
        swapped.a.neg_()
        swapped.b += rbm.W.sum(0)
    states = every_state(5).float()
    free = []
    for model, images, v in ((rbm, x, states), (swapped, 1 - x, 1 - states)):
        mine, generator = copy.deepcopy(learner), seeded()
        mine.visible_bias_from_data = False
        mine.start(model, Batch(images), 60, generator)
        if "chains" in mine.state:  # the same chains on both sides, and no draw of visible units after them
            mine.state["chains"].copy_(x[:60] if model is rbm else 1 - x[:60])
            mine.sample_visible = False
        mine.fill_grad(model, Batch(images), seeded(1))
        torch.optim.SGD(model.parameters(), lr=0.5).step()
        free.append(model.free_energy(v).detach())
    difference = free[0] - free[1]
    torch.testing.assert_close(difference, difference.mean().expand(32), rtol=1e-5, atol=1e-5)


def test_a_centred_gaussian_step_is_the_same_for_data_shifted_by_a_constant():
    rbm, x = random_gaussian(5, 3, std=0.5, learn_variance=False), torch.randn(60, 5, generator=seeded())
    shifted, shift = copy.deepcopy(rbm), 3.0
    with torch.no_grad():  # p'(v + shift, h) = p(v, h)
        shifted.a += shift
        shifted.b -= shifted.scaled(torch.full((1, 5), shift))[0] @ rbm.W
    free = []
    for model, images, v in ((rbm, x, x), (shifted, x + shift, x + shift)):
        learner, generator = CD(centred=True, visible_bias_from_data=False), seeded()
        learner.start(model, Batch(images), 60, generator)
        learner.fill_grad(model, Batch(images), generator)
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5).step()
        free.append(model.free_energy(v).detach())
    difference = free[0] - free[1]
    torch.testing.assert_close(difference, difference.mean().expand(60), rtol=1e-4, atol=1e-4)


# Sparsity


def test_a_sparsity_target_pulls_the_mean_activity_to_it():
    images = random_states(200, 12)
    for learner, low, high in (
        (CD(), 0.3, 0.7),
        (CD(sparsity_target=0.1, sparsity_cost=1.0), 0.07, 0.14),
        (PCD(sparsity_target=0.1, sparsity_cost=1.0), 0.07, 0.14),
    ):
        experiment = Experiment(lambda: RBM(12, 8), images, learner, batch_size=50, epochs=40, lr=0.2)
        rbm = experiment.run(progress=False, device="cpu").model
        activity = rbm.hidden_given(images).mean(0)
        assert ((low < activity) & (activity < high)).all(), (learner, activity)


def test_a_sparsity_target_does_not_kill_units_that_see_many_bright_pixels():
    images = random_states(500, 200)  # the squares of the pixels' means add up to 50, about as MNIST's
    learner = CD(sparsity_target=0.05)
    experiment = Experiment(lambda: RBM(200, 10), images, learner, batch_size=100, epochs=20, momentum=0.5)
    rbm = experiment.run(progress=False, device="cpu").model
    assert (rbm.hidden_given(images).mean(0) > 0.01).all()


@pytest.mark.parametrize("make", [random_rbm, random_gaussian])
def test_the_pull_is_the_gradient_of_the_hidden_units_input(make):
    rbm, x = make(6, 4), random_states(30, 6)
    plain = gradient(CD(), rbm, x)
    pulled = gradient(CD(sparsity_target=0.2, sparsity_cost=0.5), rbm, x)
    pull = 0.5 * (rbm.hidden_given(x).mean(0) - 0.2)
    expected = torch.autograd.grad((pull.detach() * rbm.hidden_input(x).mean(0)).sum(), [rbm.W, rbm.b])
    torch.testing.assert_close(pulled["W"] - plain["W"], expected[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(pulled["b"] - plain["b"], expected[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(pulled["a"], plain["a"], rtol=0, atol=0)


# bfloat16 products


@pytest.mark.parametrize("learner", [CD(), CD(k=3, centred=True, sparsity_target=0.1)])
def test_bfloat16_products_give_the_float32_gradient_to_their_precision(learner):
    rbm, x = random_rbm(60, 40, std=0.1), random_states(200, 60, probability=0.3)
    exact = gradient(learner, rbm, x)
    learner = copy.deepcopy(learner)
    learner.products = "bfloat16"
    rough = gradient(learner, rbm, x)
    for name, expected in exact.items():
        assert rough[name].dtype == torch.float32
        # Inputs and products are rounded by 2^-9; a sample flips where u falls between the two probabilities.
        error = float((rough[name] - expected).norm() / expected.norm())
        assert 0 < error < 0.05, (name, error)
    assert all(value.dtype == torch.float32 for value in learner.state.values())


@pytest.mark.parametrize("make", [partial(GaussianRBM, 60, 40), partial(GaussianRBM, 60, 40, learn_variance=False),
                                  partial(LabelledRBM, 57, 40, labels=3), partial(CodeRBM, 60, 40)])  # fmt: skip
@pytest.mark.parametrize("learner", [CD(k=2), CD(centred=True, sample_visible=True), PCD()])
def test_bfloat16_products_are_for_all_kinds_of_units(make, learner):
    """What is learnt by them is what float32 products learn, but for rounding and a sample that flips."""
    images, labels = torch.rand(200, 57 if make.func is LabelledRBM else 60, generator=seeded()), torch.arange(200) % 3
    experiment = Experiment(partial(make, std=0.1), (images, labels), learner, batch_size=50, epochs=2, lr=0.01)
    runs = [
        replace(experiment, learner=replace(learner, products=products)).run(progress=False, device="cpu")
        for products in ("float32", "bfloat16")
    ]
    assert {parameter.dtype for parameter in runs[1].model.parameters()} == {torch.float32}
    exact, rough = (parameters_to_vector(run.model.parameters()) for run in runs)
    learnt = exact - parameters_to_vector(experiment.initial_model().parameters())
    assert 0 < (rough - exact).norm() < 0.1 * learnt.norm()


# Gaussian units


@pytest.mark.parametrize("learner", [CD(visible_bias_from_data=False), PCD(visible_bias_from_data=False)])
def test_a_learned_variance_becomes_the_data_s(learner):
    deviation = torch.tensor([0.5, 1.0, 2.0])
    images = deviation * torch.randn(2_000, 3, generator=seeded()) + 1
    experiment = Experiment(
        lambda: GaussianRBM(3, 2), images, learner, batch_size=500, epochs=30, lr=0.2, weight_decay=0.1
    )
    rbm = experiment.run(progress=False, device="cpu").model
    torch.testing.assert_close(rbm.log_variance.exp().detach(), images.var(0), rtol=0.15, atol=0)


def test_a_learned_variance_is_what_the_hidden_units_leave_unexplained():
    h = random_states(2_000, 1)
    images = 2 * h * torch.ones(2) + 0.5 * torch.randn(2_000, 2, generator=seeded())
    experiment = Experiment(lambda: GaussianRBM(2, 1, std=0.1), images, CD(), batch_size=500, epochs=60, lr=0.4)
    rbm = experiment.run(progress=False, device="cpu").model
    variance = rbm.log_variance.exp().detach()
    assert (variance < 0.5).all(), variance  # 1.25 in all, 0.25 given h
    assert (variance > 0.2).all(), variance


def test_a_fixed_variance_is_not_trained():
    images = torch.randn(200, 3, generator=seeded())
    experiment = Experiment(lambda: GaussianRBM(3, 2, variance=0.5, learn_variance=False), images, CD(), epochs=2)
    rbm = experiment.run(progress=False, device="cpu").model
    torch.testing.assert_close(rbm.log_variance.exp(), torch.full((3,), 0.5))
    assert rbm.log_variance.grad is None


# What is refused


@pytest.mark.parametrize("kind", [CD, PCD])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "CD-0: k must be at least 1"),
        ({"k": -2}, "CD--2: k must be at least 1"),
        ({"products": "float16"}, 'products="float16": "float32" .* or "bfloat16"'),
        ({"sparsity_target": 0.0}, "a sparsity target of 0.0"),
        ({"sparsity_target": 1.5}, "a sparsity target of 1.5"),
    ],
)
def test_a_wrong_argument_is_refused_with_its_value(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


@pytest.mark.parametrize("chains", [0, -1])
def test_a_number_of_chains_below_one_is_refused(chains):
    with pytest.raises(ValueError, match=f"{chains} chains"):
        PCD(chains=chains)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(10, 5), "5 values each, and the model takes 4"),
        (torch.zeros(10, 2, 3), "6 values each, and the model takes 4"),
        (torch.full((10, 4), 1.5), "outside .0, 1.*Gaussian visible units"),
        (torch.full((10, 4), -0.1), "outside .0, 1"),
        (torch.full((10, 4), math.nan), "NaN pixels in 10 of 10 images"),
    ],
)
def test_images_that_do_not_fit_binary_units_are_refused_before_training(images, message):
    for learner in (CD(), PCD()):
        with pytest.raises(ValueError, match=message):
            Experiment(lambda: RBM(4, 2), images, learner, batch_size=5).run(progress=False)


def test_gaussian_units_take_any_finite_pixel_but_no_nan():
    images = 100 * torch.randn(20, 4, generator=seeded())
    make = lambda: GaussianRBM(4, 2)  # noqa: E731
    Experiment(make, images, CD(), batch_size=5, lr=1e-4).run(steps=1, progress=False)
    images[3, 1] = math.nan
    with pytest.raises(ValueError, match=r"NaN pixels in 1 of 20 images, first in images\[3\]"):
        Experiment(make, images, CD(), batch_size=5).run(steps=1, progress=False)
