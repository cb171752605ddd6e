"""Exercise 5 of notebook 09: the sum of two branches that are split, or whole."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from answers import solutions, verdict

from dlkit.exercises import model_parallel as check
from dlkit.exercises.skips import _cases

SOLVED = solutions("09_model_parallel")["add_split"]


@pytest.mark.parametrize(
    "nonsense",
    ["three", [1.0], torch.zeros(2, 7), float("nan"), True, (None, 1), [[1]], {}, ("nothing",), ("nothing", None)],
)
def test_nonsense_is_answered_in_a_line(capsys, nonsense):
    assert verdict(capsys, check.add_split, lambda *_: nonsense).startswith("✗ Not yet")


def test_a_word_without_a_number_is_not_answered_yet(capsys):
    assert verdict(capsys, check.add_split, lambda *_: ("nothing", ...)).startswith("○")


def by_messages(one, other, size):
    """All messages (from, to, map) of a gather are written down, and counted."""
    if one == other:
        return ["nothing", 0]
    if "whole" in (one, other):
        return ["cut one" if one == "whole" else "cut other", 0]
    messages = {
        (source, to, own)
        for source, part in enumerate(other)
        for to in range(len(other))
        if to != source
        for own in part
    }
    return "gather other", len(messages) * size


def by_held(one, other, size):
    """By what each rank holds, and whether that is the same of both."""
    maps = max((index for part in [*one, *other] if not isinstance(part, str) for index in part), default=0) + 1
    ranks = len(one) if one != "whole" else len(other)
    held = [[set(range(maps)) if b == "whole" else set(b[r]) for b in (one, other)] for r in range(ranks)]
    if one == other == "whole" or all(mine == too for mine, too in held):
        return "Nothing", 0.0
    if all(mine >= too for mine, too in held):
        return "cut_one", torch.tensor(0)
    if all(mine <= too for mine, too in held):
        return "cut_other", np.int64(0)
    return " gather one ", torch.tensor([float(sum((ranks - 1) * len(mine) * size for mine, _ in held))])


RIGHT = {
    "messages": by_messages,
    "what is held": by_held,
    "the other is gathered": lambda *case: (SOLVED(*case)[0].replace("gather one", "gather other"), SOLVED(*case)[1]),
    "capitals and a fraction": lambda *case: (SOLVED(*case)[0].upper(), Fraction(SOLVED(*case)[1])),
    "numpy": lambda *case: [np.str_(SOLVED(*case)[0]), np.float64(SOLVED(*case)[1])],
}


@pytest.mark.parametrize("style", RIGHT)
def test_a_right_answer_of_any_style_is_taken(capsys, style):
    assert verdict(capsys, check.add_split, RIGHT[style]).startswith("✓")


@pytest.mark.parametrize("case", [case for case in _cases() if "whole" not in case[:2]], ids=str)
def test_after_what_the_solution_does_the_ranks_parts_are_those_of_the_sum(case):
    one, other, _ = case
    word, _ = SOLVED(*case)
    maps = sum(map(len, one))
    terms = torch.randn(2, maps)
    for rank, kept in enumerate(other if word == "gather one" else one):
        first = terms[0][kept] if word == "gather one" else terms[0][one[rank]]  # all maps are there, some are kept
        torch.testing.assert_close(first + terms[1][other[rank]], terms.sum(0)[kept])


def told(word, when, count=None):
    """The solution, but for another word or number where `when` holds of the two branches."""

    def answer(one, other, size):
        right, numbers = SOLVED(one, other, size)
        if not when(one, other):
            return right, numbers
        return word or right, numbers if count is None else count(one, other, size)

    return answer


def split(one, other):
    return "whole" not in (one, other) and one != other


def one_whole(one, other):
    return (one == "whole") != (other == "whole")


def alike(one, other):
    return one == other != "whole"


def by_counts(one, other, size):
    """Looks at how many maps, and not at which."""
    if "whole" not in (one, other) and [len(part) for part in one] == [len(part) for part in other]:
        return "nothing", 0
    return SOLVED(one, other, size)


def sent(count):
    """The solution's word, and `count(lengths of the parts, size)` where a branch is gathered."""
    return told("", split, lambda one, other, size: count([len(part) for part in one], size))


WRONG = {
    "Nothing would complain, and the sum would be wrong": by_counts,
    "other = [[0, 1, 2], [3]]: rank 0 has maps [0, 1] of the one": told("nothing", split),
    "would add 2 maps of the one to all maps of the other": told("nothing", one_whole),
    "For one = [[0, 1], [2, 3]], other = whole: rank 0 would add 2": told(
        "nothing", lambda one, other: one != "whole" and other == "whole"
    ),
    "that branch is split already": told("cut other", lambda one, other: one == "whole" != other),
    "there is nothing to gather": told("gather one", lambda one, other: one == "whole" != other),
    "and need not: what does each rank have": told("gather other", lambda one, other: one == "whole" != other),
    "none can be cut without a message": told("cut one", split),
    "every rank has all maps of both": told("cut one", lambda one, other: one == other == "whole"),
    "each rank has the same maps of both": told("gather one", alike),
    "who would send 24 numbers?": told("", alike, lambda one, other, size: size),
    "'cut one' is right. No rank then needs": told("", one_whole, lambda one, other, size: 2 * size),
    "they have sent it": sent(lambda lengths, size: 0),
    "Those are maps": sent(lambda lengths, size: (len(lengths) - 1) * sum(lengths)),
    "to *each* of the others": sent(lambda lengths, size: sum(lengths) * size),
    "need not send its part to itself": sent(lambda lengths, size: len(lengths) * sum(lengths) * size),
    "Each map is sent by one rank": sent(lambda lengths, size: len(lengths) ** 2 * sum(lengths) * size),
    "You gather both": sent(lambda lengths, size: 2 * (len(lengths) - 1) * sum(lengths) * size),
    "That is bytes": sent(lambda lengths, size: 4 * (len(lengths) - 1) * sum(lengths) * size),
    "share of an all-reduce": sent(lambda lengths, size: 2 * (len(lengths) - 1) / len(lengths) * sum(lengths) * size),
    "as the one that has most": sent(lambda lengths, size: len(lengths) * (len(lengths) - 1) * max(lengths) * size),
    "all ranks *together* are asked for": sent(lambda lengths, size: (len(lengths) - 1) * lengths[0] * size),
    "'gather one' is right, but not 1 numbers": sent(lambda lengths, size: 1),
    "The word is one of 'nothing', 'cut one'": told("gather", split),
    "has changed `one`": lambda one, other, size: ("nothing", 0) if one == "whole" else ("nothing", len(one.pop())),
    "yours is a tuple of 3": lambda *case: (*SOLVED(*case), 0),
    "yours is of type str": lambda *case: ("nothing", "0"),
}


@pytest.mark.parametrize("hint", WRONG)
def test_a_wrong_answer_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.add_split, WRONG[hint])
