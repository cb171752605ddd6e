"""A convolution, cell by cell, and the sub-sampling after it: the numbers behind each pixel of a map."""

import copy
from collections.abc import Sequence

import ipywidgets as widgets
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dlkit.analysis.convolution_steps import (
    check_parts,
    convolution_windows,
    convolve_cell,
    padded,
    pool_cell,
    sub_sampling_windows,
)
from dlkit.analysis.features import Region
from dlkit.models.convolution import Subsample
from dlkit.ui.controls.elements import FULL_LABEL, WRAP, icon_button, number_box
from dlkit.ui.controls.pointed_image import PointedImage
from dlkit.ui.draw.convolution_html import convolution_html, sub_sampling_html
from dlkit.ui.draw.map_sheets import MARGIN, framed, scaled
from dlkit.ui.draw.pictures import caption_html, grey, png

SIDE = 224  # pixels, at most: a side of the larger picture
CONVOLUTION, SUB_SAMPLING = "Convolution", "Sub-sampling"
EXPLAINED = {
    "average": "The average of these values is the framed pixel of the smaller map; there is nothing to learn in it",
    "max": "The largest of these values is the framed pixel of the smaller map; there is nothing to learn in it",
    "strided": "The first of these values is the framed pixel of the smaller map; there is nothing to learn in it",
    "trainable": "The sum of these values, times a weight, plus a bias, is the framed pixel of the smaller map. The "
    "same 2 numbers are used at each of the map's places: weights are shared",
}


class ConvolutionStepper(widgets.VBox):
    """One cell of a map at a time: what it sees of an image, times a kernel, summed, and squashed; then sub-sampled.

    The pointer or the arrow keys on either picture choose a cell; the buttons and the film go along the rows. Give the
    parts of a net: a `convolution` that takes one map, as `net.c1[0]`, its `activation`, as `net.c1[1]`, and the
    `sub_sampling` of its maps, as `net.s1[0]`. The widget keeps copies: later training does not change what it shows.
    ValueError if the convolution takes several maps, has dilation, or padding by anything but zeros, or if the parts do
    not fit each other or the images.
    """

    def __init__(
        self,
        images: Float[Tensor, "images height width"],
        convolution: nn.Conv2d,
        activation: nn.Module,
        sub_sampling: Subsample,
    ):
        check_parts(images, convolution, activation, sub_sampling)
        self.convolution = copy.deepcopy(convolution).cpu().eval()
        self.activation = copy.deepcopy(activation).cpu().eval()
        self.sub_sampling = copy.deepcopy(sub_sampling).cpu().eval()
        self.images = padded(images.detach().cpu().to(self.convolution.weight.dtype), self.convolution)
        seen = convolution_windows((self.images.shape[1], self.images.shape[2]), self.convolution)
        self.windows = {CONVOLUTION: seen, SUB_SAMPLING: sub_sampling_windows(seen.cells, self.sub_sampling)}
        small = self.windows[SUB_SAMPLING].cells
        if min(seen.cells) < 1 or min(small) < 1:
            raise ValueError(
                f"images of {_by(seen.shape)} pixels are too small for kernels of {_by(seen.size)} and sub-sampling at "
                f"steps of {self.sub_sampling.stride}: give larger ones."
            )
        self.mode = widgets.ToggleButtons(options=[CONVOLUTION, SUB_SAMPLING], style={"button_width": "110px"})
        self.image = number_box("Image", len(images) - 1, "120px")
        maps = list(range(self.convolution.out_channels))
        self.map = widgets.Dropdown(options=maps, description="Map", layout={"width": "110px"}, style=FULL_LABEL)
        self.previous = icon_button("chevron-left", "Previous cell", lambda: self._walk(-1))
        self.next = icon_button("chevron-right", "Next cell", lambda: self._walk(+1))
        self.play = widgets.Play(max=seen.cells[0] * seen.cells[1] - 1, interval=400, show_repeat=False)
        self.left, self.right = PointedImage(), PointedImage()
        self.left_title, self.right_title, self.arithmetic, self.caption = (widgets.HTML() for _ in range(4))
        self.mode.observe(self._change_mode, "value")
        self._go_to(seen.cells[0] // 2, seen.cells[1] // 2)
        self._draw()
        for control in (self.image, self.map, self.play):
            control.observe(self._draw, "value")
        for picture in (self.left, self.right):
            picture.observe(self._point, "place")
        controls = [self.mode, self.image, self.map, self.previous, self.next, self.play]
        shown = [
            widgets.VBox([self.left_title, self.left]),
            self.arithmetic,
            widgets.VBox([self.right_title, self.right]),
        ]
        super().__init__(
            [
                widgets.HBox(controls, layout=WRAP),
                self.caption,
                widgets.HBox(shown, layout={**WRAP, "grid_gap": "16px"}),
            ]
        )

    def __repr__(self) -> str:
        shape = self.images.shape
        return f"ConvolutionStepper({shape[0]} images of {_by(shape[1:])}, {self.convolution.out_channels} maps)"

    @property
    def cell(self) -> tuple[int, int]:
        """Row and column, counted from 0, of the cell that is shown."""
        row, column = divmod(self.play.value, self.windows[self.mode.value].cells[1])
        return row, column

    def _go_to(self, row: int, column: int) -> None:
        """Show this cell, or the nearest one of the map."""
        down, across = self.windows[self.mode.value].cells
        with self.play.hold_trait_notifications():
            self.play.max = down * across - 1
            self.play.value = min(row, down - 1) * across + min(column, across - 1)

    def _walk(self, by: int) -> None:
        self.play.value = (self.play.value + by) % (self.play.max + 1)

    def _point(self, change: dict) -> None:
        self._go_to(*change["owner"].cell())

    def _change_mode(self, change: dict) -> None:
        """Go to the cell of the smaller map that sees the present one, or to the first cell that this one sees."""
        row, column = divmod(self.play.value, self.windows[change["old"]].cells[1])
        stride = self.sub_sampling.stride
        if change["new"] == SUB_SAMPLING:
            self._go_to(row // stride, column // stride)
        else:
            self._go_to(row * stride, column * stride)
        self._draw()

    @torch.no_grad()
    def _draw(self, change: object = None) -> None:
        number, (row, column), image = self.map.value, self.cell, self.images[self.image.value]
        weight, bias, stride = self.convolution.weight, self.convolution.bias, self.convolution.stride
        maps = self.activation(F.conv2d(image[None, None], weight, bias, stride))  # the image is padded already
        large, small = maps[0, number], self.sub_sampling(maps)[0, number]
        most = max(_largest(large), _largest(small))
        large_grey, small_grey = (scaled(values[None], most)[0] for values in (large, small))
        if self.mode.value == CONVOLUTION:
            least, greatest = self.images.min(), self.images.max()
            before, after = grey((image[None] - least) / (greatest - least).clamp_min(1e-12))[0], large_grey
            cell = convolve_cell(image, self.convolution, self.activation, number, row, column)
            shade, name = int(after[row, column]), type(self.activation).__name__
            self.arithmetic.value = convolution_html(cell, name, _largest(self.images), shade)
        else:
            before, after = large_grey, small_grey
            cell = pool_cell(large, self.sub_sampling, number, row, column)
            shade = int(after[row, column])
            self.arithmetic.value = sub_sampling_html(cell, self.sub_sampling, number, most, shade)
        self._show(before, after)
        self.caption.value = caption_html(self._caption_text())

    def _show(self, before: UInt8[np.ndarray, "height width"], after: UInt8[np.ndarray, "high wide"]) -> None:
        """Show both pictures, with frames around the cell and what it sees; the pointer's place is in the frame."""
        (row, column), windows, number = self.cell, self.windows[self.mode.value], self.map.value
        field, itself = windows.field(row, column), Region(slice(row, row + 1), slice(column, column + 1))
        zoom = max(SIDE // max(*windows.shape, *windows.cells), 1)
        names = f"Image {self.image.value}", f"Map {number}"
        if self.mode.value == SUB_SAMPLING:
            names = names[1], f"{names[1]}, sub-sampled"
        (down, across), whole = windows.cells, tuple((0.0, float(count)) for count in windows.cells)
        for picture, title, name, pixels, frame, (rows, columns) in (
            (self.left, self.left_title, names[0], before, field, windows.centres()),
            (self.right, self.right_title, names[1], after, itself, whole),
        ):
            sheet = framed(pixels, frame, zoom)
            high, wide = sheet.shape[:2]
            title.value = f"<b>{name}</b>, {_by(pixels.shape)}"
            with picture.hold_sync():
                picture.cells = [across, down]
                picture.box = [
                    (MARGIN + zoom * edge) / length
                    for edge, length in ((columns[0], wide), (rows[0], high), (columns[1], wide), (rows[1], high))
                ]
                picture.go_to(row, column)
                picture.alt = f"{name} in grey, with a frame around {_rows_and_columns(frame)}."
                picture.value = png(sheet)

    def _caption_text(self) -> str:
        """Which cell it is, on a line of its own so that the pictures do not move; then how its value is computed."""
        (row, column), windows, number = self.cell, self.windows[self.mode.value], self.map.value
        field, (high, wide), (down, across) = windows.field(row, column), windows.size, windows.cells
        where = (
            f"<b>Map {number}, row {row}, column {column}</b> (counted from 0): it sees {_rows_and_columns(field)} of"
        )
        how = "Point at either picture, or click on one and use the arrow keys. In maps, mid-grey is 0."
        if self.mode.value == SUB_SAMPLING:
            over = " The windows overlap." if windows.stride < windows.size else ""
            out = "; the rest of its window sticks out" if windows.sticks_out(row, column) else ""
            return f"{where} map {number} before sub-sampling{out}.<br>{EXPLAINED[self.sub_sampling.kind]}.{over} {how}"
        bias = self.convolution.bias is not None
        with_bias, and_bias = (" with the bias", " and the bias") if bias else ("", "")
        padding = " with the zeros around it" if any(self.convolution.padding) else ""
        return (
            f"{where} image {self.image.value}{padding}.<br>Each pixel times the kernel's number at its place, all "
            f"added up{with_bias}, and {type(self.activation).__name__} of that: this is the framed pixel of the map. "
            f"The same {high * wide + bias} numbers, the kernel{and_bias}, are used at each of the map's "
            f"{down}×{across} places: weights are shared. {how}"
        )


def _largest(values: Tensor) -> float:
    """The largest magnitude, to divide by."""
    return max(float(values.abs().max()), 1e-12)


def _by(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _rows_and_columns(field: Region) -> str:
    parts = []
    for name, part in (("row", field.rows), ("column", field.columns)):
        first, last = part.start, part.stop - 1
        parts.append(f"{name} {first}" if first == last else f"{name}s {first} to {last}")
    return " and ".join(parts)
