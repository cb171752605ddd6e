"""An exercise of notebook 09: what two branches of a skip need, before ranks with some of their maps can add them."""

from collections.abc import Iterable
from typing import Any

from dlkit.exercises import Answer, Hint, exercise, given
from dlkit.exercises.answers import kind, near, number, over_cases, refuse_mistakes

WHOLE = "whole"
Branch = str | list[list[int]]  # WHOLE, or the maps of each rank
Case = tuple[Branch, Branch, int]  # two branches, and how many numbers a map has, of all images

WORDS = ("nothing", "cut one", "cut other", "gather one", "gather other")


@exercise(
    "both terms of a sum must be on one rank: a whole branch is there already, one that is split otherwise must travel",
    deeper="Two ranks, four maps. Rank 0 has maps 0 and 1 of one branch, and maps 0 and 2 of the other. Of which maps "
    "can it compute the sum? To which other rank must maps 2 and 3 of the first branch go, and 0 and 1 come, so that "
    "both have all of it, and can keep what they need?",
)
def add_split(answer: Answer) -> None:
    """`answer(one, other, size)`: what is done first, one of `WORDS`, and how many numbers all ranks send for it.

    Each branch is "whole", or a list with the maps of each rank; a map has `size` numbers, of all images.
    """
    cases = _cases()
    answers = [_word_and_count(answer(*case)) for case in cases]
    for case, (word, _) in zip(cases, answers, strict=True):
        if word not in _ways(*case):
            raise Hint(_why_not(word, *case))
    for case, (word, count) in zip(cases, answers, strict=True):
        if word[:6] != "gather" and count:
            raise Hint(
                f"{_said(*case)}: {word!r} is right. No rank then needs what another one has: who would send {count:g} "
                "numbers?"
            )
    gathering = [(case, *found) for case, found in zip(cases, answers, strict=True) if found[0][:6] == "gather"]
    _check_counts([case for case, *_ in gathering], [word for _, word, _ in gathering], [n for *_, n in gathering])


def _cases() -> list[Case]:
    """Branches that are whole, split alike, split otherwise, also with equally many maps, unevenly, or with none."""
    halves, thirds = [[0, 1], [2, 3]], [[0, 1, 2], [3, 4], [5, 6]]
    return [
        (WHOLE, WHOLE, 24),
        (halves, halves, 24),
        (WHOLE, halves, 24),
        (halves, WHOLE, 10),
        (thirds, thirds, 5),
        (halves, [[0, 1, 2], [3]], 24),
        (halves, [[0, 2], [1, 3]], 10),
        (thirds, [[0, 1], [2, 3], [4, 5, 6]], 96),
        ([[0], [1], []], [[0], [], [1]], 7),
        (WHOLE, [[0], [1], []], 7),
        ([[0, 1], [2, 3], [4, 5], [6, 7]], [[0, 4], [1, 5], [2, 6], [3, 7]], 50),
        ([[0, 1], [2, 3], [4, 5], [6, 7]], WHOLE, 50),
    ]


def _ways(one: Branch, other: Branch, size: int) -> dict[str, int]:
    """The words that are right, each with the numbers that all ranks send together."""
    if one == other:
        return {"nothing": 0}
    if isinstance(one, str):
        return {"cut one": 0}
    if isinstance(other, str):
        return {"cut other": 0}
    count = (len(one) - 1) * _maps(one) * size  # each part goes to each other rank
    return {"gather one": count, "gather other": count}


def _maps(branch: Iterable[list[int]]) -> int:
    return sum(map(len, branch))


def _said(one: Branch, other: Branch, size: int) -> str:
    return f"For one = {one}, other = {other}"


def _why_not(word: str, one: Branch, other: Branch, size: int) -> str:
    """The hint for a word that is wrong for these branches."""
    case, named = _said(one, other, size), {"one": one, "other": other}.get(word.partition(" ")[2])
    if one == other == WHOLE:
        return f"{case}: every rank has all maps of both. What does it lack?"
    if one == other:
        return f"{case}: each rank has the same maps of both, and gives these maps of the sum. What does it lack?"
    if isinstance(one, str) or isinstance(other, str):
        if word == "nothing":
            few = len(other[0] if isinstance(one, str) else one[0])
            return (
                f"{case}: rank 0 would add {few} maps of the one to all maps of the other. Which does it need of both?"
            )
        if word.startswith("cut"):
            return f"{case}: that branch is split already. Which of the two is not?"
        if named == WHOLE:
            return f"{case}: a whole branch is on all ranks: there is nothing to gather."
        return (
            f"{case}: the sum would be right, but ranks would send maps, and need not: what does each rank have of the "
            "branch that is whole?"
        )
    if word != "nothing":
        return (
            f"{case}: no branch is whole, so none can be cut without a message: rank 0 has maps {one[0]} of the one, "
            f"and {other[0]} of the other."
        )
    rank = next(rank for rank, (mine, too) in enumerate(zip(one, other, strict=True)) if mine != too)
    if [*map(len, one)] == [*map(len, other)]:
        return (
            f"{case}: all ranks have equally many maps of both, but rank {rank} would add maps {one[rank]} to maps "
            f"{other[rank]}. Nothing would complain, and the sum would be wrong."
        )
    return f"{case}: rank {rank} has maps {one[rank]} of the one, and {other[rank]} of the other. What does it lack?"


def _check_counts(cases: list[Case], words: list[str], counts: list[float]) -> None:
    """Raise the hint for numbers sent that are not right, of cases in which a branch is gathered."""
    right = [float(_ways(*case)[word]) for case, word in zip(cases, words, strict=True)]
    if near(counts, right):
        return
    refuse_mistakes(counts, over_cases(_wrong_counts(*case) for case in zip(cases, words, strict=True)), near)
    i = next(i for i, count in enumerate(counts) if not near([count], right[i : i + 1]))
    raise Hint(
        f"{_said(*cases[i])}, size = {cases[i][2]}: {words[i]!r} is right, but not {counts[i]:g} numbers. How many "
        "maps does each rank have of it, to how many others does it send them, and what do all ranks send together?"
    )


def _wrong_counts(case: Case, word: str) -> list[tuple[float, str]]:
    """The usual wrong numbers for what is gathered, with their hints."""
    one, other, size = case
    parts = one if word == "gather one" else other
    assert not isinstance(parts, str)
    n, lengths = len(parts), [len(part) for part in parts]
    maps, longest = sum(lengths), max(lengths)
    together = "That is what one rank sends: all ranks *together* are asked for."
    return [
        (0, "What a rank gathers comes from the others: they have sent it."),
        ((n - 1) * maps, "Those are maps: each has `size` numbers."),
        (maps * size, "Right on two ranks; on more, each part goes to *each* of the others."),
        (n * maps * size, "A rank need not send its part to itself."),
        (n * n * maps * size, "Each map is sent by one rank, the one that has it, and not by all."),
        (2 * (n - 1) * maps * size, "You gather both: if one is whole on all ranks, what becomes of it?"),
        (4 * (n - 1) * maps * size, "That is bytes: numbers are asked for."),
        (2 * (n - 1) / n * maps * size, "That is one rank's share of an all-reduce: nothing is added up on its way."),
        (
            n * (n - 1) * longest * size,
            "As if all ranks had as many maps as the one that has most: add up what they have.",
        ),
        (n * (n - 1) * lengths[0] * size, "As if all ranks had as many maps as rank 0: add up what they have."),
        ((n - 1) * lengths[0] * size, together),
        ((n - 1) * longest * size, together),
        ((n - 1) * maps * size / n, together),
    ]


def _word_and_count(answer: Any) -> tuple[str, float]:
    """The answer, if it is one of the words and a number. Raises Hint if not."""
    if not isinstance(answer, list | tuple) or len(answer) != 2:
        raise Hint(f"Return two things, a word and a number, such as ('nothing', 0); yours is a {kind(answer)}.")
    word, count = given(answer[0]), number(answer[1])
    written = " ".join(word.lower().replace("_", " ").split()) if isinstance(word, str) else None
    if written not in WORDS:
        raise Hint(f"The word is one of {', '.join(map(repr, WORDS))}; yours is {word!r}.")
    return written, count
