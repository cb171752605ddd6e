"""Labelled images by the name of their data set, split into train, validation and test."""

import gzip
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dlkit.core.text_table import as_html
from dlkit.data import files
from dlkit.data.batch import describe_images

NAMES = ("mnist", *files.FETCHED)
HELD_OUT = 10_000

S = TypeVar("S", bound="Split")

_decoded: dict[str, np.ndarray] = {}  # by the file's hash, so that a changed file is decoded anew


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images (n, height, width), or features (n, units), and their labels (n,) or None.

    `split[:100]`, `split[mask]` and `split[indices]` give a Split with copies of these images.
    """

    images: Float[Tensor, "n *shape"]
    labels: Int64[Tensor, "n"] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self: S, index: object) -> S:  # not Self, which beartype's import hook cannot check
        if not isinstance(index, slice | Tensor | np.ndarray | list):
            raise TypeError(f"split[{index!r}] is no Split: use split.images[{index!r}], split[:100] or split[mask].")
        if isinstance(index, Tensor):
            index = index.to(self.images.device)
        labels = None if self.labels is None else self.labels[index].clone()
        return replace(self, images=self.images[index].clone(), labels=labels)

    def __repr__(self) -> str:
        labels = "no labels" if self.labels is None else "labelled"
        return f"{type(self).__name__}({describe_images(self.images)}, {labels})"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A data set: `train` to learn from, `validation` to choose hyper-parameters, `test` to report the result once."""

    train: Split
    validation: Split
    test: Split
    name: str = ""

    @property
    def full_train(self) -> Split:
        """Train and validation together, as a copy: for the final training, when hyper-parameters are chosen."""
        images = torch.cat([self.train.images, self.validation.images])
        if self.train.labels is None or self.validation.labels is None:
            return Split(images)
        return Split(images, torch.cat([self.train.labels, self.validation.labels]))

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, train={self.train}, validation={self.validation}, test={self.test})"

    def _repr_html_(self) -> str:
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        rows = [
            (
                name,
                f"{len(split):,}",
                "x".join(map(str, split.images.shape[1:])),
                "yes" if split.labels is not None else "no",
            )
            for name, split in splits.items()
        ]
        return as_html((self.name, "images", "shape", "labels"), rows)


def load(name: str = "mnist", *, binarise: str | None = None, seed: int = 0, root: str | Path | None = None) -> Dataset:
    """The data set called `name`: float32 images (n, height, width) in [0, 1] and int64 labels (n,).

    "mnist" comes with dlkit (50,000 / 10,000 / 10,000 images of 28x28). "fashion-mnist" is downloaded at its first
    use. Validation is the last 10,000 of the 60,000 training images, as in the Theano tutorials' mnist.pkl.gz. Each
    call reads and checks the files again and makes new tensors.

    binarise: "threshold" sets pixels above 1/2 to 1 and others to 0; "sample" sets each pixel to 1 with a probability
    equal to its intensity, once (as Salakhutdinov, Murray 2008). The sample depends only on `seed` and the split: its
    bits come from numpy's PCG64, which is the same in all versions of numpy (NEP 19).

    Raises FileNotFoundError, ValueError or ConnectionError; the message says what to do.
    """
    if name not in NAMES:
        raise ValueError(_unknown(name))
    if binarise not in (None, "sample", "threshold"):
        raise ValueError(f"binarise={binarise!r} is not known: use None, 'sample' or 'threshold'.")
    paths = files.fetch(name, root) if name in files.FETCHED else files.checksums(name, files.data_root(root))
    arrays = {path.name.removesuffix("-ubyte.gz"): _read_idx(path, checksum) for path, checksum in paths.items()}
    images, labels = arrays["train-images-idx3"], arrays["train-labels-idx1"]
    pairs = [
        (images[:-HELD_OUT], labels[:-HELD_OUT]),
        (images[-HELD_OUT:], labels[-HELD_OUT:]),
        (arrays["t10k-images-idx3"], arrays["t10k-labels-idx1"]),
    ]
    streams = np.random.SeedSequence(seed).spawn(len(pairs))
    splits = [
        Split(torch.from_numpy(_float32(pixels, binarise, stream)), torch.from_numpy(classes.astype(np.int64)))
        for (pixels, classes), stream in zip(pairs, streams, strict=True)
    ]
    return Dataset(*splits, name=name)


def _read_idx(path: Path, checksum: str) -> np.ndarray:
    """The uint8 array in a gzipped IDX file, read-only. Source of the format: LeCun, Cortes, Burges, the MNIST page."""
    raw = files.read(path, checksum)
    if checksum not in _decoded:
        raw = gzip.decompress(raw)
        rank = raw[3]
        shape = np.frombuffer(raw, ">u4", count=rank, offset=4)
        _decoded[checksum] = np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)
    return _decoded[checksum]


def _float32(pixels: np.ndarray, binarise: str | None, stream: np.random.SeedSequence) -> np.ndarray:
    """uint8 pixels as float32: in [0, 1], or 0 and 1 if they are to be binarised."""
    if binarise == "threshold":
        return (pixels > 127).astype(np.float32)
    if binarise == "sample":
        return _sampled(pixels, np.random.PCG64(stream)).astype(np.float32)
    return np.divide(pixels, np.float32(255), dtype=np.float32)  # five times as fast as torch.div from uint8


def _sampled(pixels: np.ndarray, bits: np.random.PCG64) -> np.ndarray:
    """True with probability pixels / 255: exactly for 0 and 255, to within 1/65,536 for other values."""
    # Raw bits, because numpy may change the numbers of Generator's methods from version to version.
    words = bits.random_raw(-(-pixels.size // 4)).astype("<u8", copy=False)
    uniform = words.view("<u2")[: pixels.size].reshape(pixels.shape)
    return (uniform < pixels * np.uint16(257)) | (pixels == 255)


def _unknown(name: str) -> str:
    """The error message for a name that is no data set."""
    if name == "photos":
        return "'photos' are not labelled images: data.patches() cuts patches from them."
    near = get_close_matches(name.lower(), NAMES, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else "."
    return f"no data set is called {name!r}: there are {', '.join(map(repr, NAMES))}{guess}"
