"""Solutions to the exercises of notebook 11, each with a line of why. Try first: the checks give hints."""

# 1. The server. A stale gradient is applied like any other. Its age is what happened since the fetch: gradients that
#    were applied in between, without itself.


def apply_push(values, version, gradient, computed_at, lr):
    return values - lr * gradient, version + 1, version - computed_at


# 2. Adagrad. First the sum, then the step: so the first step of all is lr, in each value, however large the gradient.


def adagrad(values, sums, gradient, lr):
    sums = sums + gradient**2
    return values - lr * gradient / sums.sqrt(), sums


# 3. The two loops. Numbers come from `dot`; what is done to vectors is done on each server to its own part.


def plus(u, v, times):
    return [a + times * b for a, b in zip(u, v, strict=True)]


def direction(gradient, pairs, scale, dot):
    q, alphas = [-part for part in gradient], []
    for y, s in reversed(pairs):
        alpha = dot(s, q) / dot(y, s)
        q = plus(q, y, -alpha)
        alphas.append(alpha)
    r = [scale * part for part in q]
    for (y, s), alpha in zip(pairs, reversed(alphas), strict=True):
        beta = dot(y, r) / dot(y, s)
        r = plus(r, s, alpha - beta)
    return r


# The open task. All sixteen with fetch and push after each batch would send 500 MB. Rarer pushes fit, but then the sum
# of several gradients is one long step, and the first of them is older than its push says. Five fast workers who push
# each batch send 191 MB, and their gradients are 4 updates old on average: 5 - 1. Adagrad at 0.02 was among the best of
# 0.01, 0.02, 0.03 and 0.04.

plan = {"workers": 5, "fetch": 1, "push": 1, "rule": "adagrad", "lr": 0.02, "predicted": 4}
