"""A small RBM as a picture: its units, which of them are on, and the weights between those; and small images."""

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.collections import LineCollection
from torch import Tensor

from dlkit.models import RBM
from dlkit.ui.draw.pictures import BLUE, GREY, VERMILION, Picture, enlarged, figure, png, show, tile


def draw_rbm(rbm: RBM, v: Float[Tensor, " visible"], h: Float[Tensor, " hidden"]) -> Picture:
    """The RBM in the joint state (v, h): units that are on are black; the weights between these are drawn.

    A blue weight is positive and lowers the energy, a vermilion weight is negative; the thicker, the larger.
    """
    fig, ax = figure(7, 2.4)
    columns = [np.linspace(0, 1, units) for units in (rbm.visible, rbm.hidden)]
    W = rbm.W.detach()
    pairs = [(i, j) for i in torch.nonzero(v)[:, 0].tolist() for j in torch.nonzero(h)[:, 0].tolist()]
    weights = np.array([float(W[i, j]) for i, j in pairs])
    ends = [((columns[0][i], 0), (columns[1][j], 1)) for i, j in pairs]
    widths = 3 * np.abs(weights) / max(float(W.abs().max()), 1e-12)
    colours = [BLUE if weight > 0 else VERMILION for weight in weights]
    ax.add_collection(LineCollection(ends, linewidths=widths, colors=colours, zorder=0))
    for x, y, states in zip(columns, (0, 1), (v, h), strict=True):
        fill = ["black" if on else "white" for on in states.tolist()]
        ax.scatter(x, np.full(len(x), y), s=160, c=fill, edgecolors="black")
    ax.set(xlim=(-0.05, 1.05), ylim=(-0.3, 1.3), xticks=[], yticks=[0, 1], yticklabels=["visible", "hidden"])
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    on = int(v.sum()), int(h.sum())
    return show(
        fig,
        f"{rbm.visible} visible units below, {on[0]} on; {rbm.hidden} hidden units above, {on[1]} on; the weights "
        f"between those that are on: {int((weights > 0).sum())} positive, {int((weights < 0).sum())} negative.",
    )


def small_images(images: Float[Tensor, "images height width"], alt: str, columns: int, zoom: int = 7) -> Picture:
    """Small images in a grid, each pixel repeated zoom x zoom times."""
    pixels = np.pad(tile(enlarged(images, zoom), columns, gap=3), 3, constant_values=GREY)
    return Picture(png(pixels), alt, width=pixels.shape[1])
