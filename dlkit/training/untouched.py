"""Whether callbacks change weights, which a split run takes only if each rank has the whole net and all do the same."""

from typing import Any

import torch
from torch import nn


def state_of_weights(model: nn.Module, *, closely: bool) -> list[tuple[int, ...]]:
    """What differs once a parameter has been changed; closely: also where torch does not count that, as of `p.data`."""
    states: list[tuple[int, ...]] = []
    for parameter in model.parameters():
        state: tuple[int, ...] = (id(parameter), parameter._version)
        values: Any = getattr(parameter, "_local_tensor", parameter)  # a DTensor's
        if closely and values.numel():
            state = (*state, int(torch.hash_tensor(values.detach()).view(torch.int64)))
        states.append(state)
    return states


def refusal(step: int) -> ValueError:
    """For a callback that has changed weights of which ranks have parts."""
    return ValueError(
        f"a callback has changed weights at step {step}, and a rank has a part of them, of which a norm, say, is not "
        "the whole's: do it in the step of an optimizer of your own, which is tried on parts, or use DataParallel."
    )


def refusal_of_some(step: int) -> ValueError:
    """For a callback that has changed the weights of some ranks, or of each rank in another way."""
    return ValueError(
        f"a callback has changed weights at step {step}, but not in the same way on all ranks, which would train "
        "different models from here on: change them on all, without a look at the rank and by numbers that all draw "
        "alike, or use ModelAveraging, which trains them apart."
    )
