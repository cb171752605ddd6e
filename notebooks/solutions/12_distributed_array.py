"""Solutions to the exercises of notebook 12, each with a line of why. Try first: the checks give hints."""

import torch

from dlkit.models import RICAStage

# 1. What windows see. The first window begins at first * stride - padding, the last one ends a kernel after it begins;
#    and what lies beside the image is not there to be seen.


def seen(first, last, kernel, stride, padding, length):
    start, stop = first * stride - padding, (last - 1) * stride - padding + kernel
    return max(start, 0), min(stop, length)


# 2. The way back of a halo. A number that was copied to several ranks has a gradient from each, and they are summed. A
#    rank then keeps what belongs to its own tile.


def return_halo(gradients, tiles, seen):
    total = torch.zeros(tiles[-1][1])
    for gradient, (start, stop) in zip(gradients, seen, strict=True):
        total[start:stop] += gradient
    return [total[start:stop] for start, stop in tiles]


# 3. Untied weights. A window for each place, and for each place and filter a weight for each number in the window.


def untied(in_maps, maps, size, height, width, stride):
    high, wide = ((length - size) // stride + 1 for length in (height, width))
    return high * wide * maps * in_maps * size**2


# 4. Memory. The fullest rank has the rows and columns of places that are left over; a weight and a gradient have 4
#    bytes each.


def memory(high, wide, weights, rows, columns):
    return 8 * -(-high // rows) * -(-wide // columns) * weights


# The open task. Units that see the whole digit did best, and 190 filters of 28x28 are few enough. Rates of 0.0003 and
# 0.001 did not get as far in 200 steps, and units that see less of the digit were worse.


def detector():
    generator = torch.Generator().manual_seed(0)
    net = RICAStage(1, 190, 28, (28, 28), pool=(1, 1), contrast=None, sparsity=0.1, generator=generator)

    def values(net, images):
        return net.filters(images[:, None]).flatten(1)

    return net, values, 0.003
