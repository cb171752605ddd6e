import torch
from rehearsed.examples import images, labels

from dlkit import data


def split(on):
    return data.Split(on.inputs(images()), on.inputs(labels()))


def picked(on, index):
    part = split(on)[index]
    return part.images, part.labels


def dataset(on):
    whole = data.Dataset(split(on), split(on), split(on)).full_train
    return whole.images, whole.labels


NO_TENSORS = {
    "Patches": "what `patches` makes, on the CPU",
    "bars_and_stripes": "a size",
    "load": "a name",
    "patches": "sizes",
    "tones": "numbers",
    "verify": "files",
}
CASES = {
    "Batch": lambda on: data.Batch(on.inputs(images()), on.inputs(labels()))[:2],
    "Dataset": dataset,
    "Split": {
        "slice": lambda on: picked(on, slice(2, 4)),
        "mask": lambda on: picked(on, labels() == 1),  # of the CPU, wherever the images are
        "mask there": lambda on: picked(on, on.inputs(labels() == 1)),
        "indices": lambda on: picked(on, torch.tensor([4, 1])),
        "list": lambda on: picked(on, [4, 1]),
    },
    "as_mnist": lambda on: data.as_mnist(on.inputs(images(1, 40)[0])),
    "check": lambda on: data.check(on.inputs(images()), labels(), classes=3),
}
