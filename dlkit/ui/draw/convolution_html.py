"""The arithmetic of one cell of a map as HTML: the products of a convolution, or the window of sub-sampling."""

from html import escape
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from dlkit.analysis.convolution_steps import ConvolvedCell, PooledCell
from dlkit.core.text_table import format_number
from dlkit.models.convolution import Subsample

POSITIVE, NEGATIVE = "0, 114, 178", "213, 94, 0"  # Okabe and Ito's blue and vermilion
STYLE = f"<style>{Path(__file__).with_name('convolution.css').read_text(encoding='utf-8')}</style>"


def convolution_html(cell: ConvolvedCell, activation: str, most: float, shade: int) -> str:
    """Patch × kernel = products, their sum, and the cell's value.

    `activation` is the name of its function, `most` the largest magnitude of a pixel, and `shade` (0 to 255) the grey
    in which the map's picture shows the value.
    """
    count, largest_weight = cell.patch.numel(), max(float(cell.kernel.abs().max()), 1e-12)
    total = cell.total + (cell.bias or 0)
    lines = [(f"sum of {count} products", cell.total)]
    if cell.bias is not None:
        lines += [("+ bias", cell.bias), ("=", total)]
    lines.append((f"{activation}({format_number(total)}) =", cell.value))
    times, equal = (f'<div class="sign">{sign}</div>' for sign in "×=")
    patch, kernel = _table(cell.patch, "what it sees", most), _table(cell.kernel, "kernel", largest_weight)
    products = _table(cell.products, "products", most * largest_weight)
    parts = ["<div></div>", patch, times, kernel, equal, products, "<div></div>", _sum(lines, shade)]
    return f'{STYLE}<div class="dlkit-cell convolution">{"".join(parts)}</div>'


def sub_sampling_html(cell: PooledCell, sub_sampling: Subsample, number: int, most: float, shade: int) -> str:
    """The window on map `number`, and the cell's value.

    `most` is the largest magnitude in the map, and `shade` (0 to 255) the grey in which the picture shows the value.
    """
    count = cell.window.numel()
    lines = [(f"sum of {count} values", cell.total)]
    if sub_sampling.kind == "average":
        lines.append((f"÷ {count} =", cell.value))
    elif sub_sampling.kind == "max":
        lines = [("the largest =", cell.value)]
    elif sub_sampling.kind == "strided":
        lines = [("the first =", cell.value)]
    else:
        weight, bias = float(sub_sampling.weight[number]), float(sub_sampling.bias[number])
        lines += [(f"× weight, {format_number(weight)}, =", weight * cell.total), ("+ bias", bias), ("=", cell.value)]
    window = _table(cell.window, "what it sees", most, cell.chosen)
    return f'{STYLE}<div class="dlkit-cell sub-sampling">{window}{_sum(lines, shade)}</div>'


def _table(values: Float[Tensor, "high wide"], title: str, most: float, chosen: tuple[int, int] | None = None) -> str:
    """The values: blue above 0 and red below it, the deeper the nearer to ±`most`; `chosen` has a frame."""
    rows = []
    for row, line in enumerate(values.tolist()):
        cells = []
        for column, value in enumerate(line):
            tint = f"rgba({POSITIVE if value > 0 else NEGATIVE}, {0.6 * min(abs(value) / most, 1):.2f})"
            framed = ' class="chosen"' if (row, column) == chosen else ""
            cells.append(f'<td{framed} style="background: {tint}">{format_number(value)}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table class="values"><caption>{escape(title)}</caption>{"".join(rows)}</table>'


def _sum(lines: list[tuple[str, float]], shade: int) -> str:
    """A calculation, line by line; its last number is the pixel, shown in its shade of grey."""
    pixel = f'<td><span class="pixel" style="background: rgb{(shade,) * 3}"></span></td>'
    rows = [f'<td>{escape(text)}</td><td class="amount">{format_number(value)}</td>' for text, value in lines]
    rows[-1] += pixel
    return f'<table class="sum">{"".join(f"<tr>{row}</tr>" for row in rows)}</table>'
