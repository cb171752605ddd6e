"""The exercises of notebook 01: energy, free energy, a Gibbs step, CD's statistics, and how long a chain CD needs."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlkit.analysis import exact
from dlkit.analysis.likelihood import states
from dlkit.exercises import Hint, exercise, given
from dlkit.exercises.answers import close, refuse_mistakes, seeded
from dlkit.models import RBM


def _parameters() -> tuple[Tensor, Tensor, Tensor]:
    """W (3, 2), a (3,) and b (2,) of an RBM in which every usual mistake shows: the seed was chosen for that."""
    generator = seeded(16)
    W, a, b = (2 * torch.randn(size, generator=generator, dtype=torch.float64) for size in ((3, 2), (3,), (2,)))
    return W, a, b


@exercise("low energy is high probability, and each bias and each weight counts only where its units are on")
def energy(answer: Any) -> None:
    """`answer(v, h, W, a, b)`: the energy of one state of v (visible,) and h (hidden,)."""
    W, a, b = _parameters()
    cases = [(v, h) for v in states(3) for h in states(2)]
    energies = [given(answer(v.clone(), h.clone(), W, a, b)) for v, h in cases]
    if any(isinstance(value, Tensor) and value.numel() != 1 for value in energies):
        raise Hint("One state has one energy: your function returns more than one number.")
    energies = torch.tensor([float(value) for value in energies], dtype=torch.float64)
    v, h = (torch.stack(side) for side in zip(*cases, strict=True))
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
            (-a.sum() - b.sum() - pairs, "A bias counts only if its unit is on: a_i times v_i, b_j times h_j."),
            ((-visible - hidden - pairs).exp(), "That is exp of the energy: no exponential yet."),
            ((visible + hidden + pairs).exp(), "That is exp(-E): the probability but for Z. Here, the energy itself."),
        ],
    )
    right = -visible - hidden - pairs
    if not close(energies, right):
        row = int((energies - right).abs().argmax())
        state = f"v = {v[row].int().tolist()}, h = {h[row].int().tolist()}"
        raise Hint(f"At {state} it should be {right[row]:.3f} for the RBM of this check; yours is {energies[row]:.3f}.")


@exercise("a hidden unit that is summed out leaves a softplus behind, and 2^hidden states cost only `hidden` terms")
def free_energy(answer: Any) -> None:
    """`answer(v, W, a, b)`: the free energy (batch,) of each row of v (batch, visible)."""
    W, a, b = _parameters()
    v = states(3)
    energies = given(answer(v.clone(), W, a, b))
    if not isinstance(energies, Tensor) or energies.shape != (8,):
        shape = tuple(energies.shape) if isinstance(energies, Tensor) else type(energies).__name__
        raise Hint(f"For v of shape (8, 3), eight states, there should be eight free energies; yours is {shape}.")
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
            (-visible - F.relu(x).sum(1), "That is the energy of the *best* h: the free energy sums over all of them."),
            (-visible - (p * x).sum(1), "That is the mean energy, with h = p(h|v): the sum is of exp(-E), not of E."),
            (-joint.mean(1), "That is the mean of the energies over h: sum exp(-E) over h, then take -log."),
            (-joint.sum(1), "That is the sum of the energies: sum exp(-E) over h, then take -log."),
            (joint.exp().sum(1), "That is Σ exp(-E): its logarithm is missing, and a minus."),
            (-visible - x.sum(1), "Each hidden unit may be on or off: log(1 + exp(x)), not x."),
            (
                -visible - F.softplus(x.sum(1)),
                "Take the softplus of each hidden unit's input, then the sum.",
            ),
        ],
    )
    right = -torch.logsumexp(joint, 1)
    if not close(energies, right):
        row = int((energies - right).abs().argmax())
        raise Hint(
            f"At v = {v[row].int().tolist()} it should be {right[row]:.3f} for the RBM of this check; "
            f"yours is {energies[row]:.3f}. Sum exp(-E) over all h by hand if in doubt."
        )
    large = answer(torch.ones(1, 3, dtype=torch.float64), 300 * torch.ones(3, 2, dtype=torch.float64), a, b)
    if not torch.isfinite(large).all():
        raise Hint("Right, until a weight is large: then exp overflows. `F.softplus(x)` is a safe log(1 + exp(x)).")


@exercise("a step samples all hidden units, then all visible units: alternating the two is the whole chain")
def gibbs_step(answer: Any) -> None:
    """`answer(v, W, a, b, generator)`: v (chains, visible) after one Gibbs step of each chain."""
    W, a, b = _parameters()
    chains = 40_000
    start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).repeat(chains, 1)
    after = given(answer(start.clone(), W, a, b, seeded(0)))
    if not isinstance(after, Tensor) or after.shape != start.shape:
        shape = tuple(after.shape) if isinstance(after, Tensor) else type(after).__name__
        raise Hint(f"For v of shape {tuple(start.shape)} the next v has that shape too; yours is {shape}.")
    after = after.double()
    if not ((after == 0) | (after == 1)).all():
        raise Hint("The new v holds values between 0 and 1: those are probabilities. Sample the visible units too.")
    if torch.equal(after, start):
        raise Hint("The chains have not moved: return the new visible units, not those that came in.")
    if (after == after[0]).all():
        raise Hint("All chains do the same: draw a random number for each unit of each chain.")
    h = states(2)
    x = (start[:1] @ W + b).expand(4, -1)
    p_h = torch.where(h == 1, x.sigmoid(), (-x).sigmoid()).prod(1)

    def visible(h: Tensor, bias: Tensor = a) -> Tensor:
        """p(v'|h) of all eight v': a row for each h, a column for each v'."""
        on = (h @ W.T + bias).sigmoid()[:, None, :]
        return torch.where(states(3)[None] == 1, on, 1 - on).prod(2)

    right = p_h @ visible(h)
    unbiased = (start[:1] @ W).expand(4, -1)
    p_unbiased = torch.where(h == 1, unbiased.sigmoid(), (-unbiased).sigmoid()).prod(1)
    variants = [
        (
            visible(x[:1].sigmoid())[0],
            "The hidden units enter as probabilities: sample them before going down.",
        ),
        (visible((x[:1] > 0).double())[0], "The hidden units are set by a threshold: they are on with probability p."),
        (p_h @ visible(h, torch.zeros_like(a)), "The visible biases are missing on the way down: a + W h."),
        (p_unbiased @ visible(h), "The hidden biases are missing on the way up: b + Wᵀ v."),
        (p_unbiased @ visible(h, torch.zeros_like(a)), "Both biases are missing: b on the way up, a on the way down."),
        (p_h @ visible(1 - h), "The hidden units are on when they should be off: turn the comparison round."),
        (right.flip(0), "The visible units are on when they should be off: turn the comparison round."),
    ]
    measured = exact.empirical_distribution(after)
    distances = [exact.total_variation(measured, p) for p in (right, *(p for p, _ in variants))]
    if distances[0] > 0.02:
        nearest = min(range(1, len(distances)), key=lambda i: distances[i])
        if distances[nearest] < 0.02:
            raise Hint(variants[nearest - 1][1])
        raise Hint(
            f"The new states are not distributed as they should be: total variation {distances[0]:.2f} from p(v'|v). "
            "First h from p(h|v), then v from p(v|h), each unit by its own random number."
        )
    again = answer(start.clone(), W, a, b, seeded(0))
    if not torch.equal(again.double(), after):
        raise Hint("Two calls with the same seed differ: hand the generator on to torch.")


@exercise("CD compares how often two units are on together in the data with how often in the chain")
def cd_statistics(answer: Any) -> None:
    """`answer(v_data, v_chain, W, b)`: the positive and the negative statistics, each (visible, hidden).

    They are the means over the batch of v_i p(h_j=1|v), of the data and of the chains.
    """
    W, _, b = _parameters()
    generator = seeded(2)
    data, chain = ((torch.rand(5, 3, generator=generator) < 0.5).double() for _ in range(2))
    pair_of_statistics = given(answer(data.clone(), chain.clone(), W, b))
    if not isinstance(pair_of_statistics, tuple | list) or len(pair_of_statistics) != 2:
        raise Hint("Return two tensors: the positive statistics, and the negative ones.")
    for half in pair_of_statistics:
        given(half)
        if not isinstance(half, Tensor) or half.shape not in ((3, 2), (2, 3)):
            shape = tuple(half.shape) if isinstance(half, Tensor) else type(half).__name__
            raise Hint(f"Each should have W's shape, (3, 2) here, a number a pair of units; yours is {shape}.")
    if any(half.shape == (2, 3) for half in pair_of_statistics):
        raise Hint("These are (hidden, visible): W is (visible, hidden), so vᵀ p, not pᵀ v.")
    statistics = torch.stack([half.double() for half in pair_of_statistics])

    def up(v: Tensor, bias: Tensor = b) -> Tensor:
        """p(h = 1 | v)."""
        return (v @ W + bias).sigmoid()

    def statistics_with(bias: Tensor = b) -> Tensor:
        """The positive and negative statistics, (2, visible, hidden), with this hidden bias."""
        return torch.stack([data.T @ up(data, bias), chain.T @ up(chain, bias)]) / 5

    right = statistics_with()
    positive, negative = right

    def both(first: Tensor, second: Tensor) -> Tensor:
        return torch.stack([first, second])

    x, y = data @ W + b, chain @ W + b
    refuse_mistakes(
        statistics,
        [
            (right.flip(0), "The two are swapped: positive is from the data, negative from the chain."),
            (5 * right, "Those are sums over the batch: divide by the number of images."),
            (-right, "Both have the wrong sign: these are averages of what is on together. The minus comes later."),
            (both(positive, -negative), "The negative half is an average too: the minus comes later."),
            (both(positive, positive), "Both are from the data: the negative half is from v_chain."),
            (both(positive, data.T @ up(chain) / 5), "The negative half pairs the chain's h with the *data's* v."),
            (both(positive, chain.T @ up(data) / 5), "The negative half pairs the chain's v with the *data's* h."),
            (statistics_with(torch.zeros_like(b)), "The hidden biases are missing: p(h|v) = σ(b + Wᵀ v)."),
            (both(data.T @ x, chain.T @ y) / 5, "The sigmoid is missing: h enters as its probability."),
        ],
    )
    if not close(statistics, right):
        sampled = (5 * statistics - (5 * statistics).round()).abs().max() < 1e-6
        if sampled:
            raise Hint("You sampled h: its probabilities have the same mean and less noise. Use those at both ends.")
        which = "positive" if not close(statistics[0], right[0]) else "negative"
        raise Hint(f"The {which} half is not the mean over the batch of v_i times p(h_j = 1 | v).")


@exercise("what k you need depends on how far the machine has learnt, not on the data alone")
def smallest_k(answer: Any, rbm: RBM, patterns: Tensor) -> None:
    """`answer` is the smallest k for which the mean gradient of CD-k has a cosine of 0.9 or more with the exact one."""
    if isinstance(answer, bool | str | list) or float(answer) != int(answer) or int(answer) < 1:
        raise Hint(f"k is a whole number of Gibbs steps, 1 or more; yours is {answer!r}.")
    k = int(answer)
    if k > 200:
        raise Hint(f"{k} steps are far more than this machine needs: look at the table above.")
    true = exact.gradient(rbm, patterns)
    ks = [k] if k == 1 else [k - 1, k]
    cosines = {k: exact.cosine(g, true) for k, g in exact.cd_gradients(rbm, patterns, ks).items()}
    if cosines[k] < 0.9:
        raise Hint(f"CD-{k} is not there yet: its cosine is {cosines[k]:.3f} on this machine. Take a larger k.")
    if k > 1 and cosines[k - 1] >= 0.9:
        raise Hint(f"CD-{k} will do, its cosine is {cosines[k]:.3f}; but so will CD-{k - 1}. Take the smallest.")
