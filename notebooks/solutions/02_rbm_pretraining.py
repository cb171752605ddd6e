"""Solutions to the exercises of notebook 02, each with a line of why. Try first: the checks give hints."""

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F

from dlkit import Experiment
from dlkit.models import RBM
from dlkit.training import PCD, linear_schedule

# 1. CD as a gradient. The statistics of the data less those of the reconstructions are the way *up* the likelihood; an
#    optimizer walks down, so .grad is the other way round. Means, not sums: lr must not depend on the batch's size.


def fill_grad(rbm, x, v):
    with torch.no_grad():
        p, q = rbm.hidden_given(x), rbm.hidden_given(v)
        rbm.W.grad = (v.T @ q - x.T @ p) / len(x)
        rbm.a.grad = (v - x).mean(0)
        rbm.b.grad = (q - p).mean(0)


# 2. The cure. Without a visible bias hidden units must stand in for it: they are always on, and of no other use.
#    Centring (PCD(visible_bias_from_data=False, centred=True)) cures it too. A lower rate does not, and a sparsity
#    target hides the sign: no unit is always on any more, but together they still do the bias's work.


def cure(ill):
    return replace(ill, learner=PCD())


# 3. The pseudo-log-likelihood. v and its copy with pixel i flipped are the only two images that agree on all other
#    pixels, so p(v_i | the rest) = p(v) / (p(v) + p(flipped)): a sigmoid of the difference in free energy. One term
#    of the sum, picked at random, stands for as many as there are pixels.


def pseudo_log_likelihood(rbm, v, i):
    rows = torch.arange(len(v))
    flipped = v.clone()
    flipped[rows, i] = 1 - flipped[rows, i]
    return rbm.visible * F.logsigmoid(rbm.free_energy(flipped) - rbm.free_energy(v))


# 4. Whom to believe. AIS that is too quick misses states, finds log Z too low and so log p too high; reverse AIS errs
#    the other way if its chains begin at samples of the model. Where the two then agree, both are near the truth. The
#    digits do not lead into all valleys of a machine trained by CD-1: there both miss the same states, and agree.

err_high = "AIS"
doubtful = "CD-1"


def agree(estimates):
    return [name for name, (forward, reverse) in estimates.items() if abs(forward.value - reverse.value) <= 3]


# 5. Sixteen units. Small batches: ten times as many steps for the same products, each with a noisier gradient, which a
#    rate that falls to 0 averages out. Centring makes each step count for more, and PCD's chains go on from step to
#    step, so that the many short steps of the weights are steps of the chains too.


def plan(few):
    centred = PCD(centred=True)
    return Experiment(
        partial(RBM, 784, 16), few, centred, batch_size=10, epochs=4, lr=linear_schedule(0.2, 0, epochs=4)
    )
