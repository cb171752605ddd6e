"""Solutions to the exercises of notebook 10, each with a line of why. Try first: the checks give hints."""

# 1. The crossing. 4 * 2 * (n - 1) / n * weights = 4 * 3 * (n - 1) / n * inputs * batch: (n - 1) / n is on both sides,
#    so the number of ranks cancels.


def crossing_batch(weights, inputs, world_size):
    return 2 * weights / (3 * inputs)


# 2. The cheaper split. If the batch is larger than the layer's crossing batch: by data. Multiplied out, so that inputs
#    may be 0.


def cheaper(layers, batch, world_size):
    return ["data" if 2 * weights < 3 * inputs * batch else "neurons" for weights, inputs in layers]


# 3. The mesh. Ranks are counted along its rows: a row is a replica, and a column has the same part of each of them.


def groups(rank, data, model):
    row, column = rank // model, rank % model
    return [column + model * i for i in range(data)], [row * model + i for i in range(model)]


# 4. Both at once. A rank has 1 / model of a layer's weights, and adds up their gradients with `data` ranks. With
#    `model` ranks it exchanges the layer's inputs, for 1 / data of the batch.


def hybrid_bytes(layers, batch, data, model):
    gradients = sum(2 * (data - 1) / data * weights / model for weights, _ in layers)
    values = sum(3 * (model - 1) / model * inputs * batch / data for _, inputs in layers)
    return 4 * (gradients + values)


# 5. Statistics in parts. A value's square distance from the mean of the whole is, on average over a part, the part's
#    variance and the square of how far the two means are apart. No large numbers are subtracted after they are squared.


def combined(parts):
    total = sum(count for count, _, _ in parts)
    mean = sum(count * part_mean for count, part_mean, _ in parts) / total
    squares = sum(count * (variance + (part_mean - mean) ** 2) for count, part_mean, variance in parts)
    return total, mean, squares / total


# The open task. fc6, fc7 and fc8 take least time as (2, 4), where their inputs stay on the fast line. But then a rank
# needs 284 MB. As (1, 8) fc6 frees 47 MB for 10 ms more, which is enough; fc7 would free only 21 MB. The convolutions
# have so few weights that their gradients are quick even on the slow line.

LAYERS = {
    "conv1": (34_944, 0),
    "conv2": (307_456, 69_984),
    "conv3": (885_120, 43_264),
    "conv4": (663_936, 64_896),
    "conv5": (442_624, 64_896),
    "fc6": (37_752_832, 9_216),
    "fc7": (16_781_312, 4_096),
    "fc8": (4_097_000, 4_096),
}


def bill(meshes, batch=512, fast=10e9, slow=1e9):
    """Milliseconds of a step's exchanges, and bytes of memory of a rank."""
    seconds = memory = 0
    for (weights, inputs), (data, model) in zip(LAYERS.values(), meshes, strict=True):
        gradients = 4 * 2 * (data - 1) / data * weights / model
        values = 4 * 3 * (model - 1) / model * inputs * batch / data
        # Ranks of a data group are `model` apart, so that it reaches over both machines, unless it is one rank alone.
        # A model group is `model` neighbours: up to 4 of them are in one machine.
        seconds += gradients / slow + values / (fast if model <= 4 else slow)
        memory += 12 * weights / model + 4 * inputs * batch / data
    return 1000 * seconds, memory


def plan():
    meshes = [(8, 1)] * 5 + [(1, 8), (2, 4), (2, 4)]
    milliseconds, _ = bill(meshes)
    return meshes, milliseconds


# The written part, as one may answer it.
# 1. fc6: (2, 4) takes 40 ms and 123 MB, (1, 8) takes 50 ms and 75 MB. With fc6, fc7 and fc8 all as (2, 4) a rank needs
#    more than 250 MB. I gave up the time of fc6, since it alone frees enough.
# 2. fc7 becomes (1, 8) as well: with both lines equally fast its bytes decide, and it sends less so than as (2, 4).
#    conv2 to conv5 stay: by data they send least, on any line.
# 3. One of: gradients travel while lower layers still compute, so the plan is quicker than the bill says. Each message
#    has a latency, so it is slower. Activations have to change hands where the mesh changes from layer to layer, which
#    the rules do not count in full, so it is slower.
