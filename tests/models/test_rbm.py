import copy
import itertools
import math
import os
import pickle

import pytest
import torch
from oracles import every_state, random_gaussian, random_rbm, random_states, seeded
from safetensors.torch import save_file

from dlkit.core.random import bernoulli
from dlkit.models import RBM, GaussianRBM

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
BOTH = pytest.mark.parametrize("kind", [RBM, GaussianRBM])


def tiny(kind, visible=4, hidden=3, seed=0):
    return (random_rbm if kind is RBM else random_gaussian)(visible, hidden, seed).double()


def visible_states(kind, visible=4):
    """All of them, or for real-valued units a few."""
    return every_state(visible) if kind is RBM else torch.randn(6, visible, dtype=torch.float64, generator=seeded(9))


def plain_energy(rbm, v, h):
    """The formula of the class's docstring, one term at a time."""
    W, a, b = rbm.W.tolist(), rbm.a.tolist(), rbm.b.tolist()
    gaussian = isinstance(rbm, GaussianRBM)
    variance = [math.exp(x) for x in rbm.log_variance.tolist()] if gaussian else [1.0] * len(a)
    energy = 0.0
    for i in range(len(a)):
        energy += (v[i] - a[i]) ** 2 / (2 * variance[i]) if gaussian else -a[i] * v[i]
        for j in range(len(b)):
            energy -= v[i] / variance[i] * W[i][j] * h[j]
    for j in range(len(b)):
        energy -= b[j] * h[j]
    return energy


def joint_energies(rbm, v):
    """plain_energy of each v (rows) with every hidden state (columns)."""
    hidden = every_state(rbm.hidden).tolist()
    return torch.tensor([[plain_energy(rbm, x, h) for h in hidden] for x in v.tolist()], dtype=torch.float64)


@BOTH
def test_energy_is_the_formula_term_by_term(kind):
    rbm = tiny(kind)
    v = visible_states(kind)
    for h, expected in zip(every_state(3), joint_energies(rbm, v).T, strict=True):
        torch.testing.assert_close(rbm.energy(v, h.expand(len(v), -1)), expected)


@BOTH
def test_free_energy_sums_the_hidden_units_out(kind):
    rbm = tiny(kind)
    v = visible_states(kind)
    torch.testing.assert_close(rbm.free_energy(v), -torch.logsumexp(-joint_energies(rbm, v), 1))
    torch.testing.assert_close(rbm.free_energy_given(v, rbm.hidden_input(v)), rbm.free_energy(v))


@BOTH
def test_hidden_probabilities_are_those_of_the_enumerated_joint(kind):
    rbm = tiny(kind)
    v = visible_states(kind)
    expected = (-joint_energies(rbm, v)).softmax(1) @ every_state(3)
    torch.testing.assert_close(rbm.hidden_given(v), expected)


def test_visible_probabilities_are_those_of_the_enumerated_joint():
    rbm = tiny(RBM)
    v = every_state(4)
    expected = (-joint_energies(rbm, v)).softmax(0).T @ v
    torch.testing.assert_close(rbm.visible_given(every_state(3)), expected)


def test_gaussian_visible_density_is_the_joint_up_to_a_factor():
    rbm = tiny(GaussianRBM)
    v, h = visible_states(GaussianRBM), every_state(3)
    energies = joint_energies(rbm, v)
    for j in range(len(h)):
        mean = rbm.visible_given(h[j : j + 1])
        density = torch.distributions.Normal(mean, torch.exp(0.5 * rbm.log_variance)).log_prob(v).sum(1)
        torch.testing.assert_close(density[1:] - density[0], energies[0, j] - energies[1:, j])


def test_gaussian_samples_have_the_model_s_mean_and_variance():
    rbm = random_gaussian(3, 2)
    draws = 40_000
    mean = rbm.visible_given(torch.ones(1, 2))
    v = rbm.draw_visible(mean.expand(draws, -1), seeded())
    variance = rbm.log_variance.exp()
    assert ((v.mean(0) - mean[0]).abs() < 5 * (variance / draws).sqrt()).all()  # 5 standard errors
    assert ((v.var(0) / variance - 1).abs() < 5 * (2 / draws) ** 0.5).all()


def test_visible_units_summed_out_equal_the_enumeration_for_any_bias():
    rbm = tiny(RBM)
    x, a = torch.randn(2, 5, 4, dtype=torch.float64, generator=seeded(1))
    v = every_state(4)
    for bias in (rbm.a, a[0]):
        torch.testing.assert_close(rbm.log_sum_visible(x, bias), torch.logsumexp(v @ bias + x @ v.T, 1))


@pytest.mark.parametrize("visible", [1, 2])
def test_gaussian_visible_units_integrated_out_equal_a_sum_over_a_fine_grid(visible):
    rbm = tiny(GaussianRBM, visible)
    x, a = torch.randn(2, 5, visible, dtype=torch.float64, generator=seeded(1))
    line = torch.linspace(-20, 20, 801, dtype=torch.float64)  # past 7 standard deviations of all of them
    v = torch.cartesian_prod(*[line] * visible).reshape(-1, visible)
    step = float(line[1] - line[0])
    for bias in (rbm.a, a[0]):
        variance = rbm.log_variance.exp()
        logs = (v / variance) @ x.T - ((v - bias) ** 2 / (2 * variance)).sum(1, keepdim=True)
        expected = torch.logsumexp(logs, 0) + visible * math.log(step)
        torch.testing.assert_close(rbm.log_sum_visible(x, bias), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("learn_variance", [None, True, False])
def test_energy_gradient_is_autograd_s(learn_variance):
    rbm = random_rbm(4, 3) if learn_variance is None else random_gaussian(4, 3, learn_variance=learn_variance)
    rbm = rbm.double()
    v, h = torch.randn(7, 4, generator=seeded(1)).double(), torch.rand(7, 3, generator=seeded(2)).double()
    weight = torch.randn(7, generator=seeded(3)).double()
    trained = {name: parameter for name, parameter in rbm.named_parameters() if parameter.requires_grad}
    expected = torch.autograd.grad((weight * rbm.energy(v, h)).sum(), list(trained.values()))
    with torch.no_grad():
        computed = rbm.energy_gradient(v, h, weight)
    assert set(computed) == set(trained)
    for name, gradient in zip(trained, expected, strict=True):
        torch.testing.assert_close(computed[name], gradient, msg=name)


@BOTH
def test_free_energy_can_be_differentiated_by_autograd(kind):
    rbm = tiny(kind)
    v = visible_states(kind)
    rbm.free_energy(v).sum().backward()
    with torch.no_grad():  # ∂F/∂θ is the mean of ∂E/∂θ over p(h|v)
        expected = rbm.energy_gradient(v, rbm.hidden_given(v), torch.ones(len(v), dtype=torch.float64))
    for name, parameter in rbm.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


def test_visible_bias_makes_an_rbm_without_weights_have_the_data_s_means():
    images = random_states(200, 5, probability=0.3)
    images[:, 3], images[:, 4] = 0, 1
    rbm = RBM(5, 2)
    rbm.set_visible_bias(images)
    assert rbm.a.isfinite().all()
    grey = torch.cat([images, torch.full((1, 5), 0.5)])
    torch.testing.assert_close(rbm.visible_given(torch.zeros(1, 2))[0], grey.mean(0))


def test_gaussian_bias_and_learned_variance_start_at_the_data_s():
    images = 3 + 2 * torch.randn(500, 4, generator=seeded())
    rbm = GaussianRBM(4, 2)
    rbm.set_visible_bias(images)
    torch.testing.assert_close(rbm.a.detach(), images.mean(0))
    torch.testing.assert_close(rbm.log_variance.exp(), images.var(0), rtol=0.01, atol=0)


def test_a_fixed_variance_stays_when_the_bias_is_set():
    rbm = GaussianRBM(4, 2, variance=0.25, learn_variance=False)
    rbm.set_visible_bias(5 * torch.randn(50, 4, generator=seeded()))
    torch.testing.assert_close(rbm.log_variance.exp(), torch.full((4,), 0.25))


@pytest.mark.parametrize("images", [torch.ones(1, 3), torch.ones(20, 3)], ids=["one image", "constant pixels"])
@BOTH
def test_bias_and_variance_are_finite_even_where_no_pixel_varies(kind, images):
    rbm = kind(3, 2)
    rbm.set_visible_bias(images)
    assert all(parameter.isfinite().all() for parameter in rbm.parameters())


def test_weights_start_with_the_spread_asked_for_and_follow_the_generator():
    rbm = RBM(200, 100, std=0.3, generator=seeded(1))
    assert abs(float(rbm.W.detach().std()) / 0.3 - 1) < 5 / (2 * 20_000) ** 0.5
    assert not rbm.a.any()
    assert not rbm.b.any()
    assert torch.equal(rbm.W, RBM(200, 100, std=0.3, generator=seeded(1)).W)
    assert not torch.equal(rbm.W, RBM(200, 100, std=0.3, generator=seeded(2)).W)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (-1, 3)])
@BOTH
def test_a_size_below_one_is_refused_with_its_value(kind, shape):
    with pytest.raises(ValueError, match=rf"{shape[0]} visible and {shape[1]} hidden"):
        kind(*shape)


@pytest.mark.parametrize("variance", [0.0, -1.0, math.nan])
def test_a_variance_not_above_0_is_refused(variance):
    with pytest.raises(ValueError, match=f"a variance of {variance}"):
        GaussianRBM(3, 2, variance=variance)


def test_bernoulli_is_certain_at_0_and_1_and_right_between():
    draws = 100_000
    assert not bernoulli(torch.zeros(draws), seeded()).any()
    assert bernoulli(torch.ones(draws), seeded()).all()
    for p in (0.01, 0.3, 0.9):
        samples = bernoulli(torch.full((draws,), p), seeded())
        assert ((samples == 0) | (samples == 1)).all()
        assert abs(float(samples.mean()) - p) < 5 * (p * (1 - p) / draws) ** 0.5


def test_bernoulli_leaves_its_probabilities_alone_and_follows_its_generator():
    p = torch.rand(1000, generator=seeded())
    before = p.clone()
    assert torch.equal(bernoulli(p, seeded(1)), bernoulli(p, seeded(1)))
    assert not torch.equal(bernoulli(p, seeded(1)), bernoulli(p, seeded(2)))
    assert torch.equal(p, before)


# torch.nn conventions


def test_parameters_are_named_and_shaped_as_documented():
    shapes = {name: tuple(parameter.shape) for name, parameter in GaussianRBM(4, 3).named_parameters()}
    assert shapes == {"W": (4, 3), "a": (4,), "b": (3,), "log_variance": (4,)}
    assert [name for name, _ in RBM(4, 3).named_parameters()] == ["W", "a", "b"]
    assert not GaussianRBM(4, 3, learn_variance=False).log_variance.requires_grad


@BOTH
def test_state_dict_carries_everything_into_a_fresh_model(kind):
    rbm, other = tiny(kind).float(), kind(4, 3)
    other.load_state_dict(rbm.state_dict())
    v = visible_states(kind).float()
    assert torch.equal(rbm.free_energy(v), other.free_energy(v))
    with pytest.raises(RuntimeError, match="size mismatch"):
        kind(5, 3).load_state_dict(rbm.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@BOTH
def test_every_result_has_the_model_s_dtype(kind, dtype):
    rbm = tiny(kind).to(dtype)
    v, h = visible_states(kind).to(dtype), torch.ones(1, 3, dtype=dtype)
    mean = rbm.visible_given(h)
    results = [rbm.energy(v, h.expand(len(v), -1)), rbm.free_energy(v), rbm.hidden_given(v), mean]
    results += [rbm.draw_visible(mean, seeded()), rbm.log_sum_visible(mean, rbm.a)]
    assert [result.dtype for result in results] == [dtype] * len(results)


@BOTH
def test_a_deep_copy_is_a_model_of_its_own(kind):
    rbm = tiny(kind)
    twin = copy.deepcopy(rbm)
    before = rbm.W.detach().clone()
    with torch.no_grad():
        twin.W.zero_()
    assert torch.equal(rbm.W, before)


@BOTH
def test_a_model_survives_pickling(kind):
    rbm = tiny(kind)
    twin = pickle.loads(pickle.dumps(rbm))
    v = visible_states(kind)
    assert torch.equal(rbm.free_energy(v), twin.free_energy(v))


def test_a_model_says_its_size():
    assert repr(RBM(784, 500)) == "RBM(visible=784, hidden=500)"
    assert "learn_variance=False" in repr(GaussianRBM(4, 3, learn_variance=False))


@pytest.mark.cuda
@needs_cuda
@BOTH
def test_a_model_on_the_gpu_computes_what_it_computes_on_the_cpu(kind):
    rbm = tiny(kind)
    v, h = visible_states(kind), every_state(3)
    expected = rbm.free_energy(v), rbm.hidden_given(v), rbm.visible_given(h)
    rbm = rbm.cuda()
    on_gpu = rbm.free_energy(v.cuda()), rbm.hidden_given(v.cuda()), rbm.visible_given(h.cuda())
    torch.testing.assert_close([result.cpu() for result in on_gpu], list(expected))
    drawn = rbm.draw_visible(on_gpu[2], seeded())  # the CPU's numbers, on the GPU
    torch.testing.assert_close(drawn.cpu(), rbm.cpu().draw_visible(expected[2], seeded()))


# On disk


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@BOTH
def test_a_saved_model_comes_back_to_the_bit(kind, dtype, tmp_path):
    rbm = tiny(kind)
    with torch.no_grad():
        rbm.W /= 3  # bits that only float64 has
    rbm = rbm.to(dtype)
    rbm.save(tmp_path / "deep" / "rbm.safetensors")
    twin = kind.load(tmp_path / "deep" / "rbm.safetensors")
    assert type(twin) is kind
    for (name, original), (_, loaded) in zip(rbm.named_parameters(), twin.named_parameters(), strict=True):
        assert loaded.dtype == dtype
        assert torch.equal(original, loaded), name


@pytest.mark.parametrize("learn_variance", [True, False])
def test_a_loaded_gaussian_rbm_still_knows_whether_its_variance_is_learned(learn_variance, tmp_path):
    rbm = GaussianRBM(4, 3, variance=0.5, learn_variance=learn_variance)
    rbm.save(tmp_path / "rbm")
    twin = GaussianRBM.load(str(tmp_path / "rbm"))
    assert twin.log_variance.requires_grad is learn_variance
    assert torch.equal(rbm.log_variance, twin.log_variance)


@pytest.mark.parametrize(("saved", "asked"), list(itertools.permutations([RBM, GaussianRBM])))
def test_another_class_s_file_is_refused_by_name(saved, asked, tmp_path):
    saved(3, 2).save(tmp_path / "rbm")
    with pytest.raises(ValueError, match=f"holds {saved.__name__}, not {asked.__name__}: load it with"):
        asked.load(tmp_path / "rbm")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is missing"):
        RBM.load(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(keep, tmp_path):
    path = tmp_path / "rbm"
    RBM(3, 2).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="rbm is not a whole safetensors file"):
        RBM.load(path)


def test_one_bit_flipped_anywhere_in_a_file_is_told_or_changes_nothing(tmp_path):
    path, rbm = tmp_path / "rbm", RBM(3, 2)
    rbm.save(path)
    whole, told = path.read_bytes(), 0
    for byte in range(len(whole)):
        path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 1 << byte % 8]) + whole[byte + 1 :])
        try:
            twin = RBM.load(path)
            assert twin.config() == rbm.config()
            assert all(torch.equal(twin.state_dict()[name], value) for name, value in rbm.state_dict().items())
        except ValueError:
            told += 1
    assert told > 0.9 * len(whole)  # not so in the spaces that fill the header up


def test_a_damaged_file_saved_again_is_whole(tmp_path):
    path, rbm = tmp_path / "rbm", RBM(3, 2)
    rbm.save(path)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ValueError, match=r"rbm is damaged .*: save it again"):
        RBM.load(path)
    rbm.save(path)
    assert torch.equal(RBM.load(path).W, rbm.W)


def test_a_model_that_cannot_be_written_is_told_with_the_mend(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"rbm could not be written \(.*\): there is a file where a folder should be"):
        RBM(3, 2).save(tmp_path / "file" / "rbm")
    RBM(3, 2).save(tmp_path / "another" / "rbm")
    assert RBM.load(tmp_path / "another" / "rbm").hidden == 2


def test_a_pickle_is_refused_and_not_run(tmp_path):
    torch.save(RBM(3, 2), tmp_path / "rbm")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        RBM.load(tmp_path / "rbm")


def test_somebody_else_s_safetensors_file_is_refused(tmp_path):
    save_file({"W": torch.zeros(3, 2)}, tmp_path / "theirs")
    with pytest.raises(ValueError, match="holds no dlkit model, not RBM"):
        RBM.load(tmp_path / "theirs")


def test_a_file_whose_tensors_do_not_fit_its_header_is_refused_in_one_sentence(tmp_path):
    header = {"model": "RBM", "config": '{"visible": 3, "hidden": 2}'}
    save_file({"W": torch.zeros(2, 2), "a": torch.zeros(3), "b": torch.zeros(2)}, tmp_path / "rbm", metadata=header)
    with pytest.raises(ValueError, match=r"rbm does not hold the tensors of RBM.*: save it again") as error:
        RBM.load(tmp_path / "rbm")
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_a_saved_model_can_be_read_by_whoever_may_read_the_writers_files(tmp_path):
    (tmp_path / "plain").touch()
    tiny(RBM).save(tmp_path / "rbm")
    assert (tmp_path / "rbm").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_save_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "rbm"
    old = tiny(RBM)
    old.save(path)

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        tiny(RBM, seed=1).save(path)
    assert torch.equal(RBM.load(path).W, old.W)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("shape", "mend"), [((10, 28, 28), r"`images.flatten\(1\)`"), ((10, 783), "give rows of 784"), ((784,), "rows of")]
)
def test_images_of_another_shape_are_refused_with_the_mend(shape, mend, unchecked):
    v = torch.zeros(shape)
    for ask in (RBM(784, 2).hidden_given, RBM(784, 2).free_energy):
        with pytest.raises(ValueError, match=rf"images of shape \({shape[0]},.* for 784 visible units: .*{mend}"):
            ask(v)
