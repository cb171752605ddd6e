"""Sandblaster, as a reader gives it to a run."""

from dataclasses import dataclass

from dlkit.strategies.sandblaster.under_torchrun import OnRanks


@dataclass(frozen=True, kw_only=True)
class Sandblaster(OnRanks):
    """L-BFGS whose parameters, gradients and history stay on servers, in parts; a coordinator sees numbers only.

    The experiment's optimizer is torch.optim.LBFGS with strong Wolfe, or LineSearches, and what it learns in one
    process is learnt here. servers: over how many the vectors are cut. portions: of each batch, far more than workers,
    which take one after the other. together: how many a worker computes before it sends their sum. backups: how many
    of a batch's last portions may be given to a second worker, of which the first to send counts.
    Source: Dean and others 2012, Large scale distributed deep networks, §4.2, and its supplement's algorithm.
    """
