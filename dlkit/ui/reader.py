"""Draw a digit and see what nets make of it: each feature map, and what they read."""

from collections.abc import Callable, Mapping

import ipywidgets as widgets
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from dlkit.analysis.feature_maps import layer_views
from dlkit.analysis.features import map_layers
from dlkit.core.evaluation import logits
from dlkit.data.drawing import as_mnist, shrunk
from dlkit.ui.controls.drawing_pad import DrawingPad
from dlkit.ui.draw.map_sheets import scaled
from dlkit.ui.draw.pictures import GREY, LINE, bars, caption_html, captioned, grey, put

WIDTH, GAP = 640, 4  # pixels: the sheet of maps; between two of them
TALLEST, SMALLEST = 96, 10  # pixels: of a map on the sheet
SEEN = 112  # pixels: the drawing, as it is and as MNIST has it


def sheet(net: nn.Module, image: Float[Tensor, "height width"]) -> UInt8[np.ndarray, "rows columns"]:
    """All maps of all layers for this image, a strip a layer; grey is 0, and each layer has a scale of its own."""
    looks = layer_views(net, image, map_layers(net, image))
    return np.concatenate([_strip(name, found.output) for name, found in looks.items()])


def _strip(name: str, found: Float[Tensor, "maps height width"]) -> UInt8[np.ndarray, "rows columns"]:
    """One layer's maps side by side, under their name, each pixel of a map a square."""
    count, height, width = found.shape
    columns = min(count, (WIDTH + GAP) // (SMALLEST + GAP))
    room = min(TALLEST, (WIDTH + GAP) // columns - GAP)
    tall, wide = (max(room * length // max(height, width), 1) for length in (height, width))
    rows = -(-count // columns)
    strip = Image.new("L", (WIDTH, LINE + rows * (tall + GAP)), "white")
    draw = ImageDraw.Draw(strip)
    text = f"{name}: {count} maps of {height}x{width}" if height * width > 1 else f"{name}: {count} units"
    draw.text((0, 1), text, fill="black", font=ImageFont.load_default(12))
    for place, one in enumerate(scaled(found, float(found.abs().max()))):
        row, column = divmod(place, columns)
        x, y = column * (wide + GAP), LINE + row * (tall + GAP)
        strip.paste(Image.fromarray(one).resize((wide, tall), Image.Resampling.NEAREST), (x, y))
        draw.rectangle((x, y, x + wide - 1, y + tall - 1), outline=GREY)  # or a white map would be lost on white
    return np.array(strip)


class DigitReader(widgets.VBox):
    """A pad, and beside it each map of `nets[name]` for what was drawn, and what each net reads.

    A drawing is cropped, scaled and centred as MNIST's digits were (`dlkit.data.drawing.as_mnist`), and shown both
    ways. `sources` are buttons that read other images: each is called for one of 28x28, in [0, 1]. `show(image)` reads
    one too; `image` is what is read now.
    ValueError for no nets, or nets that do not take images of 28x28.
    """

    def __init__(
        self, nets: Mapping[str, nn.Module], sources: Mapping[str, Callable[[], Float[Tensor, "28 28"]]] | None = None
    ):
        if not isinstance(nets, Mapping) or not nets:
            raise ValueError('no nets to read with: give some by name, such as {"LeNet-5": net}.')
        self.nets = dict(nets)
        self.image = torch.zeros(28, 28)
        self.raw: Tensor | None = None  # the drawing, merely shrunk
        for net in self.nets.values():
            map_layers(net, self.image)
        self.pad = DrawingPad()
        self.net = widgets.ToggleButtons(options=list(self.nets), style={"button_width": "150px"})
        self.caption, self.chart = widgets.HTML(), widgets.HTML()
        self.seen, self.sheet = widgets.Image(format="png"), widgets.Image(format="png")
        self.pad.observe(self._drawn, "lifted")
        self.net.observe(self._draw, "value")
        self.buttons = [self._button(name, take) for name, take in (sources or {}).items()]
        self._draw()
        others = widgets.HBox(self.buttons, layout={"flex_flow": "row wrap"})
        left = widgets.VBox([self.pad, others, self.seen, self.chart], layout={"width": "310px"})
        right = widgets.VBox([self.net, self.sheet])
        beside = widgets.HBox([left, right], layout={"align_items": "flex-start", "flex_flow": "row wrap"})
        super().__init__([self.caption, beside])

    def __repr__(self) -> str:
        return f"DigitReader({', '.join(self.nets)})"

    def show(self, image: Float[Tensor, "28 28"]) -> None:
        """Read an image as it is; the pad is cleared. ValueError for one of another size."""
        if tuple(image.shape) != (28, 28) or not image.is_floating_point():
            what = f"shape {tuple(image.shape)}, {image.dtype}"
            raise ValueError(f"an image of {what}: give one of (28, 28), with numbers from 0 to 1.")
        self.image, self.raw = image.detach().float().cpu(), None
        self.pad.clear()
        self._draw()

    def _button(self, name: str, take: Callable[[], Tensor]) -> widgets.Button:
        button = widgets.Button(description=name, layout={"width": "138px"})
        button.on_click(lambda _: self.show(take()))
        return button

    def _drawn(self, change: object = None) -> None:
        drawing = self.pad.drawing
        self.image, self.raw = as_mnist(drawing), shrunk(drawing)
        self._draw()

    def _draw(self, change: object = None) -> None:
        read = self._read(self.image)
        drawn = ({} if self.raw is None else {"as drawn": self.raw}) | {"as read": self.image}
        put(captioned(grey(torch.stack(list(drawn.values()))), list(drawn), 2, SEEN), self.seen)
        put(sheet(self.nets[self.net.value], self.image), self.sheet)
        self.chart.value = bars(read[self.net.value].tolist(), f"p(digit), {self.net.value}")
        self.caption.value = caption_html(self._words(read))

    def _read(self, image: Tensor) -> dict[str, Tensor]:
        """p(class | image), as each net has it."""
        return {name: logits(net, image[None]).softmax(1)[0].cpu() for name, net in self.nets.items()}

    def _words(self, read: dict[str, Tensor]) -> str:
        how = "Draw a digit, large, with mouse, pen or finger; or with arrow keys and Space."
        if not self.image.any():
            return f"{how} When the pen is lifted, the nets read it, and each of their maps is drawn."
        answers = ", ".join(f"{name} reads {_best(p)}" for name, p in read.items())
        text = f"<b>{answers}.</b> White is positive, black negative, grey 0; each layer has a scale of its own."
        if self.raw is not None:
            raw = ", ".join(f"{name} would read {_best(p)}" for name, p in self._read(self.raw).items())
            text += f" As drawn, neither scaled nor centred, {raw}."
        return f"{text}<br>{how}"


def _best(p: Float[Tensor, " classes"]) -> str:
    return f"{int(p.argmax())} (p = {float(p.max()):.2f})"
