"""Solutions to the exercises of notebook 01, each with a line of why. Try first: the checks give hints."""

import torch
import torch.nn.functional as F

from dlkit.analysis import exact

# 1. The energy. Each term counts only if its units are on; the minus makes positive weights attract.


def energy(v, h, W, a, b):
    total = 0.0
    for i in range(len(v)):
        total -= a[i] * v[i]
    for j in range(len(h)):
        total -= b[j] * h[j]
    for i in range(len(v)):
        for j in range(len(h)):
            total -= v[i] * W[i, j] * h[j]
    return total


# 2. The free energy. Given v the hidden units do not interact, so the sum over 2^hidden states is a product of
#    `hidden` sums of two terms each, 1 + exp(x); its logarithm is a sum of softplus.


def free_energy(v, W, a, b):
    return -(v @ a) - F.softplus(v @ W + b).sum(1)


# 3. A Gibbs step. All hidden units at once, then all visible units at once: within a side none depends on another.


def gibbs_step(v, W, a, b, generator):
    h = torch.bernoulli(torch.sigmoid(v @ W + b), generator=generator)
    return torch.bernoulli(torch.sigmoid(h @ W.T + a), generator=generator)


# 4. CD's statistics. vᵀ p sums v_i p_j over the batch: a matrix product does it for all pairs at once. The hidden
#    units enter as probabilities: a sample has the same mean, and adds noise.


def cd_statistics(v_data, v_chain, W, b):
    positive = v_data.T @ torch.sigmoid(v_data @ W + b) / len(v_data)
    negative = v_chain.T @ torch.sigmoid(v_chain @ W + b) / len(v_chain)
    return positive, negative


# 5. The smallest k. Each k once, all in the time of the largest; then the first that is good enough.


def smallest_k(rbm, patterns):
    true = exact.gradient(rbm, patterns)
    gradients = exact.cd_gradients(rbm, patterns, range(1, 101))
    return min(k for k, gradient in gradients.items() if exact.cosine(gradient, true) >= 0.9)


# Open task. While the weights are small one Gibbs step forgets the data (the table of cosines: 1.00 at k=1), so the
# first phase takes many cheap updates at a high rate. Later the chains need more steps to leave their valleys: k grows
# as the machine learns. One chain a pattern is enough, for the noise of an update is averaged over the next ones; a
# lower rate at the end averages over more of them.

plan = [(400, 1, 1, 0.5), (400, 5, 1, 0.5), (250, 20, 1, 0.4), (100, 20, 1, 0.1)]
