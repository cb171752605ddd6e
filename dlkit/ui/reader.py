"""Draw a digit and see which digit nets take it for, and each of their feature maps."""

from collections.abc import Callable, Mapping

import ipywidgets as widgets
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.analysis.features import map_layers
from dlkit.core.evaluation import logits
from dlkit.data.drawing import as_mnist, shrunk
from dlkit.ui.controls.drawing_pad import DrawingPad
from dlkit.ui.controls.elements import WRAP, WRAP_TOP, put
from dlkit.ui.draw.charts import bars
from dlkit.ui.draw.layer_strips import layer_strips
from dlkit.ui.draw.pictures import caption_html, captioned, grey

SEEN = 112  # pixels: the drawing, as drawn and as read


class DigitReader(widgets.VBox):
    """A pad to draw on, and beside it which digit each of the `nets` reads, and all maps of the chosen net.

    A drawing is cropped, scaled and centred as MNIST's digits were (`dlkit.data.drawing.as_mnist`); it is shown as
    drawn and as read. `sources` adds buttons, by name, for other images: each function returns an image of 28x28, in
    [0, 1]. `show(image)` reads an image too. `image` is the image that is read now.
    ValueError if there are no nets, or a net does not take images of 28x28.
    """

    def __init__(
        self, nets: Mapping[str, nn.Module], sources: Mapping[str, Callable[[], Float[Tensor, "28 28"]]] | None = None
    ):
        if not isinstance(nets, Mapping) or not nets:
            raise ValueError('no nets to read with: give some by name, such as {"LeNet-5": net}.')
        self.nets = dict(nets)
        self.image = torch.zeros(28, 28)
        self.raw: Tensor | None = None  # the drawing, only made smaller
        for net in self.nets.values():
            map_layers(net, self.image)
        self.pad = DrawingPad()
        self.net = widgets.ToggleButtons(options=list(self.nets), style={"button_width": "150px"})
        self.caption, self.chart = widgets.HTML(), widgets.HTML()
        self.seen, self.maps = widgets.Image(format="png"), widgets.Image(format="png")
        self.pad.observe(self._read_drawing, "lifted")
        self.net.observe(self._draw, "value")
        self.buttons = [self._button(name, source) for name, source in (sources or {}).items()]
        self._draw()
        others = widgets.HBox(self.buttons, layout=WRAP)
        left = widgets.VBox([self.pad, others, self.seen, self.chart], layout={"width": "310px"})
        right = widgets.VBox([self.net, self.maps])
        beside = widgets.HBox([left, right], layout=WRAP_TOP)
        super().__init__([self.caption, beside])

    def __repr__(self) -> str:
        return f"DigitReader({', '.join(self.nets)})"

    def show(self, image: Float[Tensor, "28 28"]) -> None:
        """Read this image, unchanged; the pad is cleared. ValueError if it is of another size."""
        if tuple(image.shape) != (28, 28) or not image.is_floating_point():
            what = f"shape {tuple(image.shape)}, {image.dtype}"
            raise ValueError(f"an image of {what}: give one of (28, 28), with numbers from 0 to 1.")
        self.image, self.raw = image.detach().float().cpu(), None
        self.pad.clear()
        self._draw()

    def _button(self, name: str, source: Callable[[], Tensor]) -> widgets.Button:
        button = widgets.Button(description=name, layout={"width": "138px"})
        button.on_click(lambda _: self.show(source()))
        return button

    def _read_drawing(self, change: object = None) -> None:
        drawing = self.pad.drawing
        self.image, self.raw = as_mnist(drawing), shrunk(drawing)
        self._draw()

    def _draw(self, change: object = None) -> None:
        probabilities = self._read(self.image)
        images = ({} if self.raw is None else {"as drawn": self.raw}) | {"as read": self.image}
        put(captioned(grey(torch.stack(list(images.values()))), list(images), 2, SEEN), self.seen)
        put(layer_strips(self.nets[self.net.value], self.image), self.maps)
        self.chart.value = bars(probabilities[self.net.value].tolist(), f"p(digit), {self.net.value}")
        self.caption.value = caption_html(self._caption_text(probabilities))

    def _read(self, image: Tensor) -> dict[str, Tensor]:
        """p(class | image) by each net."""
        return {name: logits(net, image[None]).softmax(1)[0].cpu() for name, net in self.nets.items()}

    def _caption_text(self, probabilities: dict[str, Tensor]) -> str:
        how = "Draw a digit, large, with mouse, pen or finger; or with arrow keys and Space."
        if not self.image.any():
            return f"{how} When the pen is lifted, the nets read it, and each of their maps is drawn."
        answers = ", ".join(f"{name} reads {_best(p)}" for name, p in probabilities.items())
        text = f"<b>{answers}.</b> White is positive, black negative, grey 0; each layer has a scale of its own."
        if self.raw is not None:
            raw = ", ".join(f"{name} would read {_best(p)}" for name, p in self._read(self.raw).items())
            text += f" As drawn, neither scaled nor centred, {raw}."
        return f"{text}<br>{how}"


def _best(p: Float[Tensor, " classes"]) -> str:
    return f"{int(p.argmax())} (p = {float(p.max()):.2f})"
