"""The image that a unit responds to most, of all images of a length.

Source: Le, Ranzato, Monga, Devin, Chen, Corrado, Dean, Ng 2012, Building high-level features using large scale
unsupervised learning, §4.4: the optimum of f(x) with ‖x‖ fixed, by numerical search.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dlkit.analysis.attribution import Maximised


def optimum(
    respond: Callable[[Tensor], Tensor],
    start: Float[Tensor, "*shape"],
    *,
    norm: float = 1.0,
    steps: int = 200,
    rate: float = 0.3,
) -> Maximised:
    """Gradient ascent on a unit's response, among images x with ‖x‖ = norm.

    respond: gives the unit's value for each image, (images,). start: not zero; it is brought to that norm. Each step
    goes `rate` times the norm along the gradient, of which the part along the image is left out, and back to the norm;
    a step that lowers the response is not taken, and the next ones are half as long.
    ValueError for a norm or rate of 0 or less, a start of zeros, or a response that is not one value or not finite.
    """
    if norm <= 0 or rate <= 0:
        raise ValueError(f"norm={norm}, rate={rate}: both are more than 0.")
    if not start.norm() > 0:
        raise ValueError("a start of zeros has no direction: begin with noise, such as torch.randn(shape).")
    x = start.detach() * (norm / start.norm())
    response, gradient = _response(respond, x)
    responses = [response]
    for _ in range(steps):
        along = gradient - x * (gradient * x).sum() / norm**2
        trial = x + rate * norm * along / along.norm().clamp_min(1e-12)
        trial = trial * (norm / trial.norm())
        response, next_gradient = _response(respond, trial)
        if response >= responses[-1]:
            x, gradient = trial, next_gradient
        else:
            response, rate = responses[-1], rate / 2
        responses.append(response)
    return Maximised(x, responses)


@torch.enable_grad()
def _response(respond: Callable[[Tensor], Tensor], image: Tensor) -> tuple[float, Tensor]:
    """The response to the image, and its gradient."""
    x = image.detach()[None].requires_grad_()
    value = respond(x)
    if tuple(value.shape) != (1,) or not torch.isfinite(value).all():
        raise ValueError(f"respond gives {value.detach().cpu().tolist()} for one image: one finite value is wanted.")
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.item(), gradient[0]
