"""Models that come with dlkit, trained by `dlkit reproduce`: notebooks open alive on them."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlkit.data.files import data_root, listed, read
from dlkit.models.dbn import DBN
from dlkit.models.files import read_tensors, write_tensors

NAMES = ("dbn", "autoencoder")


def pretrained(name: str, *, root: str | Path | None = None) -> Any:
    """A model of data/pretrained/, in float32: "dbn", with labels, or "autoencoder", Sequential(encoder, decoder).

    Stored in float16. data/pretrained/README.md says what made each, and how well it does on the test digits.
    ValueError for another name, and for a file that was altered; FileNotFoundError where it is missing.
    """
    if name not in NAMES:
        raise ValueError(f"no model {name!r} comes with dlkit: there are {', '.join(NAMES)}.")
    folder = data_root(root)
    path = folder / "pretrained" / f"{name}.safetensors"
    read(path, listed("pretrained", folder)[path])
    tensors, header = read_tensors(path)
    config = json.loads(header["config"])
    model = DBN.of(**config) if name == "dbn" else DBN.of(config["sizes"]).autoencoder()
    model.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    return model


def store(model: nn.Module, path: Path, config: dict[str, Any]) -> None:
    """Write a model as `pretrained` reads it: float16, which costs no digit of its error."""
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    write_tensors(tensors, path, {"config": json.dumps(config)})
