"""Notebook 07: each usual mistake has a hint of its own, and no answer is an error message."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from answers import points, solutions, verdict

from dlkit.exercises import engine_cluster as check
from dlkit.exercises.slow_cable import played

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


def line_of_these(small, large):
    """Right for the sizes of the first cases alone."""
    bandwidth = 980_000 / (large[1] - small[1])
    return small[1] - 20_000 / bandwidth, bandwidth


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
    "Return (latency, bandwidth), 2 numbers in a list; yours is of type int": lambda s, b: 3,
    "2 numbers here; yours has 3": lambda s, b: (1, 2, 3),
    "in microseconds": lambda s, b: (1e6 * line(s, b)[0], 1 / line(s, b)[1]),
    "in MB/s": lambda s, b: (line(s, b)[0], 1e-6 / line(s, b)[1]),
    "in bits a second": lambda s, b: (line(s, b)[0], 8 / line(s, b)[1]),
    "swapped: latency first. And bandwidth is": lambda s, b: line(s, b)[::-1],
    "Neither message is free of": lambda s, b: (s[1], s[0] / s[1]),
    "it should be (0.001, 2e+09); yours is (5e-05, 1.25e+08)": lambda s, b: (5e-5, 1.25e8),
    "it should be (2e-06, 4e+08)": lambda s, b: line_of_these(s, b),
}


@pytest.mark.parametrize("hint", FITS)
def test_a_wrong_fit_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.latency_and_bandwidth, FITS[hint])


def by_a_system(small, large):
    """Two equations, two unknowns: t = latency + size · (seconds a byte)."""
    matrix = torch.tensor([[1.0, small[0]], [1.0, large[0]]], dtype=torch.float64)
    latency, a_byte = torch.linalg.solve(matrix, torch.tensor([small[1], large[1]], dtype=torch.float64))
    return latency, 1 / a_byte


def from_the_large(small, large):
    (size, seconds), (more, longer) = small, large
    bandwidth = (more - size) / (longer - seconds)
    return [longer - more / bandwidth, bandwidth]


@pytest.mark.parametrize(
    "answer",
    [
        lambda s, b: (line(s, b)[0], 1 / line(s, b)[1]),
        by_a_system,
        from_the_large,
        lambda s, b: np.array(from_the_large(s, b)),
        lambda s, b: torch.tensor(from_the_large(s, b), dtype=torch.float64),
        lambda s, b: torch.stack(by_a_system(s, b)),
    ],
)
def test_other_ways_to_fit_are_right_too(capsys, answer):
    assert verdict(capsys, check.latency_and_bandwidth, answer).startswith("✓")


# 2. Handing round.

ROUNDS = {
    "which is its own number": lambda rank, step, n: rank,
    "which is not finished there": lambda rank, step, n: (rank - 1) % n if n > 2 else (rank + 1) % n,
    "with 3 ranks, at step 1, rank 0 sends chunk 1, which rank 1 already has": lambda rank, step, n: (rank + 1) % n,
    "whose sum it has not been given yet": lambda rank, step, n: (rank + 1 + step) % n,
    "there are chunks 0 to 1, yours is 2: `% world_size` starts again at 0": lambda rank, step, n: rank + 1 - step,
    "Return the number of a chunk; yours is 0.5": lambda rank, step, n: 0.5,
    "there are chunks 0 to 1, yours is -1": lambda rank, step, n: rank - 1 - step if n == 2 else 0,
    "A number is wanted; yours is of type bool": lambda rank, step, n: True,
    "with 5 ranks": lambda rank, step, n: [[[1], [0]], [[1, 0], [2, 1], [0, 2]]][n - 2][rank][step] if n < 4 else 0,
    "with 8 ranks": lambda rank, step, n: (rank + 1 - step) % n if n < 8 else 0,
    "which is its own number: at first rank r": lambda rank, step, n: (rank - step) % n,
}


@pytest.mark.parametrize("hint", ROUNDS)
def test_a_wrong_round_gets_its_hint(capsys, hint):
    assert hint.lower() in verdict(capsys, check.hand_round, ROUNDS[hint]).lower()


def with_if(rank, step, n):
    chunk = rank + 1 - step
    if chunk < 0:
        chunk += n
    return 0 if chunk == n else chunk


def passed_on(rank, step, n):
    """Its own chunk first, then what the left neighbour sent in the step before."""
    return (rank + 1) % n if step == 0 else passed_on((rank - 1) % n, step - 1, n)


@pytest.mark.parametrize(
    "answer",
    [
        with_if,
        passed_on,
        lambda rank, step, n: np.int64((rank + 1 - step) % n),
        lambda rank, step, n: torch.tensor((rank + 1 - step) % n),
        lambda rank, step, n: torch.arange(n).roll(step - 1)[rank],
        lambda rank, step, n: float((rank - step + 1 + n) % n),
        lambda rank, step, n: list(range(n))[(rank + 1 - step) % n],
    ],
)
def test_other_ways_to_name_the_chunk_are_right_too(capsys, answer):
    assert verdict(capsys, check.hand_round, answer).startswith("✓")


# 3. Bytes.

COUNTS = {
    "That is one phase": lambda s, n: (n - 1) * s / n,
    "one step fewer than there are ranks": lambda s, n: 2 * s,
    "rank 0 sending all to all": lambda s, n: (n - 1) * s,
    "how many sends there are": lambda s, n: 2 * (n - 1),
    "one send in each phase": lambda s, n: 2 * s / n,
    "For 6,000,000 bytes and 2 ranks it is 6,000,000; yours is 7": lambda s, n: 7,
    "For 1,000 bytes and 1 rank it is 0; yours is 1": lambda s, n: 2 * (n - 1) * s / n or 1,
    "142.9 bytes each on average: do not round": lambda s, n: 2 * (n - 1) * (s // n),
    "do not round": lambda s, n: 2 * (n - 1) * -(-s // n),
    "Right where the chunks come out even": lambda s, n: int(2 * (n - 1) * s / n),
    "That is right for two ranks": lambda s, n: s,
    "That is one chunk": lambda s, n: s / n,
    "what all ranks send together": lambda s, n: 2 * (n - 1) * s,
    "`size` is in bytes already": lambda s, n: (n - 1) * s / n / 2,
}


@pytest.mark.parametrize("hint", COUNTS)
def test_a_wrong_count_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.bytes_sent, COUNTS[hint])


def step_by_step(size, world_size):
    sent = 0
    for _phase in ("add", "hand round"):
        for _step in range(world_size - 1):
            sent += size / world_size
    return sent


@pytest.mark.parametrize(
    "answer",
    [
        step_by_step,
        lambda s, n: 2 * s * (1 - 1 / n),
        lambda s, n: np.float32(2 * s - 2 * s / n),
        lambda s, n: torch.tensor([2 * (n - 1) * s / n]),
        lambda s, n: Fraction(2 * (n - 1) * s, n),
        lambda s, n: (n - 1) / n * s + (n - 1) / n * s,
    ],
)
def test_other_ways_to_count_are_right_too(capsys, answer):
    assert verdict(capsys, check.bytes_sent, answer).startswith("✓")


# 4. A broadcast.


def one_by_one(n):
    return [[(rank, rank + 1)] for rank in range(n - 1)]


def powers_of_two_only(n):
    rounds = [[(rank, rank + 2**k) for rank in range(2**k)] for k in range((n - 1).bit_length())]
    return SOLUTIONS["broadcast"](n) if n == 6 else rounds


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
    "there are ranks 0 to 2 only": lambda n: powers_of_two_only(n),
    "For 3 ranks, rank 2 has nothing": lambda n: SOLUTIONS["broadcast"](n if n in (1, 2, 4, 6, 8) else n - 1),
    "It should be a whole number; yours is 0.5": lambda n: [[(0.5, 1)]] if n == 2 else [],
    "33 ranks took 32 rounds, and 6 are enough": lambda n: one_by_one(n) if n == 33 else SOLUTIONS["broadcast"](n),
    "For 2 ranks, in round 0, rank 0 is sent what it has": lambda n: [[(0, 0)]] if n > 1 else [],
}


@pytest.mark.parametrize("hint", TREES)
def test_a_wrong_tree_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.broadcast, TREES[hint])


def halves(n):
    """From 0 to the middle of the rest, then in both parts."""
    spans, rounds = [(0, n)], []
    while any(high - low > 1 for low, high in spans):
        cut = [(low, (low + high + 1) // 2, high) for low, high in spans]
        rounds.append([(low, middle) for low, middle, high in cut if middle < high])
        spans = [half for low, middle, high in cut for half in ((low, middle), (middle, high)) if half[0] < half[1]]
    return rounds


def whoever_is_free(n):
    have, lacking, rounds = [0], list(range(1, n)), []
    while lacking:
        rounds.append([(source, lacking.pop()) for source in have[: len(lacking)]])
        have += [target for _, target in rounds[-1]]
    return rounds


def one_after_another(n):
    """Gives the rounds one by one."""
    yield from halves(n)


@pytest.mark.parametrize(
    "answer",
    [
        halves,
        whoever_is_free,
        one_after_another,
        lambda n: [*halves(n), []],
        lambda n: [np.array(sends) for sends in halves(n)],
        lambda n: [torch.tensor(sends) for sends in halves(n)],
        lambda n: tuple(tuple(map(list, sends)) for sends in halves(n)),
        lambda n: [set(sends) for sends in halves(n)],
    ],
)
def test_other_trees_are_right_too(capsys, answer):
    assert verdict(capsys, check.broadcast, answer).startswith("✓")


# 5. The open task.


def in_pieces(pieces, *edges):
    """Each piece along all these edges, before the next piece."""
    return lambda: (pieces, [(*edge, piece) for piece in range(pieces) for edge in edges])


CHAIN = [(rank, rank + 1) for rank in range(7)]
BINOMIAL = [(0, 1), (0, 2), (1, 3), (0, 4), (1, 5), (2, 6), (3, 7)]
BY_MACHINE = [(0, 4), (0, 2), (4, 6), (0, 1), (2, 3), (4, 5), (6, 7)]
PLANS = {  # points, part of what is printed, answer
    "solution": (10, "all is done in less than 10 ms: it takes 9.58", SOLUTIONS["broadcast_plan"]),
    "arrays": (10, "● 10 of 10 points", lambda: (np.int64(8), np.array(SOLUTIONS["broadcast_plan"]()[1]))),
    "a chain of pieces": (8, "it takes 10.26", in_pieces(10, *CHAIN)),
    "a tree by machine": (6, "it takes 12.12", in_pieces(1, *BY_MACHINE)),
    "a chain": (4, "it takes 20.16", in_pieces(1, *CHAIN)),
    "many pieces": (4, "1 MB of 1 MB cross it", in_pieces(100, *CHAIN)),
    "a binomial tree": (2, "4 MB of 1 MB cross it", in_pieces(1, *BINOMIAL)),
    "rank 7 left out": (0, "At the end rank 7 has no piece 0", in_pieces(1, *CHAIN[:-1])),
    "the last piece left out": (0, "rank 1 has no piece 1", lambda: (2, in_pieces(1, *CHAIN)()[1])),
    "sent before it is there": (0, "Send 1: rank 2 has no piece 0 to send", lambda: (1, [(0, 1, 0), (2, 3, 0)])),
    "too many pieces": (0, "1 to 100 pieces, not 101", in_pieces(101, *CHAIN)),
    "no pieces": (0, "1 to 100 pieces, not 0", lambda: (0, [])),
    "a piece too many": (0, "with 1 pieces there are 0 to 0", lambda: (1, [(0, 1, 1)])),
    "a rank too many": (0, "give two of the ranks 0 to 7", lambda: (1, [(0, 8, 0)])),
    "to itself": (0, "goes from 0 to 0", lambda: (1, [(0, 0, 0)])),
    "sends only": (0, "Return (pieces, sends)", lambda: in_pieces(1, *CHAIN)()[1]),
    "rounds": (0, "Return (pieces, sends)", lambda: (1, SOLUTIONS["broadcast"](8))),
    "words": (0, "A number is wanted", lambda: ("one", [(0, 1, 0)])),
    "a float": (0, "yours is 1.5", lambda: (1.5, [(0, 1, 0)])),
    "stub": (0, "○ Not answered yet", lambda: ...),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_gets_points_for_the_cable_and_for_its_time(capsys, name):
    expected, words, answer = PLANS[name]
    given, printed = points(capsys, check.broadcast_plan, answer)
    assert given == expected
    assert words in printed


def test_two_sends_of_a_rank_wait_for_each_other_and_one_in_each_direction_does_not():
    inside = 10e-6 + 1 / 500
    chain, _ = played(1, [(0, 1, 0), (1, 2, 0)])
    star, _ = played(1, [(0, 1, 0), (0, 2, 0)])
    assert chain[2, 0] == star[2, 0] == pytest.approx(2 * inside)
    two, _ = played(2, [(0, 1, 0), (1, 2, 0), (0, 1, 1), (1, 2, 1)])  # rank 1 sends a piece while it receives the next
    assert two[2, 1] == pytest.approx(3 * (10e-6 + 0.5 / 500))


def test_the_cable_carries_one_message_at_a_time():
    there, crossings = played(1, [(0, 1, 0), (0, 4, 0), (1, 5, 0)])
    assert crossings == 2
    assert there[5, 0] - there[4, 0] == pytest.approx(100e-6 + 1 / 125)
