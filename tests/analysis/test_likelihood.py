import math

import pytest
import torch
from oracles import (
    every_state,
    log_joint,
    parameters,
    random_gaussian,
    random_rbm,
    random_states,
    seeded,
    visible_distribution,
)
from oracles import (
    exact_log_z as enumerated_log_z,
)

from dlkit.analysis.likelihood import (
    LogZ,
    ais,
    exact_log_z,
    log_probability,
    pseudo_log_likelihood,
    reference_betas,
    reverse_ais,
    states,
)
from dlkit.models import DBN, RBM, GaussianRBM

BETAS = torch.linspace(0, 1, 21)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def logz(rbm):
    return exact_log_z(rbm, progress=False)


# Exact


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (5, 5), (1, 1)])
def test_exact_log_z_is_the_sum_over_both_sides_whichever_is_smaller(shape):
    rbm = random_rbm(*shape)
    assert logz(rbm) == pytest.approx(enumerated_log_z(rbm), abs=1e-8)


@pytest.mark.parametrize("shape", [(600, 13), (13, 600)])
def test_exact_log_z_counts_every_state_once_when_they_come_in_chunks(shape):
    rbm = random_rbm(*shape, std=0.1)
    W, a, b = parameters(rbm).values()
    if shape[0] < shape[1]:
        W, a, b = W.T, b, a
    h = every_state(13)
    expected = torch.logsumexp(h @ b + torch.log1p(torch.exp(h @ W.T + a)).sum(1), 0)
    assert logz(rbm) == pytest.approx(float(expected), abs=1e-6)


def test_exact_log_z_survives_large_weights():
    rbm = random_rbm(6, 5, std=200.0)
    assert logz(rbm) > 750  # its exp is no float64
    assert logz(rbm) == pytest.approx(enumerated_log_z(rbm), rel=1e-9)


@pytest.mark.parametrize("visible", [1, 2])
def test_exact_log_z_of_gaussian_units_is_the_integral(visible):
    rbm = random_gaussian(visible, 3)
    W, a, b, log_variance = (parameters(rbm)[name] for name in ("W", "a", "b", "log_variance"))
    line = torch.linspace(-20, 20, 801, dtype=torch.float64)
    v, h = torch.cartesian_prod(*[line] * visible).reshape(-1, visible), every_state(3)
    variance = log_variance.exp()
    logs = (v / variance) @ W @ h.T + h @ b - ((v - a) ** 2 / (2 * variance)).sum(1, keepdim=True)
    expected = torch.logsumexp(logs.flatten(), 0) + visible * math.log(line[1] - line[0])
    assert logz(rbm) == pytest.approx(float(expected), abs=1e-9)


def test_exact_log_z_leaves_the_model_in_its_own_dtype():
    rbm = random_rbm(4, 3)
    before = rbm.W.clone()
    logz(rbm)
    assert rbm.W.dtype == torch.float32
    assert torch.equal(rbm.W, before)


@pytest.mark.parametrize("rbm", [RBM(26, 30), RBM(30, 26), GaussianRBM(2, 26)], ids=repr)
def test_more_units_than_can_be_enumerated_are_refused_with_the_way_out(rbm):
    with pytest.raises(ValueError, match=r"26 units have 2\^26 states: .*25 at most, use `ais"):
        logz(rbm)


def test_the_smaller_side_may_be_small_whatever_the_other():
    assert logz(RBM(500, 3, std=0.0)) == pytest.approx(503 * math.log(2))
    assert logz(RBM(3, 500, std=0.0)) == pytest.approx(503 * math.log(2))


def test_states_are_all_there_once_and_join_at_any_cut():
    all_states = states(5)
    assert torch.equal(all_states.unique(dim=0), every_state(5))
    assert torch.equal(torch.cat([states(5, 0, 7), states(5, 7, 30), states(5, 30)]), all_states)
    assert torch.equal(all_states[6], torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0]).double())  # lowest bit first


def test_the_probabilities_of_all_states_sum_to_one():
    rbm = random_rbm(6, 4)
    log_z = logz(rbm)
    total = sum(math.exp(log_probability(rbm, v[None], log_z).value) for v in every_state(6).float())
    assert total == pytest.approx(1, abs=1e-5)


def test_log_probability_is_the_enumerated_mean():
    rbm = random_rbm(4, 3)
    v = every_state(4)[[1, 5, 5, 14]]
    expected = float(visible_distribution(rbm)[[1, 5, 5, 14]].log().mean())
    result = log_probability(rbm, v.float(), logz(rbm))
    assert result.value == pytest.approx(expected, abs=1e-5)
    assert result.low == result.value == result.high


def test_log_probability_is_a_mean_over_images_and_not_over_the_chunks_they_come_in():
    rbm = random_rbm(4, 3)
    v = torch.zeros(10_001, 4)
    v[-1] = 1
    p = visible_distribution(rbm).log()
    expected = float(10_000 * p[0] + p[15]) / 10_001
    assert log_probability(rbm, v, logz(rbm)).value == pytest.approx(expected, abs=1e-5)


def test_the_interval_of_log_z_is_turned_round_for_log_probability():
    rbm = RBM(3, 2, std=0.0)  # F = -2 log 2 everywhere
    result = log_probability(rbm, torch.zeros(1, 3), LogZ(5.0, 4.0, 7.0, torch.zeros(2, dtype=torch.float64)))
    assert (result.value, result.low, result.high) == pytest.approx([2 * math.log(2) - z for z in (5.0, 7.0, 4.0)])


# Annealed


def test_reference_betas_are_the_14_500_steps_of_the_paper():
    betas = reference_betas()
    assert len(betas) == 14_501
    assert betas.dtype == torch.float64
    assert (betas[0], betas[-1]) == (0, 1)
    steps = betas.diff()
    assert (steps > 0).all()
    for low, high, step in ((0.0, 0.5, 1e-3), (0.5, 0.9, 1e-4), (0.9, 1.0, 1e-5)):
        here = steps[(betas[:-1] > low - 1e-9) & (betas[:-1] < high - 1e-9)]
        assert len(here) == round((high - low) / step)
        torch.testing.assert_close(here, torch.full_like(here, step), rtol=1e-6, atol=0)


def samples(rbm, count, seed=0):
    """Exact samples of a tiny binary RBM, to start reverse chains from."""
    return every_state(rbm.visible)[torch.multinomial(visible_distribution(rbm), count, True, generator=seeded(seed))]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_exact_log_z_lies_in_the_interval_of_ais(direction, seed):
    rbm = random_rbm(6, 4, seed=seed)
    if direction == "forward":
        estimate = ais(rbm, chains=500, betas=BETAS, seed=seed, progress=False)
    else:
        start = samples(rbm, 500).float()
        estimate = reverse_ais(rbm, start, burn_in=1, betas=BETAS, seed=seed, progress=False)
    exact = enumerated_log_z(rbm)
    assert estimate.low <= exact <= estimate.high
    assert estimate.low < estimate.value < estimate.high
    assert estimate.high - estimate.low < 0.5  # and it says something


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_interval_of_ais_is_three_standard_errors(direction):
    rbm = random_rbm(6, 4, std=0.8)
    exact, betas, scores = enumerated_log_z(rbm), torch.linspace(0, 1, 9), []
    for seed in range(40):
        if direction == "forward":
            result = ais(rbm, chains=200, betas=betas, seed=seed, progress=False)
            z, high = math.exp(result.value - exact), math.exp(result.high - exact)
        else:  # the mean is of 1/Z
            result = reverse_ais(
                rbm, samples(rbm, 200, seed).float(), burn_in=1, betas=betas, seed=seed, progress=False
            )
            z, high = math.exp(exact - result.value), math.exp(exact - result.low)
        scores.append((z - 1) / ((high - z) / 3))
    square = sum(score**2 for score in scores) / 40  # χ² of 40 degrees over 40: 1 ± 0.22
    assert 0.4 < square < 1.9
    assert abs(sum(scores) / 40) < 4 / 40**0.5  # unbiased
    assert sum(abs(score) > 3 for score in scores) <= 3  # 0.1 is expected


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_z_is_right_on_average_even_with_four_temperatures(direction):
    rbm, chains = random_rbm(5, 4, std=1.5), 200_000
    exact, images = enumerated_log_z(rbm), random_states(100, 5, probability=0.7)
    arguments = {"images": images, "betas": torch.tensor([0.0, 0.3, 0.6, 1.0]), "progress": False}
    if direction == "forward":
        result = ais(rbm, chains=chains, **arguments)
    else:
        result = reverse_ais(rbm, samples(rbm, chains).float(), burn_in=1, **arguments)
    assert result.low <= exact <= result.high
    assert result.high - result.low < 0.1


def test_with_few_temperatures_ais_errs_low_and_reverse_ais_high():
    rbm = random_rbm(6, 4, std=2.0)
    exact, betas = enumerated_log_z(rbm), torch.linspace(0, 1, 3)
    below = [ais(rbm, chains=2, betas=betas, seed=seed, progress=False).value - exact for seed in range(30)]
    above = [
        reverse_ais(rbm, samples(rbm, 2, seed).float(), burn_in=1, betas=betas, seed=seed, progress=False).value - exact
        for seed in range(30)
    ]
    for errors, sign in ((below, -1), (above, 1)):
        errors = sign * torch.tensor(errors)
        assert errors.mean() > 3 * errors.std() / 30**0.5


@pytest.mark.parametrize("make", [random_rbm, random_gaussian])
def test_without_weights_ais_is_exact_both_ways(make):
    rbm = make(5, 4)
    torch.nn.init.zeros_(rbm.W)
    exact = logz(rbm)
    start = torch.ones(10, 5)
    for estimate in (
        ais(rbm, chains=10, betas=BETAS, progress=False),
        reverse_ais(rbm, start, burn_in=1, betas=BETAS, progress=False),
    ):
        assert estimate.value == pytest.approx(exact, abs=1e-4)
        assert estimate.high - estimate.low < 1e-3
        assert estimate.effective_chains == pytest.approx(10, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_ais_holds_for_gaussian_units(seed):
    rbm = random_gaussian(4, 3, seed=seed, std=0.7)
    estimate = ais(rbm, chains=500, betas=BETAS, seed=seed, progress=False)
    back = reverse_ais(rbm, torch.zeros(500, 4), burn_in=100, betas=BETAS, seed=seed, progress=False)
    for result in (estimate, back):
        assert result.low <= logz(rbm) <= result.high
        assert result.high - result.low < 1


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_ais_may_start_from_the_means_of_images(direction):
    rbm, images = random_rbm(6, 4), random_states(100, 6, probability=0.9)
    arguments = {"betas": BETAS, "progress": False}
    if direction == "forward":
        result, plain = (ais(rbm, images=of, chains=500, **arguments) for of in (images, None))
    else:
        start = samples(rbm, 500).float()
        result, plain = (reverse_ais(rbm, start, images=of, burn_in=1, **arguments) for of in (images, None))
    assert result.low <= enumerated_log_z(rbm) <= result.high
    assert result.value != plain.value


def test_chains_burn_in_from_wherever_they_start():
    rbm = random_rbm(6, 4)
    start = torch.zeros(500, 6)
    result = reverse_ais(rbm, start, burn_in=100, betas=BETAS, progress=False)
    assert result.low <= enumerated_log_z(rbm) <= result.high
    assert not start.any()


def test_ais_follows_its_seed_and_leaves_the_model_and_the_global_generator_alone():
    rbm = random_rbm(6, 4)
    before, drawn = {name: p.clone() for name, p in rbm.named_parameters()}, torch.get_rng_state()
    first, again, other = (ais(rbm, chains=5, betas=BETAS, seed=seed, progress=False) for seed in (1, 1, 2))
    assert first.value == again.value != other.value
    assert all(torch.equal(p, before[name]) for name, p in rbm.named_parameters())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_without_progress_nothing_is_printed(capfd):
    ais(random_rbm(3, 2), betas=BETAS, progress=False)
    logz(random_rbm(3, 2))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "betas",
    [[0.0, 0.5], [0.1, 1.0], [1.0, 0.0], [0.0, 0.5, 0.5, 1.0], [0.0, 0.6, 0.5, 1.0], [0.0, math.nan, 1.0], [1.0]],
)
def test_betas_that_do_not_rise_from_0_to_1_are_refused(betas):
    with pytest.raises(ValueError, match=r"betas must rise from 0 to 1: torch.linspace\(0, 1, 1001\)"):
        ais(random_rbm(3, 2), betas=torch.tensor(betas), progress=False)


@pytest.mark.parametrize("chains", [0, 1])
def test_chains_too_few_for_an_interval_are_refused(chains):
    with pytest.raises(ValueError, match=f"{chains} chains: at least 2"):
        ais(random_rbm(3, 2), betas=BETAS, chains=chains, progress=False)
    with pytest.raises(ValueError, match=f"{chains} chains: at least 2"):
        reverse_ais(random_rbm(3, 2), torch.zeros(chains, 3), betas=BETAS, progress=False)


def test_effective_chains_are_all_of_equals_and_one_where_one_outweighs_the_rest():
    def effective(weights):
        return LogZ(0.0, 0.0, 0.0, torch.tensor(weights, dtype=torch.float64)).effective_chains

    assert effective([-900.0] * 8) == pytest.approx(8)
    assert effective([900.0] + [0.0] * 7) == pytest.approx(1)
    assert effective([math.log(3), 0.0]) == pytest.approx((3 + 1) ** 2 / (9 + 1))


def test_estimates_show_their_intervals():
    estimate = LogZ(5.0, 4.0, 7.0, torch.zeros(8, dtype=torch.float64))
    assert repr(estimate) == "LogZ(5.00, 4.00 to 7.00, 8 of 8 chains count)"
    assert "<td>log Z</td><td>5.00</td><td>4.00</td><td>7.00</td><td>8 of 8</td>" in estimate._repr_html_()
    result = log_probability(RBM(3, 2, std=0.0), torch.zeros(1, 3), estimate)  # -F is 2 log 2
    assert repr(result) == "-3.61 nats (-5.61 to -2.61)"
    assert "<td>-3.61</td><td>-5.61</td><td>-2.61</td>" in result._repr_html_()


@pytest.mark.cuda
@needs_cuda
def test_likelihoods_on_the_gpu_are_those_on_the_cpu():
    rbm, v = random_rbm(6, 4), random_states(50, 6)
    expected = logz(rbm), pseudo_log_likelihood(rbm, v).mean()
    rbm = rbm.cuda()
    assert logz(rbm) == pytest.approx(expected[0], abs=1e-6)
    torch.testing.assert_close(pseudo_log_likelihood(rbm, v.cuda()).mean().cpu(), expected[1])
    pseudo_log_likelihood(rbm, v.cuda(), generator=seeded())
    estimate = ais(rbm, chains=500, betas=BETAS, progress=False)
    assert estimate.low <= expected[0] <= estimate.high


# Pseudo-likelihood


def test_pseudo_log_likelihood_is_the_sum_of_the_enumerated_conditionals():
    rbm = random_rbm(5, 4)
    log_p, v = torch.logsumexp(log_joint(**parameters(rbm)), 1), every_state(5)
    expected = torch.zeros(32, dtype=torch.float64)
    for i in range(5):
        flipped = torch.arange(32) ^ (1 << (4 - i))
        expected += log_p - torch.logaddexp(log_p, log_p[flipped])
    result = pseudo_log_likelihood(rbm, v.float())
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_estimate_from_one_unit_an_image_has_the_exact_mean():
    rbm = random_rbm(5, 4)
    copies = 4_000
    v = random_states(8, 5)
    result = pseudo_log_likelihood(rbm, v.repeat(copies, 1), generator=seeded()).reshape(copies, 8)
    error = result.std(0) / copies**0.5
    assert (error > 0).all()
    assert ((result.mean(0) - pseudo_log_likelihood(rbm, v)).abs() < 5 * error).all()


def test_pseudo_log_likelihood_of_independent_units_is_their_log_likelihood():
    rbm = random_rbm(20, 3)
    torch.nn.init.zeros_(rbm.W)
    v = random_states(10, 20)
    p = torch.where(v == 1, rbm.a, -rbm.a).detach()
    torch.testing.assert_close(pseudo_log_likelihood(rbm, v), torch.nn.functional.logsigmoid(p).sum(1))


def test_pseudo_log_likelihood_of_a_model_that_knows_nothing_is_one_bit_a_pixel():
    rbm, v = RBM(784, 10, std=0.0), random_states(3, 784)
    for generator in (None, seeded()):
        result = pseudo_log_likelihood(rbm, v, generator=generator)
        torch.testing.assert_close(result, torch.full((3,), -784 * math.log(2)))


def test_pixels_that_are_not_binary_are_refused_with_the_mend():
    v = torch.tensor([[0.0, 1.0, 0.5]])
    for call in (lambda: pseudo_log_likelihood(RBM(3, 2), v), lambda: log_probability(RBM(3, 2), v, 0.0)):
        with pytest.raises(ValueError, match=r'not all 0 or 1: load them with data.load\("mnist", binarise="sample"\)'):
            call()


def test_gaussian_units_have_densities_but_no_pseudo_log_likelihood():
    rbm, v = random_gaussian(2, 2), torch.tensor([[0.3, -1.7]])
    with pytest.raises(ValueError, match="for binary visible units: a GaussianRBM has others"):
        pseudo_log_likelihood(rbm, v)
    line = torch.linspace(-15, 15, 301)
    grid = torch.cartesian_prod(line, line)
    log_z = logz(rbm)
    density = (-rbm.free_energy(grid).detach().double() - log_z).exp()
    assert float(density.sum() * 0.1**2) == pytest.approx(1, abs=1e-4)
    assert log_probability(rbm, v, log_z).value == pytest.approx(float(-rbm.free_energy(v).detach() - log_z), abs=1e-5)


def test_images_for_the_start_of_a_gaussian_path_are_refused():
    with pytest.raises(ValueError, match="annealed from its own visible bias: leave images out"):
        ais(random_gaussian(4, 3), images=torch.zeros(5, 4), betas=torch.linspace(0, 1, 3))


def test_what_is_no_rbm_is_refused(unchecked):
    with pytest.raises(TypeError, match=r"a DBN has no energy to anneal: give its top, `ais\(dbn.top\)`"):
        ais(DBN.of([4, 3, 2]), chains=2)
    with pytest.raises(TypeError, match="a Linear has no energy to anneal: give an RBM"):
        ais(torch.nn.Linear(4, 3), chains=2)
