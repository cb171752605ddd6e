"""Trained models that come with dlkit, made by `dlkit reproduce`, so that notebooks need not train first."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlkit.core.storage import read_tensors, write_tensors
from dlkit.data.files import checksums, data_root, read
from dlkit.models.convnet import ConvNet, LeNet5
from dlkit.models.dbn import DBN

MAKERS: dict[str, Callable[..., nn.Module]] = {
    "dbn": DBN.of,
    "autoencoder": lambda sizes: DBN.of(sizes).autoencoder(),
    "convnet": ConvNet,
    "lenet5": LeNet5,
}
NAMES = tuple(MAKERS)


def pretrained(name: str, *, root: str | Path | None = None) -> Any:
    """A trained model from data/pretrained/, in float32 (the files hold float16).

    name: "dbn", with labels; "autoencoder", Sequential(encoder, decoder); "convnet", the survey's network; or "lenet5",
    with softmax output. The last two were trained on distorted digits. data/pretrained/README.md says how each was made
    and its error on the test digits. ValueError for another name or an altered file, FileNotFoundError for a missing
    one.
    """
    if name not in NAMES:
        raise ValueError(f"no model {name!r} comes with dlkit: there are {', '.join(NAMES)}.")
    folder = data_root(root)
    path = folder / "pretrained" / f"{name}.safetensors"
    read(path, checksums("pretrained", folder)[path])
    tensors, header = read_tensors(path)
    model = MAKERS[name](**json.loads(header["config"]))
    model.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    return model


def store(model: nn.Module, path: Path, config: dict[str, Any]) -> None:
    """Write a model for `pretrained` to read, in float16; its test error stays the same."""
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    write_tensors(tensors, path, {"config": json.dumps(config)})
