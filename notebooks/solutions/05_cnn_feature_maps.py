"""Solutions to the exercises of notebook 05, each with a line of why. Try first: the checks give hints."""

import torch
from torch import nn

# 1. A convolution. The window is as large as the kernel and goes wherever all of it fits in; the kernel stays the same.


def convolve(image, kernel, bias):
    size = len(kernel)
    height, width = image.shape
    feature_map = torch.zeros(height - size + 1, width - size + 1)
    for r in range(height - size + 1):
        for c in range(width - size + 1):
            feature_map[r, c] = (kernel * image[r : r + size, c : c + size]).sum() + bias
    return feature_map


# 2. What it has to learn. A kernel for each connection, used at every place of the map; a bias for each map.


def parameters(table, size):
    return sum(len(row) * size**2 + 1 for row in table)


# 3. Sub-sampling. Height becomes (height / 2, 2) and width (width / 2, 2): the two twos together are a window.


def sub_sample(maps, kind):
    count, height, width = maps.shape
    windows = maps.reshape(count, height // 2, 2, width // 2, 2)
    return windows.mean((2, 4)) if kind == "average" else windows.amax((2, 4))


# 4. The receptive field. `step` is how many pixels apart two neighbours below are; a window of `size` of them has
#    size - 1 such steps. A stride widens the steps of all layers above its own.


def receptive_field(layers):
    seen, step = 1, 1
    for size, stride in layers:
        seen += (size - 1) * step
        step *= stride
    return seen


# 5. A small net: 10 of 10 points. Three things save numbers. Halve the image first: strokes are two or three pixels
#    wide, and of four pixels one is enough. One convolution of seven kernels is cheap in parameters, and at half the
#    width also in connections. And the output, which is fully connected, has most of the parameters: another halving
#    before it, by maxima, leaves it a quarter.


def small_net():
    return nn.Sequential(
        nn.Unflatten(1, (1, 28)),
        nn.AvgPool2d(2),  # 1 x 14 x 14
        nn.Conv2d(1, 7, 5),  # 7 x 10 x 10
        nn.ReLU(),
        nn.MaxPool2d(2),  # 7 x 5 x 5
        nn.Flatten(),
        nn.Linear(175, 10),
    )
