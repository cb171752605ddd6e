"""One convolution, cell by cell, and the sub-sampling after it: the numbers behind each pixel of a map."""

import copy
from collections.abc import Sequence

import ipywidgets as widgets
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor, nn

from dlkit.analysis.features import Region
from dlkit.models.convolution import Subsample
from dlkit.ui.controls.pointed_image import PointedImage
from dlkit.ui.draw.convolution_html import (
    check_parts,
    convolution_html,
    convolution_windows,
    convolved,
    padded,
    pooled,
    sub_sampling_html,
    sub_sampling_windows,
)
from dlkit.ui.draw.map_sheets import scaled
from dlkit.ui.draw.pictures import GREY, ORANGE, caption_html, grey, png

SIDE, MARGIN = 224, 3  # pixels: of the larger picture, and around both
CONVOLUTION, SUB_SAMPLING = "Convolution", "Sub-sampling"
MADE = {
    "average": "The average of these values is the framed pixel of the smaller map; there is nothing to learn in it",
    "max": "The largest of these values is the framed pixel of the smaller map; there is nothing to learn in it",
    "strided": "The first of these values is the framed pixel of the smaller map; there is nothing to learn in it",
    "trainable": "The sum of these values, times a weight, plus a bias, is the framed pixel of the smaller map. The "
    "same 2 numbers are used at each of the map's places: weights are shared",
}


class ConvolutionStepper(widgets.VBox):
    """One output cell at a time: what it sees of an image, times a kernel, added up, squashed; then sub-sampled.

    The pointer or the arrow keys on either picture go to another cell, the buttons and the film along the rows.
    `convolution` takes one map, as `net.c1[0]`, whose activation is `net.c1[1]` and whose maps `sub_sampling`,
    `net.s1[0]`, makes smaller. They are shown as they are now: training goes on without this widget.
    ValueError for a convolution of more maps, or with dilation or padding by anything but zeros, and for what does not
    fit together.
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
        wide = {"description_width": "initial"}
        self.mode = widgets.ToggleButtons(options=[CONVOLUTION, SUB_SAMPLING], style={"button_width": "110px"})
        self.image = widgets.BoundedIntText(
            max=len(images) - 1, description="Image", layout={"width": "120px"}, style=wide
        )
        maps = list(range(self.convolution.out_channels))
        self.map = widgets.Dropdown(options=maps, description="Map", layout={"width": "110px"}, style=wide)
        self.back = widgets.Button(icon="chevron-left", tooltip="Previous cell", layout={"width": "40px"})
        self.on = widgets.Button(icon="chevron-right", tooltip="Next cell", layout={"width": "40px"})
        self.play = widgets.Play(max=seen.cells[0] * seen.cells[1] - 1, interval=400, show_repeat=False)
        self.left, self.right = PointedImage(), PointedImage()
        self.left_title, self.right_title, self.arithmetic, self.caption = (widgets.HTML() for _ in range(4))
        self.back.on_click(lambda _: self._walk(-1))
        self.on.on_click(lambda _: self._walk(+1))
        self.mode.observe(self._change_mode, "value")
        self._go_to(seen.cells[0] // 2, seen.cells[1] // 2)
        self._draw()
        for control in (self.image, self.map, self.play):
            control.observe(self._draw, "value")
        for picture in (self.left, self.right):
            picture.observe(self._point, "place")
        controls = [self.mode, self.image, self.map, self.back, self.on, self.play]
        shown = [
            widgets.VBox([self.left_title, self.left]),
            self.arithmetic,
            widgets.VBox([self.right_title, self.right]),
        ]
        super().__init__(
            [
                widgets.HBox(controls, layout={"flex_flow": "row wrap"}),
                self.caption,
                widgets.HBox(shown, layout={"flex_flow": "row wrap", "grid_gap": "16px"}),
            ]
        )

    def __repr__(self) -> str:
        shape = self.images.shape
        return f"ConvolutionStepper({shape[0]} images of {_by(shape[1:])}, {self.convolution.out_channels} maps)"

    @property
    def cell(self) -> tuple[int, int]:
        """Row and column, from 0, of the cell that is shown."""
        row, column = divmod(self.play.value, self.windows[self.mode.value].cells[1])
        return row, column

    def _go_to(self, row: int, column: int) -> None:
        """Show this cell, or the nearest that there is."""
        down, across = self.windows[self.mode.value].cells
        with self.play.hold_trait_notifications():
            self.play.max = down * across - 1
            self.play.value = min(row, down - 1) * across + min(column, across - 1)

    def _walk(self, steps: int) -> None:
        self.play.value = (self.play.value + steps) % (self.play.max + 1)

    def _point(self, change: dict) -> None:
        self._go_to(*change["owner"].cell())

    def _change_mode(self, change: dict) -> None:
        """Go on to the cell that the present one is sub-sampled to, or back to the first that it sees."""
        row, column = divmod(self.play.value, self.windows[change["old"]].cells[1])
        stride = self.sub_sampling.stride
        if change["new"] == SUB_SAMPLING:
            self._go_to(row // stride, column // stride)
        else:
            self._go_to(row * stride, column * stride)
        self._draw()

    @torch.no_grad()
    def _draw(self, change: object = None) -> None:
        of, (row, column), image = self.map.value, self.cell, self.images[self.image.value]
        weight, bias, stride = self.convolution.weight, self.convolution.bias, self.convolution.stride
        maps = self.activation(F.conv2d(image[None, None], weight, bias, stride))  # the image has its padding
        large, small = maps[0, of], self.sub_sampling(maps)[0, of]
        most = max(_largest(large), _largest(small))
        large_grey, small_grey = (scaled(each[None], most)[0] for each in (large, small))
        if self.mode.value == CONVOLUTION:
            least, greatest = self.images.min(), self.images.max()
            before, after = grey((image[None] - least) / (greatest - least).clamp_min(1e-12))[0], large_grey
            step = convolved(image, self.convolution, self.activation, of, row, column)
            shade, name = int(after[row, column]), type(self.activation).__name__
            self.arithmetic.value = convolution_html(step, name, _largest(self.images), shade)
        else:
            before, after = large_grey, small_grey
            step = pooled(large, self.sub_sampling, of, row, column)
            self.arithmetic.value = sub_sampling_html(step, self.sub_sampling, of, most, int(after[row, column]))
        self._show(before, after)
        self.caption.value = caption_html(self._words())

    def _show(self, before: UInt8[np.ndarray, "height width"], after: UInt8[np.ndarray, "high wide"]) -> None:
        """Both pictures, with frames around the cell and what it sees, and with the pointer's place there."""
        (row, column), windows, of = self.cell, self.windows[self.mode.value], self.map.value
        field, itself = windows.field(row, column), Region(slice(row, row + 1), slice(column, column + 1))
        zoom = max(SIDE // max(*windows.shape, *windows.cells), 1)
        names = f"Image {self.image.value}", f"Map {of}"
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
                    (MARGIN + zoom * part) / length
                    for part, length in ((columns[0], wide), (rows[0], high), (columns[1], wide), (rows[1], high))
                ]
                picture.go_to(row, column)
                picture.alt = f"{name} in grey, with a frame around {_words_of(frame)}."
                picture.value = png(sheet)

    def _words(self) -> str:
        """Where it is, on a line of its own, so that the pictures stay where they are; then what is done there."""
        (row, column), windows, of = self.cell, self.windows[self.mode.value], self.map.value
        field, (high, wide), (down, across) = windows.field(row, column), windows.size, windows.cells
        where = f"<b>Map {of}, row {row}, column {column}</b> (counted from 0): it sees {_words_of(field)} of"
        how = "Point at either picture, or click on one and use the arrow keys. In maps, mid-grey is 0."
        if self.mode.value == SUB_SAMPLING:
            over = " The windows overlap." if windows.stride < windows.size else ""
            out = "; the rest of its window sticks out" if windows.sticks_out(row, column) else ""
            return f"{where} map {of} before sub-sampling{out}.<br>{MADE[self.sub_sampling.kind]}.{over} {how}"
        bias = self.convolution.bias is not None
        with_bias, and_bias = (" with the bias", " and the bias") if bias else ("", "")
        padding = " with the zeros around it" if any(self.convolution.padding) else ""
        return (
            f"{where} image {self.image.value}{padding}.<br>Each pixel times the kernel's number at its place, all "
            f"added up{with_bias}, and {type(self.activation).__name__} of that: this is the framed pixel of the map. "
            f"The same {high * wide + bias} numbers, the kernel{and_bias}, are used at each of the map's "
            f"{down}×{across} places: weights are shared. {how}"
        )


def framed(pixels: UInt8[np.ndarray, "height width"], field: Region, zoom: int) -> UInt8[np.ndarray, "rows columns 3"]:
    """The pixels, each zoom x zoom, with an orange frame around `field`, and MARGIN around them all."""
    sheet = np.pad(pixels.repeat(zoom, 0).repeat(zoom, 1), MARGIN, constant_values=GREY)
    drawn = Image.fromarray(sheet).convert("RGB")
    (top, bottom), (left, right) = ((part.start * zoom, part.stop * zoom + 2 * MARGIN - 1) for part in field)
    ImageDraw.Draw(drawn).rectangle([left, top, right, bottom], outline=ORANGE, width=MARGIN)
    return np.array(drawn)


def _largest(values: Tensor) -> float:
    """The largest magnitude, to divide by."""
    return max(float(values.abs().max()), 1e-12)


def _by(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _words_of(field: Region) -> str:
    parts = []
    for name, part in (("row", field.rows), ("column", field.columns)):
        first, last = part.start, part.stop - 1
        parts.append(f"{name} {first}" if first == last else f"{name}s {first} to {last}")
    return " and ".join(parts)
