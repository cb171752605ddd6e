"""All maps of all layers of a net for one image, in one picture."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from dlkit.analysis.feature_maps import layer_views
from dlkit.analysis.features import map_layers
from dlkit.ui.draw.map_sheets import scaled
from dlkit.ui.draw.pictures import GREY, LINE

WIDTH, GAP = 640, 4  # pixels: the picture; between two maps
TALLEST, SMALLEST = 96, 10  # pixels: the longer side of a map


def layer_strips(net: nn.Module, image: Float[Tensor, "height width"]) -> UInt8[np.ndarray, "rows columns"]:
    """All maps of all layers for this image, a strip for each layer; grey is 0, and each layer has its own scale."""
    views = layer_views(net, image, map_layers(net, image))
    return np.concatenate([_strip(name, view.output) for name, view in views.items()])


def _strip(name: str, maps: Float[Tensor, "maps height width"]) -> UInt8[np.ndarray, "rows columns"]:
    """A layer's maps side by side, under its name."""
    count, height, width = maps.shape
    columns = min(count, (WIDTH + GAP) // (SMALLEST + GAP))
    longest = min(TALLEST, (WIDTH + GAP) // columns - GAP)
    tall, wide = (max(longest * length // max(height, width), 1) for length in (height, width))
    rows = -(-count // columns)
    strip = Image.new("L", (WIDTH, LINE + rows * (tall + GAP)), "white")
    draw = ImageDraw.Draw(strip)
    text = f"{name}: {count} maps of {height}x{width}" if height * width > 1 else f"{name}: {count} units"
    draw.text((0, 1), text, fill="black", font=ImageFont.load_default(12))
    for i, pixels in enumerate(scaled(maps, float(maps.abs().max()))):
        row, column = divmod(i, columns)
        x, y = column * (wide + GAP), LINE + row * (tall + GAP)
        strip.paste(Image.fromarray(pixels).resize((wide, tall), Image.Resampling.NEAREST), (x, y))
        draw.rectangle((x, y, x + wide - 1, y + tall - 1), outline=GREY)  # a white map has no other edge on white
    return np.array(strip)
