"""Figures for diagnostics: pure functions. Quick line charts are SVG text, which takes well under a millisecond."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from dlkit.models.rbm import RBM
from dlkit.ui.draw.pictures import BLACK, BLUE, GREEN, ORANGE, SKY, figure

Points = Sequence[tuple[float, float]]

COLOURS = (BLUE, ORANGE, GREEN)
WIDTH, HEIGHT = 240, 130  # of a panel, pixels
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 24, 30  # margins
MOST = 200  # points drawn of a line


def panels(lines: Mapping[str, Points], x_label: str) -> str:
    """An SVG of small charts side by side, one a line, each with a scale of its own; its name is the alt text.

    A line is its title, unit included, and its points (x, y).
    """
    drawn = [_panel(title, points, x_label, i) for i, (title, points) in enumerate(lines.items())]
    summary = "; ".join(_said(title, points, x_label) for title, points in lines.items())
    width = WIDTH * len(lines)
    return (
        f'<svg width="{width}" height="{HEIGHT}" viewBox="0 0 {width} {HEIGHT}" role="img" '
        f'aria-label="{escape(summary)}" '
        f'font-family="sans-serif" font-size="11" fill="currentColor">{"".join(drawn)}</svg>'
    )


def _said(title: str, points: Points, x_label: str) -> str:
    if not points:
        return f"{title}: nothing yet"
    return f"{title}: from {points[0][1]:.4g} to {points[-1][1]:.4g} at {x_label} {points[-1][0]:.3g}"


def _panel(title: str, points: Points, x_label: str, place: int) -> str:
    low, high = _range([y for _, y in points])
    end = max((x for x, _ in points), default=1.0) or 1.0
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    now = f": {points[-1][1]:.4g}" if points else ""
    thinned = [*points[:: -(-len(points) // MOST)], points[-1]] if points else []
    path = " ".join(
        f"{LEFT + x / end * (right - LEFT):.1f},{bottom - (y - low) / (high - low) * (bottom - TOP):.1f}"
        for x, y in thinned
        if abs(y) < float("inf")
    )
    frame = f"M{LEFT},{TOP} V{bottom} H{right}"
    return (
        f'<g transform="translate({WIDTH * place} 0)">'
        f'<text x="4" y="14" font-weight="bold">{escape(title)}{now}</text>'
        f'<path d="{frame}" fill="none" stroke="currentColor" stroke-opacity="0.5"/>'
        f'<text x="{LEFT - 4}" y="{TOP + 8}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{LEFT - 4}" y="{bottom}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{LEFT}" y="{bottom + 14}">0</text>'
        f'<text x="{right}" y="{bottom + 14}" text-anchor="end">{escape(x_label)} {end:.3g}</text>'
        f'<polyline points="{path}" fill="none" stroke="{COLOURS[place % len(COLOURS)]}" stroke-width="2"/></g>'
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Of the finite values, at least a little wide."""
    finite = [value for value in values if abs(value) < float("inf")]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def probabilities(p: Float[Tensor, "hidden images"]) -> Figure:
    """Hidden probabilities as a grey picture, a row a unit, a column an image; white is 1. Source: Hinton 2010, §15."""
    fig, ax = figure(7, 3.2)
    shown = ax.imshow(p.cpu().numpy(), cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    ax.set(xlabel="image", ylabel="hidden unit")
    fig.colorbar(shown, ax=ax, label="p(h = 1)")
    return fig


def histograms(rbm: RBM, updates: Mapping[str, Tensor]) -> Figure:
    """Weights and their updates by size, with the band in which updates should be; and both biases.

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
    """log10 of the sizes of all values but zeros."""
    sizes = values.detach().abs().flatten()
    return torch.log10(sizes[sizes > 0]).cpu().numpy()
