import pytest
import torch
from oracles import (
    chi_square,
    chi_square_bound,
    every_state,
    gibbs_matrix,
    parameters,
    random_gaussian,
    random_rbm,
    random_states,
    seeded,
    visible_distribution,
)

from dlkit.models.gibbs_chains import chain, gibbs, init_chains

CHAINS = 20_000  # independent of one another, so that χ² holds


def test_long_chains_have_the_enumerated_distribution():
    rbm = random_rbm(4, 3)
    v, _ = gibbs(rbm, torch.zeros(CHAINS, 4), steps=60, generator=seeded())
    assert chi_square(v, visible_distribution(rbm)) < chi_square_bound(16)


def test_one_step_has_the_enumerated_transition_probabilities():
    rbm = random_rbm(4, 3, std=0.7)
    transition = gibbs_matrix(rbm)
    for start in (0, 5, 15):
        v = every_state(4)[start].float().expand(CHAINS, -1)
        after, _ = gibbs(rbm, v, steps=1, generator=seeded(start))
        assert chi_square(after, transition[start]) < chi_square_bound(16)


def test_the_mean_beside_a_sample_is_that_of_the_visible_units_it_was_drawn_from():
    rbm = random_rbm(4, 3)
    v, mean = gibbs(rbm, torch.zeros(CHAINS, 4), steps=2, generator=seeded())
    possible = rbm.visible_given(every_state(3).float())
    distance = (mean[:, None] - possible).abs().amax(2)
    assert distance.min(1).values.max() < 1e-6  # each is p(v|h) of some h
    surprise = ((v - mean) / (mean * (1 - mean)).sqrt()).mean(0)
    assert (surprise.abs() < 5 / CHAINS**0.5).all()


def test_long_gaussian_chains_have_the_enumerated_mean_and_covariance():
    rbm = random_gaussian(2, 3, std=0.7)
    W, a, b, log_variance = (parameters(rbm)[name] for name in ("W", "a", "b", "log_variance"))
    h = every_state(3)
    means = a + h @ W.T  # p(h) by completing the square in v: a mixture of 8 normals
    p = (h @ b + ((means**2 - a**2) / (2 * log_variance.exp())).sum(1)).softmax(0)
    mean = p @ means
    covariance = (p[:, None] * means).T @ means - torch.outer(mean, mean) + torch.diag(log_variance.exp())
    v, _ = gibbs(rbm, torch.zeros(CHAINS, 2), steps=100, generator=seeded())
    error = (torch.diag(covariance) / CHAINS).sqrt()
    assert ((v.mean(0) - mean).abs() < 5 * error).all()
    scale = torch.outer(error, error) * CHAINS
    assert ((torch.cov(v.T) - covariance).abs() < 5 * scale * (3 / CHAINS) ** 0.5).all()


def test_chains_from_noise_start_at_the_bias_alone():
    rbm = random_rbm(3, 4)
    v = init_chains(rbm, CHAINS, seeded())
    p = parameters(rbm)["a"].sigmoid()
    states = every_state(3)
    assert chi_square(v, (states * p + (1 - states) * (1 - p)).prod(1)) < chi_square_bound(8)


def test_clamped_pixels_never_move_while_the_others_do():
    rbm = random_rbm(6, 4, std=0.3)
    v = random_states(50, 6)
    clamped = torch.tensor([True, False, True, True, False, False])
    moved = torch.zeros(50, 6, dtype=torch.bool)
    states = chain(rbm, v, generator=seeded(), clamped=clamped)
    for _ in range(30):
        sample, mean = next(states)
        assert torch.equal(sample[:, clamped], v[:, clamped])
        assert torch.equal(mean[:, clamped], v[:, clamped])
        moved |= sample != v
    assert moved[:, ~clamped].all()


def test_what_is_not_clamped_follows_the_exact_conditional_distribution():
    rbm = random_rbm(4, 3)
    v = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(CHAINS, -1)
    clamped = torch.tensor([True, True, False, False])
    sample, _ = gibbs(rbm, v, steps=60, generator=seeded(), clamped=clamped)
    states = every_state(4)
    agrees = (states[:, :2] == torch.tensor([1.0, 0.0])).all(1)
    conditional = visible_distribution(rbm)[agrees]
    assert chi_square(sample[:, 2:], conditional / conditional.sum()) < chi_square_bound(4)


def test_each_chain_can_have_a_clamp_of_its_own():
    rbm, v = random_rbm(5, 3, std=0.1), random_states(40, 5)
    clamped = random_states(40, 5, seed=1).bool()
    sample, _ = gibbs(rbm, v, steps=20, generator=seeded(), clamped=clamped)
    assert torch.equal(sample[clamped], v[clamped])
    assert not torch.equal(sample[~clamped], v[~clamped])


def test_gaussian_pixels_are_clamped_to_the_bit():
    rbm, v = random_gaussian(5, 3), torch.randn(40, 5, generator=seeded(1))
    clamped = torch.tensor([True, False, False, True, False])
    sample, _ = gibbs(rbm, v, steps=5, generator=seeded(), clamped=clamped)
    assert torch.equal(sample[:, clamped], v[:, clamped])
    assert (sample[:, ~clamped] != v[:, ~clamped]).all()


def test_the_same_generator_gives_the_same_chain_and_another_another():
    rbm, v = random_rbm(6, 4), random_states(30, 6)
    first, _ = gibbs(rbm, v, steps=5, generator=seeded(1))
    assert torch.equal(first, gibbs(rbm, v, steps=5, generator=seeded(1))[0])
    assert not torch.equal(first, gibbs(rbm, v, steps=5, generator=seeded(2))[0])


def test_gibbs_is_the_chain_after_so_many_steps():
    rbm, v = random_rbm(6, 4), random_states(30, 6)
    states = chain(rbm, v, generator=seeded())
    third = [next(states) for _ in range(3)][-1]
    torch.testing.assert_close(gibbs(rbm, v, steps=3, generator=seeded()), third, rtol=0, atol=0)


def test_the_start_of_a_chain_is_left_as_it_was_and_no_graph_is_kept():
    rbm, v = random_rbm(6, 4), random_states(30, 6)
    before = v.clone()
    sample, mean = gibbs(rbm, v, steps=3, generator=seeded(), clamped=torch.ones(6, dtype=torch.bool))
    assert torch.equal(v, before)
    assert not sample.requires_grad
    assert not mean.requires_grad


def test_states_already_yielded_do_not_change_under_the_reader():
    rbm = random_rbm(6, 4, std=0.1)
    states = chain(rbm, random_states(30, 6), generator=seeded())
    sample, mean = next(states)
    kept = sample.clone(), mean.clone()
    next(states)
    assert torch.equal(sample, kept[0])
    assert torch.equal(mean, kept[1])


@pytest.mark.parametrize("steps", [0, -3])
def test_less_than_one_step_is_refused(steps):
    with pytest.raises(ValueError, match=f"{steps} Gibbs steps: at least 1"):
        gibbs(random_rbm(3, 2), torch.zeros(1, 3), steps=steps)
