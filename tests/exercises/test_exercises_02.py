"""Notebook 02: each usual mistake has a hint of its own, right answers of any style pass."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answers import points, solutions, verdict

from dlkit import Experiment, data
from dlkit.analysis.likelihood import LogProbability
from dlkit.exercises import rbm_pretraining as check
from dlkit.models import RBM, GaussianRBM
from dlkit.training import CD, PCD, linear_schedule

SOLUTIONS = solutions("02_rbm_pretraining")


# 1. CD as a gradient.


def filler(W=1.0, a=1.0, b=1.0, other=None):
    """An answer that sets each .grad to the right one times this factor, or W's to `other(rbm, x, v, p, q)`."""

    def fill(rbm, x, v):
        with torch.no_grad():
            p, q = torch.sigmoid(x @ rbm.W + rbm.b), torch.sigmoid(v @ rbm.W + rbm.b)
            rbm.W.grad = other(rbm, x, v, p, q) if other else W * (v.T @ q - x.T @ p) / len(x)
            rbm.a.grad = a * (v - x).mean(0)
            rbm.b.grad = b * (q - p).mean(0)

    return fill


def steps_itself(rbm, x, v):
    with torch.no_grad():
        rbm.W += 0.1


def forgets_b(rbm, x, v):
    filler()(rbm, x, v)
    rbm.b.grad = None


def samples_the_units(rbm, x, v):
    filler()(rbm, x, v)
    p, q = rbm.hidden_given(x), rbm.hidden_given(v)
    rbm.b.grad = (torch.bernoulli(q) - torch.bernoulli(p)).detach().mean(0)
    if not rbm.b.grad.any():
        rbm.b.grad += 1 / len(x)


def divides_by_six(rbm, x, v):
    with torch.no_grad():
        p, q = torch.sigmoid(x @ rbm.W + rbm.b), torch.sigmoid(v @ rbm.W + rbm.b)
        rbm.W.grad = (v.T @ q - x.T @ p) / 6
        rbm.a.grad, rbm.b.grad = (v - x).sum(0) / 6, (q - p).sum(0) / 6


def changes_the_data(rbm, x, v):
    x -= v
    filler()(rbm, x, v)


GRADIENTS = {
    "Right but for the sign": filler(-1, -1, -1),
    "W.grad has the wrong sign": filler(W=-1),
    "b.grad has the wrong sign": filler(b=-1),
    "W.grad is a sum over the batch": filler(W=6),
    "a.grad is a sum over the batch": filler(a=6),
    "has lost the hidden units": filler(other=lambda rbm, x, v, p, q: (v - x).mean(0)[:, None].expand(4, 4).clone()),
    "hidden units of the *data*": filler(other=lambda rbm, x, v, p, q: (v.T @ p - x.T @ p) / 6),
    "hidden units of the *reconstructions*": filler(other=lambda rbm, x, v, p, q: (v.T @ q - x.T @ q) / 6),
    "a product of two means": filler(
        other=lambda rbm, x, v, p, q: torch.outer(v.mean(0), q.mean(0)) - torch.outer(x.mean(0), p.mean(0))
    ),
    "W.grad is transposed": filler(other=lambda rbm, x, v, p, q: (q.T @ v - p.T @ x) / len(x)),
    "W.grad is not the mean": filler(other=lambda rbm, x, v, p, q: torch.zeros_like(rbm.W)),
    "counts samples": samples_the_units,
    "divide by len(x), 4 images now": divides_by_six,
    "rbm.W itself has changed": steps_itself,
    "rbm.b.grad is not set": forgets_b,
    "changed": changes_the_data,
    "Your code raised": lambda rbm, x, v: (v.T @ rbm.hidden_given(v)).item(),
}


@pytest.mark.parametrize("hint", GRADIENTS)
def test_a_wrong_gradient_gets_its_hint(capsys, hint):
    line = verdict(capsys, check.fill_grad, GRADIENTS[hint])
    assert line.startswith("✗")
    assert hint in line


def by_autograd(rbm, x, v):
    (rbm.free_energy(x).mean() - rbm.free_energy(v).mean()).backward()


def in_a_loop(rbm, x, v):
    W, a, b = (torch.zeros_like(value) for value in rbm.parameters())
    for x0, v0 in zip(x, v, strict=True):
        p, q = (torch.sigmoid(rbm.b + s @ rbm.W).detach() for s in (x0, v0))
        W += (torch.outer(v0, q) - torch.outer(x0, p)) / len(x)
        a += (v0 - x0) / len(x)
        b += (q - p) / len(x)
    rbm.W.grad, rbm.a.grad, rbm.b.grad = W, a, b


def by_numpy(rbm, x, v):
    W, b = rbm.W.detach().numpy(), rbm.b.detach().numpy()
    p, q = (1 / (1 + np.exp(-(s.numpy() @ W + b))) for s in (x, v))
    rbm.W.grad = torch.from_numpy((v.numpy().T @ q - x.numpy().T @ p) / len(x))
    rbm.a.grad, rbm.b.grad = (v - x).mean(0), torch.from_numpy((q - p).mean(0))


def by_einsum_and_returns(rbm, x, v):
    p, q = rbm.hidden_given(x).detach(), rbm.hidden_given(v).detach()
    rbm.W.grad = torch.einsum("ni,nj->ij", v, q).sub(torch.einsum("ni,nj->ij", x, p)).div(len(x))
    rbm.a.grad, rbm.b.grad = (v - x).mean(dim=0), q.mean(dim=0) - p.mean(dim=0)
    return rbm


@pytest.mark.parametrize("answer", [by_autograd, in_a_loop, by_numpy, by_einsum_and_returns])
def test_a_right_gradient_of_another_style_is_right(capsys, answer):
    assert verdict(capsys, check.fill_grad, answer).startswith("✓")


# 2. The cure: the experiment is the notebook's.


@pytest.fixture(scope="module")
def clinic():
    mnist = data.load("mnist", binarise="sample")
    train, validation = mnist.train.images[:2000].flatten(1), mnist.validation.images[:500].flatten(1)
    learner = PCD(visible_bias_from_data=False)
    return Experiment(partial(RBM, 784, 64), data=train, learner=learner, lr=0.2, epochs=10), train, validation


def test_an_untouched_cure_is_not_answered_yet(capsys, clinic):
    assert verdict(capsys, check.cure, ..., *clinic).startswith("○")


def knowing(images, hidden):
    """An RBM that knows its images before its first step: its filters are their principal directions."""
    rbm = biased(images)
    W = 3 * torch.linalg.svd(images - images.mean(0), full_matrices=False).Vh[:hidden].T
    twin = RBM(784, hidden)
    twin.load_state_dict({"W": W, "a": rbm.a.detach() - W.sum(1) / 2, "b": -images.mean(0) @ W})
    return twin


CURES = {
    "That is `ill` as it was": lambda ill: ill,
    "always on": lambda ill: replace(ill),
    "toss coins": lambda ill: replace(ill, lr=0.05),
    "are dead": lambda ill: replace(ill, lr=50.0),
    "keep 784 visible and 64 hidden units": lambda ill: replace(ill, model=partial(RBM, 784, 100)),
    "200 are allowed": lambda ill: replace(ill, learner=PCD(), epochs=20),
    "1,000 steps": lambda ill: replace(ill, learner=PCD(), batch_size=20),
    "knows the digits before its first step": lambda ill: replace(
        ill, learner=PCD(), model=partial(knowing, ill.data, 64)
    ),
    "Give an Experiment": lambda ill: PCD(),
    "Your code raised TypeError": lambda ill: replace(ill, model=partial(RBM, 784)),
    "yours trains a Linear": lambda ill: replace(ill, model=partial(torch.nn.Linear, 784, 64)),
    "yours trains a GaussianRBM": lambda ill: replace(ill, model=partial(GaussianRBM, 784, 64)),
    "units do a bias's work": lambda ill: replace(ill, learner=CD(visible_bias_from_data=False)),
    "kept off by the hidden units": lambda ill: replace(
        ill, learner=PCD(visible_bias_from_data=False, sparsity_target=0.1)
    ),
}


@pytest.mark.parametrize("hint", CURES)
def test_what_does_not_cure_gets_its_verdict(capsys, clinic, hint):
    line = verdict(capsys, check.cure, CURES[hint](clinic[0]), *clinic)
    assert line.startswith("✗")
    assert hint in line


HEALTHY = {
    "the solution": lambda ill: SOLUTIONS["cure"](ill),
    "centred": lambda ill: replace(ill, learner=PCD(visible_bias_from_data=False, centred=True)),
    "CD, and its data by numpy": lambda ill: replace(ill, learner=CD(), data=ill.data.numpy()),
    "a bias of its own": lambda ill: replace(ill, model=partial(biased, ill.data)),
}


def biased(images):
    rbm = RBM(784, 64)
    rbm.set_visible_bias(images)
    return rbm


@pytest.mark.parametrize("name", HEALTHY)
def test_what_gives_the_pixels_a_bias_cures(capsys, clinic, name):
    assert verdict(capsys, check.cure, HEALTHY[name](clinic[0]), *clinic).startswith("✓")


# 3. The pseudo-log-likelihood's scale.


def difference(rbm, v, i):
    rows = torch.arange(len(v))
    flipped = v.clone()
    flipped[rows, i] = 1 - flipped[rows, i]
    return rbm.free_energy(flipped) - rbm.free_energy(v)


def first_pixel_of_all(rbm, v, i):
    return rbm.visible * F.logsigmoid(difference(rbm, v, i[:1].expand(len(v))))


def exact_sum(rbm, v, i):
    pixels = [torch.full((len(v),), k) for k in range(rbm.visible)]
    return sum(F.logsigmoid(difference(rbm, v, pixel)) for pixel in pixels)


def flips_in_place(rbm, v, i):
    before = rbm.free_energy(v)
    v[torch.arange(len(v)), i] = 1 - v[torch.arange(len(v)), i]
    return rbm.visible * F.logsigmoid(rbm.free_energy(v) - before)


PSEUDO = {
    "log p of *one* pixel": lambda rbm, v, i: F.logsigmoid(difference(rbm, v, i)),
    "784 is right for MNIST only": lambda rbm, v, i: 784 * F.logsigmoid(difference(rbm, v, i)),
    "number of *hidden* units": lambda rbm, v, i: rbm.hidden * F.logsigmoid(difference(rbm, v, i)),
    "Right but for the sign": lambda rbm, v, i: -rbm.visible * F.logsigmoid(difference(rbm, v, i)),
    "take its logarithm first": lambda rbm, v, i: rbm.visible * torch.sigmoid(difference(rbm, v, i)),
    "log p of the *flipped* pixel": lambda rbm, v, i: rbm.visible * F.logsigmoid(-difference(rbm, v, i)),
    "and of one only": lambda rbm, v, i: F.logsigmoid(-difference(rbm, v, i)),
    "the mean over the images": lambda rbm, v, i: rbm.visible * F.logsigmoid(difference(rbm, v, i)).mean(),
    "do not add or average": lambda rbm, v, i: rbm.visible * F.logsigmoid(difference(rbm, v, i)).sum(),
    "so 6 number(s)": lambda rbm, v, i: torch.zeros(6, 4),
    "differ in pixel i only": lambda rbm, v, i: rbm.visible * difference(rbm, v, i),
    "You multiply by 4; this RBM has 5": lambda rbm, v, i: 4 * F.logsigmoid(difference(rbm, v, i)),
    "the sum over all pixels itself": exact_sum,
    "by its own pixel": first_pixel_of_all,
    "changed": flips_in_place,
}


@pytest.mark.parametrize("hint", PSEUDO)
def test_a_wrong_pseudo_likelihood_gets_its_hint(capsys, hint):
    line = verdict(capsys, check.pseudo_log_likelihood, PSEUDO[hint])
    assert line.startswith("✗")
    assert hint in line


def one_by_one(rbm, v, i):
    """A loop, and a list of floats."""
    estimates = []
    for image, pixel in zip(v, i, strict=True):
        flipped = image.clone()
        flipped[pixel] = 1 - flipped[pixel]
        joint = torch.stack([-rbm.free_energy(image[None])[0], -rbm.free_energy(flipped[None])[0]])
        estimates.append(len(image) * joint.log_softmax(0)[0].item())
    return estimates


def in_float64_by_numpy(rbm, v, i):
    W, a, b = (value.detach().numpy().astype(float) for value in rbm.parameters())
    v, rows = v.numpy().astype(float), np.arange(len(v))
    flipped = v.copy()
    flipped[rows, i.numpy()] = 1 - flipped[rows, i.numpy()]
    free = [-(s @ a) - np.logaddexp(0, s @ W + b).sum(1) for s in (v, flipped)]
    return -v.shape[1] * np.log1p(np.exp(free[0] - free[1]))


def by_one_hot(rbm, v, i):
    pixel = F.one_hot(i, v.shape[1]).float()
    return v.shape[1] * torch.log(torch.sigmoid(rbm.free_energy((v - pixel).abs()) - rbm.free_energy(v)))


def a_list_of_tensors(rbm, v, i):
    return list(rbm.visible * F.logsigmoid(difference(rbm, v, i)))


@pytest.mark.parametrize("answer", [one_by_one, in_float64_by_numpy, by_one_hot, a_list_of_tensors])
def test_a_right_pseudo_likelihood_of_another_style_is_right(capsys, answer):
    assert verdict(capsys, check.pseudo_log_likelihood, answer).startswith("✓")


# 4. Whom to believe.


def estimates(**pairs):
    rows = {name.replace("_", " ").replace("CD1", "CD-1"): pair for name, pair in pairs.items()}
    return {name: tuple(LogProbability(value, value - 1, value + 1) for value in pair) for name, pair in rows.items()}


TABLE = estimates(
    CD1=(-118.0, -116.5), PCD=(-115.0, -114.0), lucky=(-118.0, -112.0), centred_PCD=(-101.0, -103.98),
    centred_PCD_hasty=(-90.0, -120.0),
)  # fmt: skip
AGREE = ["CD-1", "PCD", "centred PCD"]


def test_the_solution_believes_the_pairs_that_agree(capsys):
    answer = SOLUTIONS["err_high"], SOLUTIONS["agree"](TABLE), SOLUTIONS["doubtful"]
    assert answer[1] == AGREE
    assert verdict(capsys, check.whom_to_believe, *answer, TABLE).startswith("✓")


BELIEFS = {
    "○": (..., AGREE, "CD-1"),
    "○ Not": ("AIS", ..., "CD-1"),
    "○ Not answered": ("AIS", AGREE, ...),
    'is "AIS" or "reverse AIS"; yours is': ("both", AGREE, "CD-1"),
    "finds log Z too *low*": ("reverse AIS", AGREE, "CD-1"),
    "(b) There is no row 'longer'": ("AIS", ["longer"], "CD-1"),
    "'centred PCD hasty': the two are 30.0 nats apart": ("AIS", [*AGREE, "centred PCD hasty"], "CD-1"),
    "'lucky': the two are 6.0 nats apart": ("AIS", [*AGREE, "lucky"], "CD-1"),
    "'PCD': the two are only 1.0 nats apart": ("AIS", ["CD-1", "centred PCD"], "CD-1"),
    "'CD-1': the two are only 1.5 nats apart": ("AIS", [], "CD-1"),
    "(c) 'PCD': for the small machine": ("AIS", AGREE, "PCD"),
    "(c) 'lucky': of the two small machines": ("AIS", AGREE, "lucky"),
    "(c) There is no row 'CD'": ("AIS", AGREE, "CD"),
    "(c) Give one name": ("AIS", AGREE, []),
}


@pytest.mark.parametrize("hint", BELIEFS)
def test_a_wrong_belief_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.whom_to_believe, *BELIEFS[hint], TABLE)


@pytest.mark.parametrize(
    "answer",
    [
        ("ais", tuple(AGREE), "CD-1"),
        (" AIS ", set(AGREE), ["CD-1"]),
        ("AIS", np.array(AGREE), np.array(["CD-1"])),
        ("AIS", dict.fromkeys(AGREE), ("CD-1",)),
        ("AIS", ["CD-1", "PCD"], "CD-1"),  # 2.98 nats, which the table rounds to 3.0: either reading
    ],
)
def test_the_right_names_in_another_form_are_right(capsys, answer):
    assert verdict(capsys, check.whom_to_believe, *answer, TABLE).startswith("✓")


def test_one_name_need_not_be_in_a_list(capsys):
    assert verdict(capsys, check.whom_to_believe, "AIS", "CD-1", "CD-1", estimates(CD1=(-9.0, -8.0))).startswith("✓")


# 5. The open task: the best sixteen units.


def base(clinic, **changes):
    return replace(Experiment(partial(RBM, 784, 16), clinic[1], CD(), epochs=5, momentum=0.5), **changes)


def test_the_solution_gets_full_points(capsys, clinic):
    assert points(capsys, check.sixteen_units, SOLUTIONS["plan"](clinic[1]), *clinic[1:])[0] == 10


def test_a_plain_plan_gets_part_of_them(capsys, clinic):
    got, said = points(capsys, check.sixteen_units, base(clinic), *clinic[1:])
    assert 5 <= got <= 7, said


def test_a_bad_plan_gets_those_for_its_price(capsys, clinic):
    got, said = points(capsys, check.sixteen_units, base(clinic, lr=1e-5), *clinic[1:])
    assert got == 2, said


OVER = {
    "600 products": lambda clinic: base(clinic, epochs=6),
    "720 products": lambda clinic: base(clinic, learner=PCD(), epochs=6),
    "17 hidden units": lambda clinic: base(clinic, model=partial(RBM, 784, 17)),
    "3,360 products of at most 500": lambda clinic: base(
        clinic, learner=PCD(chains=100), epochs=4, batch_size=10, lr=linear_schedule(0.1, 0, 4)
    ),
}


@pytest.mark.parametrize("said", OVER)
def test_a_plan_over_the_limit_gets_none(capsys, clinic, said):
    got, printed = points(capsys, check.sixteen_units, OVER[said](clinic), *clinic[1:])
    assert got == 0
    assert said in printed


NO_PLAN = {
    "Give an Experiment": lambda clinic: "PCD, as often as I can",
    "Your code raised": lambda clinic: base(clinic, model=partial(RBM, 784, -1)),
    "knows the digits": lambda clinic: base(clinic, model=partial(knowing, clinic[1], 16)),
    "has 100 visible units": lambda clinic: base(clinic, model=partial(RBM, 100, 16)),
    "trains a GaussianRBM": lambda clinic: base(clinic, model=partial(GaussianRBM, 784, 16)),
    "Not answered yet": lambda clinic: ...,
}


@pytest.mark.parametrize("said", NO_PLAN)
def test_what_is_no_plan_is_told(capsys, clinic, said):
    got, printed = points(capsys, check.sixteen_units, NO_PLAN[said](clinic), *clinic[1:])
    assert not got
    assert said in printed
