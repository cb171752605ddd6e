"""Exercise 3 of notebook 01: a Gibbs step, held to the distribution that one step has."""

import torch
from torch import Tensor

from dlkit.analysis import exact
from dlkit.analysis.likelihood import states
from dlkit.exercises import Answer, Hint, exercise
from dlkit.exercises.answers import floats, refuse_fixed_draws, seeded, tensor
from dlkit.exercises.rbm_energies import parameters_of, random_states
from dlkit.exercises.students_code import Raised


@exercise(
    "a step samples all hidden units, then all visible units: alternating the two is the whole chain",
    deeper="Four lines: p(h=1|v) from `v @ W + b` by the sigmoid; a sample h of it, 0 or 1; p(v=1|h) from "
    "`h @ W.T + a`; a sample of that, which is returned. The shapes go (chains, visible), (chains, hidden), "
    "(chains, visible).",
)
def gibbs_step(answer: Answer) -> None:
    """`answer(v, W, a, b, generator)`: v (chains, visible) after one Gibbs step of each chain."""
    parameters = parameters_of()
    chains = 40_000
    start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).repeat(chains, 1)
    after = _stepped(answer, start, parameters, seeded(0))
    if torch.equal(after, start):
        raise Hint("The chains have not moved: return the new visible units, not those that came in.")
    if (after == after[0]).all():
        raise Hint("All chains do the same: draw a random number for each unit of each chain.")
    _refuse_distribution(after, start[0], parameters)
    refuse_fixed_draws(lambda generator: _stepped(answer, start, parameters, generator), after)
    two = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    after = _stepped(answer, two.repeat(chains // 2, 1), parameters, seeded(3))
    for first in range(2):
        _refuse_distribution(after[first::2], two[first], parameters)
    for count, visible, hidden in ((1, 3, 2), (7, 5, 4), (3, 2, 6)):
        step = _stepped(answer, random_states(count, visible), parameters_of(visible, hidden), seeded(0))
        _goes_on(answer, step, parameters_of(visible, hidden))


def _stepped(
    answer: Answer, v: Tensor, parameters: tuple[Tensor, Tensor, Tensor], generator: torch.Generator
) -> Tensor:
    """The chains after one step, 0 and 1 in the right shape. Raises Hint if they are not."""
    after = answer(v, *parameters, generator)
    if isinstance(after, tuple):
        raise Hint(f"Return the new v alone; yours are {len(after)} things.")
    after = tensor(after)
    if after.shape != v.shape:
        raise Hint(f"For v of shape {tuple(v.shape)} the next v has that shape too; yours is {tuple(after.shape)}.")
    if after.dtype != torch.bool and not ((after == 0) | (after == 1)).all():
        raise Hint("The new v holds values between 0 and 1: those are probabilities. Sample the visible units too.")
    return floats(after)


def _goes_on(answer: Answer, v: Tensor, parameters: tuple[Tensor, Tensor, Tensor]) -> None:
    """Raise Hint if a step that ended at v cannot be followed by another."""
    try:
        answer(v, *parameters, seeded(1))
    except Raised as raised:
        raise Hint(
            f"The next step cannot go on from your v, of {str(v.dtype).removeprefix('torch.')}, with weights of "
            f"float64: return it in the type of the v that came in. Otherwise y{str(raised)[1:]}"
        ) from raised


def _refuse_distribution(after: Tensor, start: Tensor, parameters: tuple[Tensor, Tensor, Tensor]) -> None:
    """Raise Hint if chains that were all at `start` (visible,) are not distributed as one Gibbs step has it."""
    W, a, b = parameters
    h = states(2)
    x = (start @ W + b).expand(4, -1)
    p_h = torch.where(h == 1, x.sigmoid(), (-x).sigmoid()).prod(1)

    def visible(h: Tensor, bias: Tensor = a) -> Tensor:
        """p(v'|h) of all eight v': a row for each h, a column for each v'."""
        on = (h @ W.T + bias).sigmoid()[:, None, :]
        return torch.where(states(3)[None] == 1, on, 1 - on).prod(2)

    right = p_h @ visible(h)
    unbiased = (start @ W).expand(4, -1)
    p_unbiased = torch.where(h == 1, unbiased.sigmoid(), (-unbiased).sigmoid()).prod(1)
    on = (p_h @ (h @ W.T + a).sigmoid()).expand(8, -1)
    mean_field = torch.where(states(3) == 1, on, 1 - on).prod(1)
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
        (mean_field, "Each visible unit is drawn from an h of its own: sample h once a chain, and all of v from it."),
    ]
    measured = exact.empirical_distribution(after)
    distances = [exact.total_variation(measured, p) for p in (right, *(p for p, _ in variants))]
    if distances[0] > 0.02:
        nearest = min(range(1, len(distances)), key=lambda i: distances[i])
        if distances[nearest] < 0.02:
            raise Hint(variants[nearest - 1][1])
        raise Hint(
            f"From v = {start.int().tolist()} the new states are not distributed as they should be: total variation "
            f"{distances[0]:.2f} from p(v'|v). First h from p(h|v), then v from p(v|h), each unit of each chain by its "
            "own random number."
        )
