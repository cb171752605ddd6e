"""The exercises of notebook 10: where two splits cost the same, which one to take, who is in my groups, the bill."""

from collections.abc import Sequence
from typing import Any

from dlkit.exercises import Hint, exercise, given
from dlkit.exercises.answers import number

Layer = tuple[int, int]  # its weights, and the numbers that it takes in for an image
NUMBER = 4  # bytes of a float32


def by_data(weights: float, ranks: int) -> float:
    """Bytes that a rank sends for a layer in a step: the sum of gradients goes round a ring, twice."""
    return NUMBER * 2 * (ranks - 1) / ranks * weights


def by_neurons(inputs: float, batch: float, ranks: int) -> float:
    """What is taken in is gathered on the way up; its gradients, partial sums on every rank, are added up on the way
    back.
    """
    return NUMBER * 3 * (ranks - 1) / ranks * inputs * batch


@exercise("weights over what is taken in says it, however many ranks there are: they cancel")
def crossing_batch(answer: Any) -> None:
    """`answer(weights, inputs, ranks)`: the batch for which a layer sends as much by data as by neurons."""
    cases = [(307_456, 69_984, 2), (37_752_832, 9_216, 4), (1_000, 70, 3)]
    found = [number(answer(*case)) for case in cases]
    right = [2 * weights / (3 * inputs) for weights, inputs, _ in cases]
    if _same(found, right):
        return
    if all(abs(mine - batch) < 1 for mine, batch in zip(found, right, strict=True)):
        raise Hint("Rounded: leave it as it comes out, 2.93 images and all.")
    _wrong_numbers(found, [_wrong_batches(*case) for case in cases])
    place = next(i for i in range(len(cases)) if not _same(found[i : i + 1], right[i : i + 1]))
    weights, inputs, ranks = cases[place]
    raise Hint(
        f"With {weights:,} weights, {inputs:,} inputs and {ranks} ranks it is {right[place]:,.4g}; yours is "
        f"{found[place]:,.4g}. Write `by_data(...)` and `by_neurons(...)` down as equal, and solve for the batch."
    )


def _wrong_batches(weights: int, inputs: int, ranks: int) -> list[tuple[float, str]]:
    right, passes = 2 * weights / (3 * inputs), (ranks - 1) / ranks
    return [
        (weights / inputs, "Almost: both are sent more than once, and not equally often. What are the factors?"),
        (2 * weights / inputs, "What is taken in travels back too, as gradients, and those are sums: a factor of 3."),
        (weights / (3 * inputs), "A sum goes round the ring twice: once to add up, once to hand round."),
        (1 / right, "Upside down: the more weights, the *larger* the batch from which data is the cheaper split."),
        (9 / 4 * right, "The factors are the wrong way round: which of the two is sent three times, which twice?"),
        (right / 4, "A number has four bytes on both sides: they cancel."),
        (4 * right, "A number has four bytes on both sides: they cancel."),
        (right * passes, "(n - 1) / n is in both amounts: does it not cancel?"),
        (right / passes, "(n - 1) / n is in both amounts: does it not cancel?"),
        (right / ranks, "`batch` is that of all ranks together, in both amounts: do not divide by the ranks."),
        (right * ranks, "`batch` is that of all ranks together, in both amounts: do not multiply by the ranks."),
    ]


@exercise("no net is split best in one way: each layer has its own, and the batch has a say")
def cheaper(answer: Any) -> None:
    """`answer(layers, batch, ranks)`: for each layer (weights, inputs) the split that sends less, in words."""
    net = [(34_944, 0), (307_456, 69_984), (663_936, 64_896), (37_752_832, 9_216), (4_097_000, 4_096)]
    cases = [(net, 128, 4), (net, 4096, 2), (_layers(), 60, 3), (_layers()[::-1], 500, 8)]
    found = [_words(answer(list(layers), *rest), len(layers)) for layers, *rest in cases]
    right = [_cheaper(layers, batch) for layers, batch, _ in cases]
    if found != right:
        _wrong_choice(found, right, cases)


def _layers() -> list[Layer]:
    """Some whose crossing batches lie all around 60 and 500."""
    inputs = [50, 37, 512, 80, 1_200, 9, 260, 64, 300, 700]
    factors = [1, 20, 45, 75, 110, 190, 330, 470, 600, 900]
    return [(factor * count, count) for factor, count in zip(factors, inputs, strict=True)]


def _cheaper(layers: Sequence[Layer], batch: float) -> list[str]:
    return ["data" if 2 * weights < 3 * inputs * batch else "neurons" for weights, inputs in layers]


def _wrong_choice(found: list[list[str]], right: list[list[str]], cases: list[tuple[list[Layer], int, int]]) -> None:
    other = {"data": "neurons", "neurons": "data"}
    if found == [[other[word] for word in words] for words in right]:
        raise Hint("The wrong way round in every layer: which amount is smaller?")
    if len(said := {word for words in found for word in words}) == 1:
        raise Hint(f'All of them by "{said.pop()}": each layer is decided for itself.')
    wrong = [
        (lambda batch, ranks: 1.5, "That leaves the batch out: what is taken in is sent for *every* image."),
        (lambda batch, ranks: batch, "What is taken in is sent three times, gradients twice: count the passes."),
        (lambda batch, ranks: batch / 2, "What is taken in travels forward, and its gradients are added up: 1 + 2."),
        (lambda batch, ranks: 1.5 * batch / ranks, "The batch is that of all ranks together: do not divide it."),
    ]
    for limit, hint in wrong:
        if found == [_cheaper(layers, limit(batch, ranks) / 1.5) for layers, batch, ranks in cases]:
            raise Hint(hint)
    case = next(i for i in range(len(cases)) if found[i] != right[i])
    layers, batch, ranks = cases[case]
    place = next(i for i in range(len(layers)) if found[case][i] != right[case][i])
    weights, inputs = layers[place]
    if inputs == 0:
        raise Hint("A layer that takes in 0 numbers, as the first one, has nothing to send by neurons.")
    raise Hint(
        f"A layer of {weights:,} weights that takes in {inputs:,} numbers, batch {batch}, {ranks} ranks: by data "
        f"{by_data(weights, ranks):,.0f} bytes, by neurons {by_neurons(inputs, batch, ranks):,.0f}; you chose "
        f"{found[case][place]}."
    )


@exercise("a rank is in two groups: one that makes up a replica with it, and one that has the same part of the others")
def groups(answer: Any) -> None:
    """`answer(rank, data, model)`: the ranks of its data group and of its model group, itself among them."""
    cases = [(rank, *mesh) for mesh in ((3, 2), (2, 2), (2, 4), (1, 3), (4, 1)) for rank in range(mesh[0] * mesh[1])]
    for rank, data, model in cases:
        found = _two_groups(answer(rank, data, model))
        right = _groups(rank, data, model)
        if found != right:
            _wrong_groups(found, right, rank, data, model)


def _groups(rank: int, data: int, model: int) -> tuple[list[int], list[int]]:
    row, column = divmod(rank, model)
    return list(range(column, data * model, model)), list(range(row * model, (row + 1) * model))


def _wrong_groups(
    found: tuple[list[int], list[int]], right: tuple[list[int], list[int]], rank: int, data: int, model: int
) -> None:
    case = f"Rank {rank} of a mesh of {data} x {model}"
    if found == right[::-1]:
        raise Hint("The two are swapped: the *model* group holds one replica together; the data group comes first.")
    if found == tuple([one for one in group if one != rank] for group in right):
        raise Hint(f"{case}: a rank is in its own groups too.")
    for mine, size, name in zip(found, (data, model), ("data", "model"), strict=True):
        if not mine or max(mine) >= data * model or min(mine) < 0:
            raise Hint(f"{case}: there are ranks 0 to {data * model - 1}; your {name} group is {mine}.")
        if rank not in mine:
            raise Hint(f"{case}: your {name} group is {mine}, and it is not in it itself.")
        if len(mine) != size:
            raise Hint(f"{case}: a {name} group has {size} ranks; yours has {len(mine)}.")
    row, column = rank % data, rank // data
    if found == (list(range(column * data, (column + 1) * data)), list(range(row, data * model, data))):
        raise Hint(f"{case}: you count down the columns. Neighbouring ranks hold *one* replica: count along the rows.")
    wrong = next(i for i in (0, 1) if found[i] != right[i])
    raise Hint(
        f"{case}: its {('data', 'model')[wrong]} group is not {found[wrong]}. Which row is it in, and which column, if "
        f"each row has {model}?"
    )


@exercise("gradients of a part of the weights, and inputs of a part of the batch: both bills get smaller")
def hybrid_bytes(answer: Any) -> None:
    """`answer(layers, batch, data, model)`: bytes that a rank sends in a step, split both ways at once."""
    layers = [(34_944, 0), (307_456, 69_984), (37_752_832, 9_216)]
    cases = [(layers, 128, 2, 2), (layers[1:], 60, 3, 4), ([(1_000, 50)], 12, 6, 1), ([(1_000, 50)], 12, 1, 6)]
    found = [number(answer(list(layers), *rest)) for layers, *rest in cases]
    right = [sent(*case) for case in cases]
    if _same(found, right):
        return
    _wrong_numbers(found, [_wrong_bills(*case) for case in cases])
    place = next(i for i in range(len(cases)) if not _same(found[i : i + 1], right[i : i + 1]))
    several, batch, data, model = cases[place]
    if model == 1:
        raise Hint("With model=1 there is nothing to send but gradients: it is data parallelism.")
    if data == 1:
        raise Hint("With data=1 there are no gradients to add up: it is a split by neurons.")
    raise Hint(
        f"For {several}, batch {batch}, {data} x {model} ranks it is {right[place]:,.0f}; yours is "
        f"{found[place]:,.0f}. Among how many ranks is each exchange, and what do they have: which part of the "
        "weights, and which part of the batch?"
    )


def sent(layers: Sequence[Layer], batch: int, data: int, model: int) -> float:
    """Bytes that a rank of a mesh of data x model ranks sends in a step."""
    return sum(by_data(w / model, data) + by_neurons(inputs, batch / data, model) for w, inputs in layers)


def _wrong_bills(layers: Sequence[Layer], batch: int, data: int, model: int) -> list[tuple[float, str]]:
    weights, inputs, ranks = sum(w for w, _ in layers), sum(a for _, a in layers), data * model
    gradients, values = by_data(weights / model, data), by_neurons(inputs, batch / data, model)
    replica = "A replica sees a part of the batch, so that its ranks gather a part of what all would."
    part = "A rank has a part of the weights, and adds up their gradients alone."
    return [
        ((gradients + values) / 4, "Those are numbers: each has four bytes."),
        (gradients, "That is what it sends for gradients. Within a replica the ranks exchange what layers take in."),
        (values, "That is what it sends within a replica. Between replicas gradients are added up."),
        (gradients + by_neurons(inputs, batch, model), replica),
        (by_data(weights, data) + values, part),
        (by_data(weights, data) + by_neurons(inputs, batch, model), f"{part} And: {replica[0].lower()}{replica[1:]}"),
        (
            by_data(weights, ranks) + by_neurons(inputs, batch, ranks),
            "No exchange is among all ranks: a data group has `data` of them, a model group `model`.",
        ),
        (
            by_data(weights / model, ranks) + by_neurons(inputs, batch / data, ranks),
            "The parts are right; but no exchange is among all ranks: a data group has `data` of them.",
        ),
        (sent(layers, batch, model, data), "data and model are swapped: among how many are gradients added up?"),
        (sent(layers[:1], batch, data, model), "That is the first layer's alone: add up all layers."),
        (ranks * (gradients + values), "That is what all ranks send together: one rank's is asked for."),
    ]


def _words(found: Any, count: int) -> list[str]:
    """The answer, if it is a word for each layer."""
    if not isinstance(given(found), list | tuple):
        raise Hint(f'Return a list with a word for each layer, "data" or "neurons"; yours is a {type(found).__name__}.')
    if len(found) != count:
        raise Hint(f"{count} layers want {count} words; yours are {len(found)}.")
    for word in found:
        if not isinstance(word, str) or word not in ("data", "neurons"):
            raise Hint(f'Each word is "data" or "neurons"; one of yours is {word!r}.')
    return list(found)


def _two_groups(found: Any) -> tuple[list[int], list[int]]:
    """The answer, if it is two groups of ranks; their order does not matter."""
    if not isinstance(given(found), list | tuple) or len(found) != 2:
        raise Hint("Return two lists of ranks: the data group, and the model group.")
    if all(one is ... or one is None for one in found):
        given(found[0])
    groups = []
    for each in found:
        if not isinstance(each, list | tuple | range | set):
            raise Hint(f"Return two lists of ranks; one of yours is of type {type(each).__name__}.")
        if not all(isinstance(rank, int) and not isinstance(rank, bool) for rank in each):
            raise Hint("Ranks are whole numbers, from 0 on.")
        groups.append(sorted(each))
    return groups[0], groups[1]


def _same(found: Sequence[float], right: Sequence[float]) -> bool:
    """To four digits."""
    return all(abs(mine - one) <= 1e-4 * abs(one) for mine, one in zip(found, right, strict=True))


def _wrong_numbers(found: list[float], wrong_ones: list[list[tuple[float, str]]]) -> None:
    """Raise the hint of the first mistake that gives what was found in all cases: `wrong_ones` has a row a case."""
    for mistakes in zip(*wrong_ones, strict=True):
        if _same(found, [number for number, _ in mistakes]):
            raise Hint(mistakes[0][1])
