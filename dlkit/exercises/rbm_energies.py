"""Exercises 1 and 2 of notebook 01: the energy of a state, and the free energy of an image."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlkit.analysis.likelihood import states
from dlkit.exercises import Answer, Hint, exercise, given
from dlkit.exercises.answers import close, number, refuse_mistakes, seeded, tensor
from dlkit.exercises.students_code import Raised


def parameters_of(visible: int = 3, hidden: int = 2, seed: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """W (visible, hidden), a (visible,) and b (hidden,) of an RBM.

    The usual mistakes show in the one of 3 and 2 units: its seed was chosen for that.
    """
    generator = seeded(seed)
    sizes = ((visible, hidden), (visible,), (hidden,))
    W, a, b = (2 * torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    return W, a, b


def random_states(count: int, units: int, seed: int = 2) -> Tensor:
    """(count, units), each unit on half of the time."""
    return (torch.rand(count, units, generator=seeded(seed)) < 0.5).double()


@exercise(
    "low energy is high probability, and each bias and each weight counts only where its units are on",
    deeper="With two visible units and one hidden one, v = (1, 0) and h = (1): the energy is -a_1 - b_1 - W_11. What "
    "belongs to the unit that is off does not count; with h = (0), -a_1 is left.",
)
def energy(answer: Answer) -> None:
    """`answer(v, h, W, a, b)`: the energy of one state of v (visible,) and h (hidden,)."""
    W, a, b = parameters_of()
    v, h = (torch.stack(side) for side in zip(*((v, h) for v in states(3) for h in states(2)), strict=True))
    energies = torch.tensor([_one_energy(answer(*state, W, a, b)) for state in zip(v, h, strict=True)]).double()
    visible, hidden, pairs = v @ a, h @ b, ((v @ W) * h).sum(1)
    refuse_mistakes(
        energies,
        [
            (visible + hidden + pairs, "Right but for the sign: the energy is *minus* all three sums."),
            (-hidden - pairs, "The visible biases are missing: - Σ a_i v_i."),
            (-visible - pairs, "The hidden biases are missing: - Σ b_j h_j."),
            (-visible - hidden, "The weights are missing: - Σ v_i W_ij h_j, over all pairs."),
            (-pairs, "The weights are right; both biases are missing."),
            (-visible - hidden + pairs, "The weights' sum has the wrong sign."),
            (visible + hidden - pairs, "The biases' sums have the wrong sign."),
            (
                -visible - hidden - (v @ W).sum(1),
                "A weight counts only if *both* its units are on: where is h_j?",
            ),
            (-visible - hidden - h @ W.sum(0), "A weight counts only if *both* its units are on: where is v_i?"),
            (-visible - hidden - W.sum(), "A weight counts only if *both* its units are on: where are v_i and h_j?"),
            (-a.sum() - b.sum() - pairs, "A bias counts only if its unit is on: a_i times v_i, b_j times h_j."),
            ((-visible - hidden - pairs).exp(), "That is exp of the energy: no exponential yet."),
            ((visible + hidden + pairs).exp(), "That is exp(-E): the probability but for Z. Here, the energy itself."),
            (
                -visible - F.softplus(v @ W + b).sum(1),
                "That is the free energy: here h is given, so nothing is summed.",
            ),
        ],
    )
    _refuse_energy(energies, v, h, (W, a, b))
    for visible_units, hidden_units in ((2, 5), (1, 1), (6, 3)):
        parameters = parameters_of(visible_units, hidden_units)
        v, h = random_states(4, visible_units), random_states(4, hidden_units, seed=3)
        try:
            energies = torch.tensor([_one_energy(answer(*state, *parameters)) for state in zip(v, h, strict=True)])
        except Raised as raised:
            raise Hint(
                f"Right for 3 visible and 2 hidden units; with {visible_units} and {hidden_units}, y{str(raised)[1:]} "
                "Take the sizes from `W.shape`."
            ) from raised
        _refuse_energy(energies.double(), v, h, parameters)


def _one_energy(value: Any) -> float:
    if hasattr(given(value), "__len__") and not isinstance(value, str) and tensor(value).numel() != 1:
        raise Hint("One state has one energy: your function returns more than one number.")
    return number(tensor(value).item() if isinstance(value, list | tuple) else value)


def _refuse_energy(energies: Tensor, v: Tensor, h: Tensor, parameters: tuple[Tensor, Tensor, Tensor]) -> None:
    """Raise Hint where the energies of the states (v, h) are not right."""
    W, a, b = parameters
    right = -(v @ a) - h @ b - ((v @ W) * h).sum(1)
    if not close(energies, right):
        row = int((energies - right).abs().nan_to_num(torch.inf).argmax())
        state = f"v = {v[row].int().tolist()}, h = {h[row].int().tolist()}"
        raise Hint(f"At {state} it should be {right[row]:.3f} for the RBM of this check; yours is {energies[row]:.3f}.")


@exercise(
    "a hidden unit that is summed out leaves a softplus behind, and 2^hidden states cost only `hidden` terms",
    deeper="With one hidden unit: h = 0 gives 1 and h = 1 gives exp(x), so the sum is 1 + exp(x) and its logarithm "
    "softplus(x). With two, (1 + exp(x_1)) (1 + exp(x_2)) has all four terms; the logarithm makes a sum of it.",
)
def free_energy(answer: Answer) -> None:
    """`answer(v, W, a, b)`: the free energy (batch,) of each row of v (batch, visible)."""
    W, a, b = parameters_of()
    v = states(3)
    energies = _free_energies(answer, v, (W, a, b))
    x = v @ W + b
    visible = v @ a
    p = x.sigmoid()
    joint = visible[:, None] + x @ states(2).T
    refuse_mistakes(
        energies,
        [
            (visible + F.softplus(x).sum(1), "Right but for the sign: the free energy is *minus* the logarithm."),
            (-F.softplus(x).sum(1), "The visible biases are missing: - Σ a_i v_i does not depend on h."),
            (-visible + F.softplus(x).sum(1), "The hidden units' part has the wrong sign."),
            (
                -visible - F.softplus(v @ W).sum(1),
                "The hidden biases are missing: a unit's input is b_j + Σ v_i W_ij.",
            ),
            (
                -visible - b.sum() - F.softplus(v @ W).sum(1),
                "b_j counts only where h_j is 1: it belongs inside, x_j = b_j + Σ v_i W_ij.",
            ),
            (-visible - F.relu(x).sum(1), "That is the energy of the *best* h: the free energy sums over all of them."),
            (-visible - (p * x).sum(1), "That is the mean energy, with h = p(h|v): the sum is of exp(-E), not of E."),
            (-joint.mean(1), "That is the mean of the energies over h: sum exp(-E) over h, then take -log."),
            (-joint.sum(1), "That is the sum of the energies: sum exp(-E) over h, then take -log."),
            (joint.exp().sum(1), "That is Σ exp(-E): its logarithm is missing, and a minus."),
            (-joint.exp().sum(1), "That is -Σ exp(-E): its logarithm is missing."),
            (-torch.logsumexp(-joint, 1), "You summed exp(+E): the sum is of exp(-E)."),
            (-visible - x.sum(1), "Each hidden unit may be on or off: log(1 + exp(x)), not x."),
            (-visible - p.sum(1), "That adds up sigmoids: the sum over h = 0 and 1 is 1 + exp(x), and then the log."),
            (
                -visible - F.softplus(x.sum(1)),
                "Take the softplus of each hidden unit's input, then the sum.",
            ),
        ],
    )
    _refuse_free_energies(energies, v, (W, a, b))
    for batch, visible_units, hidden_units in ((1, 4, 3), (5, 2, 6), (3, 1, 1)):
        parameters, v = parameters_of(visible_units, hidden_units), random_states(batch, visible_units)
        try:
            energies = _free_energies(answer, v, parameters)
        except Raised as raised:
            raise Hint(
                f"Right for 2 hidden units; with {visible_units} visible and {hidden_units} hidden ones, in a batch "
                f"of {batch}, y{str(raised)[1:]}"
            ) from raised
        _refuse_free_energies(energies, v, parameters)
    large = tensor(answer(torch.ones(1, 3, dtype=torch.float64), 300 * torch.ones(3, 2, dtype=torch.float64), a, b))
    if not torch.isfinite(large).all():
        raise Hint("Right, until a weight is large: then exp overflows. `F.softplus(x)` is a safe log(1 + exp(x)).")


def _free_energies(answer: Answer, v: Tensor, parameters: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    energies = tensor(answer(v, *parameters))
    if energies.shape != (len(v),):
        raise Hint(
            f"For v of shape {tuple(v.shape)} there should be {len(v)} free energies, of shape ({len(v)},); yours is "
            f"of shape {tuple(energies.shape)}."
        )
    return energies.double()


def _refuse_free_energies(energies: Tensor, v: Tensor, parameters: tuple[Tensor, Tensor, Tensor]) -> None:
    """Raise Hint where the free energies of the rows of v are not right."""
    W, a, b = parameters
    right = -torch.logsumexp((v @ a)[:, None] + (v @ W + b) @ states(len(b)).T, 1)
    if not close(energies, right):
        row = int((energies - right).abs().nan_to_num(torch.inf).argmax())
        raise Hint(
            f"At v = {v[row].int().tolist()}, with {len(b)} hidden units, it should be {right[row]:.3f} for the RBM of "
            f"this check; yours is {energies[row]:.3f}. Sum exp(-E) over all h by hand if in doubt."
        )
