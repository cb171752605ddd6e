"""Labelled images by name, split into train, validation and test."""

import gzip
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dlkit.data import files

NAMES = ("mnist", *files.FETCHED)
HELD_OUT = 10_000

S = TypeVar("S", bound="Split")

_decoded: dict[str, np.ndarray] = {}  # by hash of the file, so that nothing in it can be stale


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images (n, height, width), or (n, units) further up a stack, and their labels (n,), if they have any.

    `split[:100]`, `split[mask]` and `split[indices]` are Splits too, and copies.
    """

    images: Float[Tensor, "n *shape"]
    labels: Int64[Tensor, "n"] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self: S, index: object) -> S:  # not Self, which beartype's import hook cannot check
        if not isinstance(index, slice | Tensor | np.ndarray | list):
            raise TypeError(f"split[{index!r}] is no Split: use split.images[{index!r}], split[:100] or split[mask].")
        labels = None if self.labels is None else self.labels[index].clone()
        return replace(self, images=self.images[index].clone(), labels=labels)

    def __repr__(self) -> str:
        size = "x".join(str(n) for n in self.images.shape[1:])
        labels = "no labels" if self.labels is None else "labelled"
        return f"{type(self).__name__}({len(self):,} images of {size}, {labels})"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A data set by name: `train` to learn from, `validation` to choose by, `test` to report once."""

    train: Split
    validation: Split
    test: Split
    name: str = ""

    @property
    def full_train(self) -> Split:
        """Train, then validation, as a copy: all that may be learnt from once the choices are made."""
        images = torch.cat([self.train.images, self.validation.images])
        if self.train.labels is None or self.validation.labels is None:
            return Split(images)
        return Split(images, torch.cat([self.train.labels, self.validation.labels]))

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, train={self.train}, validation={self.validation}, test={self.test})"


def load(name: str = "mnist", *, binarise: str | None = None, seed: int = 0, root: str | Path | None = None) -> Dataset:
    """The data set called `name`: float32 images (n, height, width) in [0, 1] and int64 labels (n,).

    "mnist" comes with dlkit (50,000 / 10,000 / 10,000 images of 28x28). "fashion-mnist" is downloaded when it is
    first asked for. Validation is the last 10,000 of the 60,000 training images: the usual choice (the Theano
    tutorials' mnist.pkl.gz makes it too), and in no need of a random number. Each file is read and checked
    anew on each call, and the tensors are the caller's own.

    binarise: "threshold" turns pixels above 1/2 on; "sample" turns each on with a probability of its intensity, once
    (as Salakhutdinov, Murray 2008). The sample depends on `seed` and the split alone: its bits are those of numpy's
    PCG64, which numpy keeps the same in all versions (NEP 19).

    Raises FileNotFoundError, ValueError or ConnectionError, in one sentence with the mend.
    """
    if name not in NAMES:
        raise ValueError(_unknown(name))
    if binarise not in (None, "sample", "threshold"):
        raise ValueError(f"binarise={binarise!r} is not known: use None, 'sample' or 'threshold'.")
    paths = files.fetch(name, root) if name in files.FETCHED else files.listed(name, files.data_root(root))
    arrays = {path.name.removesuffix("-ubyte.gz"): _read_idx(path, known) for path, known in paths.items()}
    images, labels = arrays["train-images-idx3"], arrays["train-labels-idx1"]
    parts = [
        (images[:-HELD_OUT], labels[:-HELD_OUT]),
        (images[-HELD_OUT:], labels[-HELD_OUT:]),
        (arrays["t10k-images-idx3"], arrays["t10k-labels-idx1"]),
    ]
    streams = np.random.SeedSequence(seed).spawn(len(parts))
    splits = [
        Split(torch.from_numpy(_float32(pixels, binarise, stream)), torch.from_numpy(classes.astype(np.int64)))
        for (pixels, classes), stream in zip(parts, streams, strict=True)
    ]
    return Dataset(*splits, name=name)


def _read_idx(path: Path, known: str) -> np.ndarray:
    """The uint8 array of a gzipped IDX file (LeCun, Cortes, Burges: the MNIST page), read-only."""
    raw = files.read(path, known)
    if known not in _decoded:
        raw = gzip.decompress(raw)
        rank = raw[3]
        shape = np.frombuffer(raw, ">u4", count=rank, offset=4)
        _decoded[known] = np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)
    return _decoded[known]


def _float32(pixels: np.ndarray, binarise: str | None, stream: np.random.SeedSequence) -> np.ndarray:
    if binarise == "threshold":
        return (pixels > 127).astype(np.float32)
    if binarise == "sample":
        return _sampled(pixels, np.random.PCG64(stream)).astype(np.float32)
    return np.divide(pixels, np.float32(255), dtype=np.float32)  # five times as fast as torch.div from uint8


def _sampled(pixels: np.ndarray, bits: np.random.PCG64) -> np.ndarray:
    """True with probability pixels / 255: exactly so at 0 and 255, to 1 part in 65,536 between."""
    # Raw bits: numpy does not promise that Generator's methods draw the same numbers in its next version.
    words = bits.random_raw(-(-pixels.size // 4)).astype("<u8", copy=False)
    uniform = words.view("<u2")[: pixels.size].reshape(pixels.shape)
    return (uniform < pixels * np.uint16(257)) | (pixels == 255)


def _unknown(name: str) -> str:
    if name == "photos":
        return "'photos' are no labelled images: data.patches() cuts patches from them."
    near = get_close_matches(name.lower(), NAMES, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else "."
    return f"no data set is called {name!r}: there are {', '.join(map(repr, NAMES))}{guess}"
