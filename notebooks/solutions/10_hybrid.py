"""Solutions to the exercises of notebook 10, each with a line of why. Try first: the checks give hints."""

# 1. The crossing. 4 * 2 * (n - 1) / n * weights = 4 * 3 * (n - 1) / n * inputs * batch: all that has to do with the
#    ranks is on both sides.


def crossing_batch(weights, inputs, ranks):
    return 2 * weights / (3 * inputs)


# 2. The cheaper split. Larger than its crossing batch: by data. Multiplied out, so that inputs may be 0.


def cheaper(layers, batch, ranks):
    return ["data" if 2 * weights < 3 * inputs * batch else "neurons" for weights, inputs in layers]


# 3. The mesh. Ranks are counted along its rows: a row is a replica, and a column has the same part of each of them.


def groups(rank, data, model):
    row, column = rank // model, rank % model
    return [column + model * i for i in range(data)], [row * model + i for i in range(model)]


# 4. Both at once. Of a layer a rank has 1 / model of the weights, whose gradients it adds up with `data` ranks; and
#    with `model` ranks it exchanges what 1 / data of the batch takes in.


def hybrid_bytes(layers, batch, data, model):
    gradients = sum(2 * (data - 1) / data * weights / model for weights, _ in layers)
    values = sum(3 * (model - 1) / model * inputs * batch / data for _, inputs in layers)
    return 4 * (gradients + values)
