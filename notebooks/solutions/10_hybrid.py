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
