"""Exact quantities of small RBMs, against plain enumeration, autograd and a dense transition matrix."""

import math

import pytest
import torch
from oracles import (
    every_state,
    gibbs_matrix,
    likelihood_gradient,
    number_of,
    parameters,
    random_rbm,
    random_states,
    seeded,
    visible_distribution,
)

from dlkit.analysis import exact
from dlkit.analysis.likelihood import states
from dlkit.data import Batch, bars_and_stripes
from dlkit.models import GaussianRBM
from dlkit.training import CD

SHAPES = [(5, 3), (4, 5), (3, 1), (1, 4)]  # odd, even and too small to halve


def in_order_of_states(visible: int):
    """Where the oracles keep what dlkit keeps in row i."""
    return number_of(states(visible))


def dense_cd_gradient(rbm, v, k):
    """E over v_k of the CD-k gradient, by a transition matrix of all states and loops over the units."""
    W, b = parameters(rbm)["W"], parameters(rbm)["b"]
    every = every_state(rbm.visible)
    start = torch.zeros(len(every), dtype=torch.float64)
    for row in number_of(v):
        start[row] += 1 / len(v)
    end = start @ torch.linalg.matrix_power(gibbs_matrix(rbm), k)
    on = 1 / (1 + torch.exp(-(every @ W + b)))
    weight = end - start  # <∂E>_data - <∂E>_chain, ∂E/∂W_ij being -v_i h_j
    gradient = {"W": torch.zeros_like(W), "a": weight @ every, "b": weight @ on}
    for i in range(rbm.visible):
        for j in range(rbm.hidden):
            gradient["W"][i, j] = sum(w * s[i] * p[j] for w, s, p in zip(weight, every, on, strict=True))
    return gradient


def test_state_number_is_the_row_of_states():
    assert exact.state_number(states(6)).tolist() == list(range(64))


@pytest.mark.parametrize(("visible", "hidden"), SHAPES)
def test_the_visible_distribution_is_the_enumerated_one(visible, hidden):
    rbm = random_rbm(visible, hidden)
    torch.testing.assert_close(
        exact.visible_distribution(rbm), visible_distribution(rbm)[in_order_of_states(visible)], rtol=1e-6, atol=1e-9
    )


def test_the_log_likelihood_is_the_mean_log_probability_of_the_images():
    rbm, v = random_rbm(5, 3), random_states(7, 5)
    wanted = visible_distribution(rbm)[number_of(v)].log().mean()
    assert exact.log_likelihood(rbm, v) == pytest.approx(float(wanted), abs=1e-9)


@pytest.mark.parametrize(("visible", "hidden"), SHAPES)
def test_the_gradient_is_autograds_through_the_enumeration(visible, hidden):
    rbm, v = random_rbm(visible, hidden), random_states(7, visible)
    torch.testing.assert_close(exact.gradient(rbm, v), likelihood_gradient(rbm, v))


@pytest.mark.parametrize(("visible", "hidden"), SHAPES)
def test_the_gibbs_operator_is_the_dense_transition_matrix(visible, hidden):
    rbm, order = random_rbm(visible, hidden), in_order_of_states(visible)
    matrix = gibbs_matrix(rbm)[order][:, order]
    p = torch.rand(2**visible, generator=seeded(), dtype=torch.float64)
    p /= p.sum()
    torch.testing.assert_close(exact.GibbsOperator(rbm)(p, 3), p @ torch.linalg.matrix_power(matrix, 3))


def test_the_model_is_what_gibbs_steps_leave_as_it_is():
    rbm = random_rbm(6, 4)
    p = exact.visible_distribution(rbm)
    torch.testing.assert_close(exact.GibbsOperator(rbm)(p), p)


def test_the_operator_says_its_sizes():
    assert repr(exact.GibbsOperator(random_rbm(5, 3))) == "GibbsOperator(32 visible states, 8 hidden states)"


def test_saturated_units_do_not_break_the_operator():
    rbm = random_rbm(5, 3, std=500.0)  # the sigmoid rounds to 0 and to 1
    p = exact.GibbsOperator(rbm)(exact.empirical_distribution(random_states(7, 5)), 2)
    assert float(p.sum()) == pytest.approx(1)
    assert not p.isnan().any()


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_cd_gradient_is_that_of_the_dense_transition_matrix(k):
    rbm, v = random_rbm(5, 3), random_states(7, 5)
    torch.testing.assert_close(exact.cd_gradient(rbm, v, k), dense_cd_gradient(rbm, v, k))


def test_gradients_of_several_k_at_once_are_those_of_each_alone():
    rbm, v = random_rbm(4, 3), random_states(5, 4)
    together = exact.cd_gradients(rbm, v, [5, 1, 2])
    assert list(together) == [1, 2, 5]
    for k, g in together.items():
        torch.testing.assert_close(g, exact.cd_gradient(rbm, v, k))


def test_the_learner_fills_grad_with_the_cd_gradient_on_average():
    rbm, v = random_rbm(4, 3).double(), random_states(3, 4).double()
    copies = 30_000
    CD(k=2, sample_visible=True).fill_grad(rbm, Batch(v.repeat(copies, 1)), seeded())
    wanted = exact.cd_gradient(rbm, v, 2)
    for name, parameter in rbm.named_parameters():
        # An entry is a mean of 90,000 numbers in [-1, 1]: five standard errors are 0.017 at most.
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=0, atol=0.017)


def test_cd_becomes_exact_as_the_chain_grows():
    rbm, v = random_rbm(5, 3, std=0.5), random_states(7, 5)
    torch.testing.assert_close(exact.cd_gradient(rbm, v, 200), exact.gradient(rbm, v))


def test_distances_of_two_known_distributions():
    p, q = torch.tensor([0.5, 0.5, 0.0, 0.0]).double(), torch.tensor([0.25, 0.25, 0.25, 0.25]).double()
    assert exact.total_variation(p, q) == pytest.approx(0.5)
    assert exact.kl(p, q) == pytest.approx(math.log(2))
    assert exact.kl(q, p) == math.inf


def test_the_cosine_is_of_all_parameters_together():
    g = {"W": torch.tensor([[3.0]]), "a": torch.tensor([0.0]), "b": torch.tensor([4.0])}
    other = {"W": torch.tensor([[1.0]]), "a": torch.tensor([0.0]), "b": torch.tensor([0.0])}
    assert exact.cosine(g, other) == pytest.approx(0.6)


def test_the_rbm_itself_is_left_alone():
    rbm = random_rbm(4, 3)
    before = {name: value.clone() for name, value in rbm.state_dict().items()}
    exact.gradient(rbm, random_states(5, 4))
    for name, value in rbm.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])


def test_machines_that_cannot_be_enumerated_are_refused():
    with pytest.raises(ValueError, match=r"17 visible and 3 hidden units.* use 16 a side at most"):
        exact.visible_distribution(random_rbm(17, 3))
    with pytest.raises(ValueError, match="a GaussianRBM has units that are not binary"):
        exact.gradient(GaussianRBM(3, 2), torch.zeros(1, 3))


@pytest.mark.parametrize(("size", "count"), [(2, 6), (3, 14), (4, 30)])
def test_bars_and_stripes_are_all_images_of_uniform_rows_or_columns(size, count):
    every = every_state(size * size).view(-1, size, size)
    rows, columns = (every == every[:, :, :1]).all(2).all(1), (every == every[:, :1, :]).all(2).all(1)
    wanted = {tuple(image.flatten().tolist()) for image in every[rows | columns]}
    patterns = bars_and_stripes(size)
    assert patterns.shape == (count, size, size)
    assert {tuple(image.flatten().tolist()) for image in patterns} == wanted


def test_bars_and_stripes_too_large_to_list_are_refused():
    with pytest.raises(ValueError, match="size 40: use 2 to 12"):
        bars_and_stripes(40)
