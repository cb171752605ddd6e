"""The open task of notebook 10: a split of AlexNet for two machines, under a limit of memory."""

from collections.abc import Iterator
from typing import Any

from dlkit.exercises import Answer, Hint, Points, task
from dlkit.exercises.answers import listed, number, whole
from dlkit.exercises.layer_bills import ALEXNET, LIMIT, MACHINE, MACHINES, Mesh, exchange_seconds, held_bytes


@task
def plan(answer: Answer) -> Iterator[Points]:
    """`answer()`: for each layer of AlexNet a mesh (data, model) of 8 ranks, and the milliseconds of its exchanges."""
    meshes, expected = _planned(answer())
    held = held_bytes(meshes)
    yield Points(4 if held <= LIMIT else 0, 4, f"{LIMIT / 1e6:.0f} MB a rank: yours takes {held / 1e6:.1f} MB")
    milliseconds = 1e3 * exchange_seconds(meshes)
    points = sum(milliseconds < limit for limit in (90, 100, 115, 130))
    yield Points(points, 4, f"exchanges take {milliseconds:.1f} ms a step; 4 points below 90 ms, 1 below 130")
    error = abs(expected / milliseconds - 1)
    yield Points(
        (error < 0.02) + (error < 0.2), 2, f"you expected {expected:.4g} ms; 2 points within 2 %, 1 within 20 %"
    )


def _planned(answer: Any) -> tuple[list[Mesh], float]:
    """The meshes and the milliseconds, if that is the answer. Raises Hint if not."""
    pair = listed(answer)
    if pair is None or len(pair) != 2:
        raise Hint("Return two things: a list of meshes, and the milliseconds that you expect.")
    rows = listed(pair[0])
    if rows is None or len(rows) != len(ALEXNET):
        raise Hint(f"Return a mesh for each of AlexNet's {len(ALEXNET)} layers, conv1 to fc8, in one list.")
    meshes = []
    for name, row in zip(ALEXNET, rows, strict=True):
        mesh = listed(row)
        if mesh is None or len(mesh) != 2:
            raise Hint(f"A mesh is a pair (data, model); yours for {name} is {row!r}.")
        data, model = (whole(number) for number in mesh)
        if min(data, model) < 1 or data * model != MACHINE * MACHINES:
            raise Hint(f"{name}: {data} x {model} is no mesh of {MACHINE * MACHINES} ranks.")
        meshes.append((data, model))
    return meshes, number(pair[1])
