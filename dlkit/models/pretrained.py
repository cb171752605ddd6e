"""Models that come with dlkit, trained by `dlkit reproduce`: notebooks open alive on them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlkit.core.storage import read_tensors, write_tensors
from dlkit.data.files import data_root, listed, read
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
    """A model of data/pretrained/, in float32.

    "dbn", with labels; "autoencoder", Sequential(encoder, decoder); "convnet", the survey's network; or "lenet5", with
    softmax output. The last two learned from distorted digits.

    Stored in float16. data/pretrained/README.md says what made each, and how well it does on the test digits.
    ValueError for another name, and for a file that was altered; FileNotFoundError where it is missing.
    """
    if name not in NAMES:
        raise ValueError(f"no model {name!r} comes with dlkit: there are {', '.join(NAMES)}.")
    folder = data_root(root)
    path = folder / "pretrained" / f"{name}.safetensors"
    read(path, listed("pretrained", folder)[path])
    tensors, header = read_tensors(path)
    model = MAKERS[name](**json.loads(header["config"]))
    model.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    return model


def store(model: nn.Module, path: Path, config: dict[str, Any]) -> None:
    """Write a model as `pretrained` reads it: float16, which costs no digit of its error."""
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    write_tensors(tensors, path, {"config": json.dumps(config)})
