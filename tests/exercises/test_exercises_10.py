"""Notebook 10: each usual mistake has a hint of its own, and no answer is an error message."""

import pytest
import torch
from answers import solutions, verdict
from ranks import team
from torch.distributed.device_mesh import init_device_mesh

from dlkit.exercises import hybrid as check

SOLUTIONS = solutions("10_hybrid")
NAMES = ["crossing_batch", "cheaper", "groups", "hybrid_bytes"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nonsense", ["three", [1.0], torch.zeros(2, 7), float("nan"), True, (None, 1), [[1]], {}])
def test_nonsense_is_answered_in_a_line(capsys, name, nonsense):
    assert verdict(capsys, getattr(check, name), lambda *_: nonsense).startswith("✗ Not yet")


# 1. The crossing batch.


CROSSINGS = {
    "sent more than once": lambda w, a, n: w / a,
    "a factor of 3": lambda w, a, n: 2 * w / a,
    "goes round the ring twice": lambda w, a, n: w / a / 3,
    "Upside down": lambda w, a, n: 3 * a / (2 * w),
    "which of the two is sent three times": lambda w, a, n: 3 * w / (2 * a),
    "four bytes on both sides": lambda w, a, n: w / (6 * a),
    "does it not cancel": lambda w, a, n: 2 * (n - 1) / n * w / (3 * a),
    "do not divide by the ranks": lambda w, a, n: 2 * w / (3 * a * n),
    "do not multiply by the ranks": lambda w, a, n: 2 * w * n / (3 * a),
    "Rounded": lambda w, a, n: -(-2 * w // (3 * a)),
    "With 307,456 weights, 69,984 inputs and 2 ranks it is 2.929; yours is 7": lambda w, a, n: 7,
    "With 1,000 weights": lambda w, a, n: 2 * w / (3 * a) if n != 3 else 7,
    "a finite number": lambda w, a, n: float("inf"),
    "yours is of type tuple": lambda w, a, n: (w, a),
}


@pytest.mark.parametrize("hint", CROSSINGS)
def test_a_wrong_crossing_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.crossing_batch, CROSSINGS[hint])


def test_at_the_crossing_both_send_the_same():
    for weights, inputs, world_size in [(307_456, 69_984, 2), (11, 7, 5)]:
        batch = SOLUTIONS["crossing_batch"](weights, inputs, world_size)
        assert check.by_data(weights, world_size) == pytest.approx(check.by_neurons(inputs, batch, world_size))


# 2. The cheaper split.


def chosen(passes=1.5, batch=lambda batch, world_size: batch):
    def answer(layers, images, world_size):
        limit = passes * batch(images, world_size)
        return ["data" if weights < limit * inputs else "neurons" for weights, inputs in layers]

    return answer


CHOICES = {
    "The wrong way round": lambda *case: [
        {"data": "neurons", "neurons": "data"}[word] for word in SOLUTIONS["cheaper"](*case)
    ],
    'All of them by "data"': lambda layers, *_: ["data"] * len(layers),
    'All of them by "neurons"': lambda layers, *_: ["neurons"] * len(layers),
    "leaves the batch out": chosen(batch=lambda batch, world_size: 1),
    "count the passes": chosen(1),
    "travels forward, and its gradients are added up": chosen(0.5),
    "that of all ranks together": chosen(batch=lambda batch, world_size: batch / world_size),
    "takes in 0 numbers": lambda layers, batch, n: ["data" if a < 5_000 else "neurons" for _, a in layers],
    "by data 3,983,616 bytes, by neurons 74,760,192; you chose neurons": lambda *case: [
        *SOLUTIONS["cheaper"](*case)[:2],
        "neurons",
        *SOLUTIONS["cheaper"](*case)[3:],
    ],
    "5 layers want 5 words; yours are 1": lambda *_: ["data"],
    "one of yours is 'model'": lambda layers, *_: ["model"] * len(layers),
    "one of yours is 1": lambda layers, *_: [1] * len(layers),
    "yours is a str": lambda *_: "data",
}


@pytest.mark.parametrize("hint", CHOICES)
def test_a_wrong_choice_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.cheaper, CHOICES[hint])


def test_who_computes_the_bytes_is_right_too(capsys):
    def by_bytes(layers, batch, world_size):
        ring = (world_size - 1) / world_size
        sizes = [{"data": 8 * ring * weights, "neurons": 12 * ring * inputs * batch} for weights, inputs in layers]
        return tuple(min(ways, key=lambda name: ways[name]) for ways in sizes)

    assert verdict(capsys, check.cheaper, by_bytes).startswith("✓")


# 3. The mesh.


def along(rank, data, model):
    row, column = divmod(rank, model)
    return list(range(column, data * model, model)), list(range(row * model, row * model + model))


def without(rank, *groups):
    return tuple([other for other in group if other != rank] for group in groups)


def down(rank, data, model):
    column, row = divmod(rank, data)
    return list(range(column * data, column * data + data)), list(range(row, data * model, data))


MESHES = {
    "The two are swapped": lambda *case: along(*case)[::-1],
    "a rank is in its own groups too": lambda rank, *mesh: without(rank, *along(rank, *mesh)),
    "there are ranks 0 to 5; your data group is [1, 3, 5, 7]": lambda rank, d, m: ([1, 3, 5, 7], [0, 1]),
    "it is not in it itself": lambda rank, d, m: ([1, 2, 3], along(rank, d, m)[1]),
    "a data group has 3 ranks; yours has 2": lambda rank, d, m: ([rank, 5 - rank], along(rank, d, m)[1]),
    "you count down the columns": down,
    "its model group is not [0, 2]": lambda rank, d, m: (along(rank, d, m)[0], [rank, (rank + 2) % 6]),
    "yours is of type int": lambda *_: (0, 1),
    "Return two lists of ranks: the data group": lambda *case: [*along(*case), []],
    "Ranks are whole numbers": lambda *_: ([0.0], ["1"]),
}


@pytest.mark.parametrize("hint", MESHES)
def test_wrong_groups_get_their_hint(capsys, hint):
    line = verdict(capsys, check.groups, MESHES[hint])
    assert hint in line or (hint == "yours is of type int" and "one of yours is of type int" in line)


def test_groups_may_be_of_another_type_and_order(capsys):
    def ranges(rank, data, model):
        start = rank // model * model
        return set(range(rank % model, data * model, model)), range(start + model - 1, start - 1, -1)

    assert verdict(capsys, check.groups, ranges).startswith("✓")


def test_the_groups_are_those_of_torch_s_own_mesh():
    def mine(shape):
        import torch.distributed as dist

        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "model"))
        groups = [dist.get_process_group_ranks(mesh.get_group(name)) for name in ("data", "model")]
        return tuple(groups)

    for rank, groups in enumerate(team(4).call(mine, (2, 2))):
        assert groups == SOLUTIONS["groups"](rank, 2, 2)


# 4. The bytes of a mesh.


def total(gradients=lambda w, d, m: 2 * (d - 1) / d * w / m, values=lambda a, b, d, m: 3 * (m - 1) / m * a * b / d):
    """4 bytes for each number of these sums over layers."""

    def answer(layers, batch, data, model):
        return 4 * sum(gradients(w, data, model) + values(a, batch, data, model) for w, a in layers)

    return answer


right = total()
BILLS = {
    "each has four bytes": lambda *case: right(*case) / 4,
    "Within a replica the ranks exchange": total(values=lambda *_: 0),
    "Between replicas gradients are added up": total(gradients=lambda *_: 0),
    "a part of what all would": total(values=lambda a, b, d, m: 3 * (m - 1) / m * a * b),
    "adds up their gradients alone": total(lambda w, d, m: 2 * (d - 1) / d * w),
    "alone. And: a replica sees": total(
        lambda w, d, m: 2 * (d - 1) / d * w, lambda a, b, d, m: 3 * (m - 1) / m * a * b
    ),
    "No exchange is among all ranks": total(
        lambda w, d, m: 2 * (d * m - 1) / (d * m) * w, lambda a, b, d, m: 3 * (d * m - 1) / (d * m) * a * b
    ),
    "The parts are right; but": total(
        lambda w, d, m: 2 * (d * m - 1) / (d * m) * w / m, lambda a, b, d, m: 3 * (d * m - 1) / (d * m) * a * b / d
    ),
    "data and model are swapped": lambda layers, batch, d, m: right(layers, batch, m, d),
    "the first layer's alone": lambda layers, *rest: right(layers[:1], *rest),
    "what all ranks send together": lambda layers, batch, d, m: d * m * right(layers, batch, d, m),
    "it is data parallelism": lambda layers, batch, d, m: right(layers, batch, d, m) + (m == 1),
    "it is a split by neurons": lambda layers, batch, d, m: right(layers, batch, d, m) + (d == 1),
    "batch 128, 2 x 2 ranks it is 106,603,264; yours is 5": lambda *_: 5,
    "yours is of type list": lambda *_: [1, 2],
}


@pytest.mark.parametrize("hint", BILLS)
def test_a_wrong_bill_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.hybrid_bytes, BILLS[hint])


def test_a_mesh_of_one_row_or_column_is_one_of_the_two():
    layers = [(1_000, 50), (300, 7)]
    assert check.bytes_sent(layers, 12, 4, 1) == pytest.approx(sum(check.by_data(w, 4) for w, _ in layers))
    assert check.bytes_sent(layers, 12, 1, 4) == pytest.approx(sum(check.by_neurons(a, 12, 4) for _, a in layers))
