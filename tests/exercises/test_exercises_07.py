"""Notebook 07: each usual mistake has a hint of its own, and no answer is an error message."""

import numpy as np
import pytest
import torch
from answers import solutions, verdict

from dlkit.exercises import engine_cluster as check

SOLUTIONS = solutions("07_engine_cluster")
NAMES = ["latency_and_bandwidth", "hand_round", "bytes_sent", "broadcast"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nonsense", ["three", [1.0], torch.zeros(2, 7), float("nan"), True, (None, 1), [[1]], {}])
def test_nonsense_is_answered_in_a_line(capsys, name, nonsense):
    assert verdict(capsys, getattr(check, name), lambda *_: nonsense)[0] in "✗○"


# 1. What a message costs.


def line(small, large):
    """By least squares: (latency, seconds a byte)."""
    slope, latency = np.polyfit([small[0], large[0]], [small[1], large[1]], 1)
    return latency, slope


FITS = {
    "swapped": lambda s, b: (1 / line(s, b)[1], line(s, b)[0]),
    "seconds a byte": line,
    "the small message's time is not all latency": lambda s, b: (s[1], 1 / line(s, b)[1]),
    "the large message's time is not all latency": lambda s, b: (b[1], 1 / line(s, b)[1]),
    "Neither message is free": lambda s, b: (s[1], b[0] / b[1]),
    "only what it cost *more*": lambda s, b: (line(s, b)[0], b[0] / b[1]),
    "waited for the latency too: compare": lambda s, b: (s[1] - s[0] * b[1] / b[0], b[0] / b[1]),
    "leaves no latency": lambda s, b: (0, b[0] / b[1]),
    "The bandwidth is right. The small": lambda s, b: (7, 1 / line(s, b)[1]),
    "The latency is right. The bandwidth": lambda s, b: (line(s, b)[0], 3),
    "it should be (5e-05, 1.25e+08); yours is (1, 2)": lambda s, b: (1, 2),
    "Return two numbers, (latency, bandwidth); yours is 3": lambda s, b: 3,
}


@pytest.mark.parametrize("hint", FITS)
def test_a_wrong_fit_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.latency_and_bandwidth, FITS[hint])


def test_least_squares_is_right_too_and_numpy_numbers_are_numbers(capsys):
    assert verdict(capsys, check.latency_and_bandwidth, lambda s, b: (line(s, b)[0], 1 / line(s, b)[1])).startswith("✓")


# 2. Handing round.

ROUNDS = {
    "which is its own number": lambda rank, step, n: rank,
    "which is not finished there": lambda rank, step, n: (rank - 1) % n if n > 2 else (rank + 1) % n,
    "with 3 ranks, at step 1, rank 0 sends chunk 1, which rank 1 already has": lambda rank, step, n: (rank + 1) % n,
    "whose sum it has not been given yet": lambda rank, step, n: (rank + 1 + step) % n,
    "there are chunks 0 to 1, yours is 2: `% world_size` starts again at 0": lambda rank, step, n: rank + 1 - step,
    "Return the number of a chunk; yours is 0.5": lambda rank, step, n: 0.5,
}


@pytest.mark.parametrize("hint", ROUNDS)
def test_a_wrong_round_gets_its_hint(capsys, hint):
    assert hint.lower() in verdict(capsys, check.hand_round, ROUNDS[hint]).lower()


# 3. Bytes.

COUNTS = {
    "That is one phase": lambda s, n: (n - 1) * s / n,
    "not the whole of it": lambda s, n: 2 * (n - 1) * s,
    "one step fewer than there are ranks": lambda s, n: 2 * s,
    "rank 0 sending all to all": lambda s, n: (n - 1) * s,
    "how many sends there are": lambda s, n: 2 * (n - 1),
    "one send in each phase": lambda s, n: 2 * s / n,
    "For 6,000,000 bytes and 2 ranks it is 6,000,000; yours is 7": lambda s, n: 7,
    "For 1,000 bytes and 1 rank it is 0; yours is 1": lambda s, n: 2 * (n - 1) * s / n or 1,
}


@pytest.mark.parametrize("hint", COUNTS)
def test_a_wrong_count_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.bytes_sent, COUNTS[hint])


# 4. A broadcast.


def one_by_one(n):
    return [[(rank, rank + 1)] for rank in range(n - 1)]


TREES = {
    "4 ranks took 3 rounds, and 2 are enough": one_by_one,
    "rank 0 sends twice": lambda n: [[(0, rank) for rank in range(1, n)]] if n > 1 else [],
    "rank 1 sends what it has not got yet": lambda n: (
        [[(rank, rank + 1) for rank in range(n - 1)][:2]] if n != 2 else one_by_one(n)
    ),
    "is sent what it has, or is sent it twice": lambda n: [*SOLUTIONS["broadcast"](n), [(0, n - 1)]],
    "For 2 ranks, rank 1 has nothing at the end": lambda n: [],
    "there are ranks 0 to 0 only": lambda n: [[(0, 1)]],
    "each a list of pairs (from, to)": lambda n: [(0, 1)],
    "Return a list of rounds; yours is of type int": lambda n: n,
}


@pytest.mark.parametrize("hint", TREES)
def test_a_wrong_tree_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.broadcast, TREES[hint])


def test_the_nearest_half_first_is_right_too(capsys):
    def halves(n):
        """From 0 to the middle of the rest, then in both parts."""
        spans, rounds = [(0, n)], []
        while any(high - low > 1 for low, high in spans):
            cut = [(low, (low + high + 1) // 2, high) for low, high in spans]
            rounds.append([(low, middle) for low, middle, high in cut if middle < high])
            spans = [half for low, middle, high in cut for half in ((low, middle), (middle, high)) if half[0] < half[1]]
        return rounds

    assert verdict(capsys, check.broadcast, halves).startswith("✓")
