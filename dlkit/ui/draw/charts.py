"""Charts as SVG text, in less than a millisecond, and figures of an RBM's weights and units; pure functions."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from dlkit.models.rbm import RBM
from dlkit.ui.draw.pictures import BLACK, BLUE, GREEN, ORANGE, SKY, VERMILION, figure

Points = Sequence[tuple[float, float]]

COLOURS = (BLUE, ORANGE, GREEN)
WIDTH, HEIGHT = 240, 130  # pixels of a panel
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 24, 30  # pixels: the margins of a panel
MOST = 200  # points of a line that are drawn, about


def panels(lines: Mapping[str, Points], x_label: str) -> str:
    """An SVG of small line charts side by side, each with its own scale, from titles and points (x, y).

    A title has the unit; the alt text says each line's first and last value.
    """
    charts = [_panel(title, points, x_label, i) for i, (title, points) in enumerate(lines.items())]
    summary = "; ".join(_summary(title, points, x_label) for title, points in lines.items())
    width = WIDTH * len(lines)
    return (
        f'<svg width="{width}" height="{HEIGHT}" viewBox="0 0 {width} {HEIGHT}" role="img" '
        f'aria-label="{escape(summary)}" '
        f'font-family="sans-serif" font-size="11" fill="currentColor">{"".join(charts)}</svg>'
    )


def _summary(title: str, points: Points, x_label: str) -> str:
    if not points:
        return f"{title}: nothing yet"
    return f"{title}: from {points[0][1]:.4g} to {points[-1][1]:.4g} at {x_label} {points[-1][0]:.3g}"


def _panel(title: str, points: Points, x_label: str, number: int) -> str:
    low, high = _range([y for _, y in points])
    end = max((x for x, _ in points), default=1.0) or 1.0
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    last = f": {points[-1][1]:.4g}" if points else ""
    thinned = [*points[:: -(-len(points) // MOST)], points[-1]] if points else []
    path = " ".join(
        f"{LEFT + x / end * (right - LEFT):.1f},{bottom - (y - low) / (high - low) * (bottom - TOP):.1f}"
        for x, y in thinned
        if abs(y) < float("inf")
    )
    frame = f"M{LEFT},{TOP} V{bottom} H{right}"
    return (
        f'<g transform="translate({WIDTH * number} 0)">'
        f'<text x="4" y="14" font-weight="bold">{escape(title)}{last}</text>'
        f'<path d="{frame}" fill="none" stroke="currentColor" stroke-opacity="0.5"/>'
        f'<text x="{LEFT - 4}" y="{TOP + 8}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{LEFT - 4}" y="{bottom}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{LEFT}" y="{bottom + 14}">0</text>'
        f'<text x="{right}" y="{bottom + 14}" text-anchor="end">{escape(x_label)} {end:.3g}</text>'
        f'<polyline points="{path}" fill="none" stroke="{COLOURS[number % len(COLOURS)]}" stroke-width="2"/></g>'
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The least and the largest finite value; 1 apart if they are equal."""
    finite = [value for value in values if abs(value) < float("inf")]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def bars(values: Sequence[float], title: str, width: int = 300, height: int = 130) -> str:
    """An SVG of a bar for each class, with its value over it and its number under it.

    The bars are scaled to fill the height; the title and the values are the alt text.
    """
    top, bottom = 34, height - 18
    pitch, most, least = width / len(values), max(*values, 0), min(*values, 0)
    unit = (bottom - top) / max(most - least, 1e-12)
    zero = top + most * unit
    shapes = []
    for number, value in enumerate(values):
        x, y = number * pitch, zero - max(value, 0) * unit
        shapes.append(
            f'<rect x="{x + 0.1 * pitch:.1f}" y="{y:.1f}" width="{0.8 * pitch:.1f}" height="{abs(value) * unit:.1f}" '
            f'fill="{BLUE if value >= 0 else VERMILION}"/>'
            f'<text x="{x + pitch / 2:.1f}" y="{y - 3:.1f}" font-size="10">{value:.2f}</text>'
            f'<text x="{x + pitch / 2:.1f}" y="{height - 5}">{number}</text>'
        )
    alt = f"{title}: " + ", ".join(f"{number}: {value:.2f}" for number, value in enumerate(values))
    return (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(alt)}" font-family="sans-serif" font-size="11" fill="currentColor" '
        f'text-anchor="middle"><text x="{width / 2:.0f}" y="12">{escape(title)}</text>{"".join(shapes)}</svg>'
    )


def draw_probabilities(p: Float[Tensor, "hidden images"], labels: Int[Tensor, " images"] | None = None) -> Figure:
    """Hidden probabilities in grey: a row for each unit, a column for each image; white is 1.

    With `labels`, of images that are sorted by them, the axis names the classes, and lines part them.
    Source: Hinton 2010, A practical guide to training restricted Boltzmann machines, §15.
    """
    fig, ax = figure(7, 3.2)
    shown = ax.imshow(p.cpu().numpy(), cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    ax.set(xlabel="image", ylabel="hidden unit")
    if labels is not None:
        classes, counts = labels.cpu().unique_consecutive(return_counts=True)
        ends = counts.cumsum(0)
        for end in ends[:-1].tolist():
            ax.axvline(end - 0.5, color=VERMILION, linewidth=1)
        ax.set_xticks((ends - counts / 2 - 0.5).tolist(), [str(label) for label in classes.tolist()])
        ax.set_xlabel(f"class of the image ({p.shape[1]} images)")
    fig.colorbar(shown, ax=ax, label="p(h = 1)")
    return fig


def draw_histograms(rbm: RBM, updates: Mapping[str, Tensor]) -> Figure:
    """Histograms: the magnitudes of weights and of their updates, with the range that is advised; and both biases.

    Sources: Hinton 2010, §7 (updates about a thousandth of the weights) and §15.
    """
    fig, (sizes, biases) = figure(8.5, 2.8, columns=2)
    weights = _decades(rbm.W)
    bins = np.linspace(-9, 2, 111).tolist()
    sizes.hist(weights, bins=bins, color=BLUE, label="weights")
    sizes.hist(_decades(updates["W"]), bins=bins, color=ORANGE, alpha=0.8, label="their updates")
    middle = float(rbm.W.detach().abs().mean().log10()) - 3
    sizes.axvspan(middle - 1, middle + 1, color=SKY, alpha=0.35, label="mean weight / 1000,\nwithin a decade")
    sizes.axvline(float(updates["W"].abs().mean().log10()), color=BLACK, ls="--", label="mean update")
    sizes.set(xlabel="size, powers of ten", ylabel="number", xlim=(-7, 4))
    sizes.legend(fontsize=7, frameon=False, loc="upper right")
    both = [rbm.a.detach().cpu().numpy(), rbm.b.detach().cpu().numpy()]
    biases.hist(both, bins=40, color=[BLUE, GREEN], label=["visible", "hidden"])
    biases.set(xlabel="bias (nats)", ylabel="units")
    biases.legend(fontsize=8, frameon=False)
    return fig


def _decades(values: Tensor) -> np.ndarray:
    """log10 of the magnitudes of all values that are not 0."""
    sizes = values.detach().abs().flatten()
    return torch.log10(sizes[sizes > 0]).cpu().numpy()
