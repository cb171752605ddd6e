"""Data as people have them: taken as what they mean, said once; else refused with a mend that mends, and no guess."""

import os
import pickle
import re
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    IterableDataset,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from dlkit import data
from dlkit.data import conversion, mapped
from dlkit.data.mapped import MappedFile
from dlkit.data.sources import describe, resolve

BYTES = torch.arange(20 * 6 * 5, dtype=torch.int64).mul(37).remainder(256).to(torch.uint8).reshape(20, 6, 5)
ARRAY = BYTES.numpy()  # 0 to 255
X = BYTES.float() / 255
Y = torch.arange(20) % 4
RGB = torch.rand(20, 3, 6, 7, generator=torch.Generator().manual_seed(0))
LEVELS = (X * 16).round()  # 0 to 16, as scikit-learn's digits


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    monkeypatch.setattr(conversion, "_said", set())


class Items:
    """A map-style data set with a transform, that holds what it does not show, as torchvision's do."""

    train, classes, data, targets = True, list("0123"), 255 - BYTES, Y + 7

    def __init__(self, transform=lambda image: image, labels=Y):
        self.transform, self.labels = transform, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.transform(BYTES[i]), int(self.labels[i])


class Dicts(Items):
    def __getitem__(self, i):
        return {"image": PIL.Image.fromarray(ARRAY[i]), "label": int(Y[i])}


class Frame:
    """What is asked of a pandas or polars DataFrame."""

    def __init__(self, columns):
        self.table, self.columns = columns, list(columns)

    def to_numpy(self):
        return np.stack(list(self.table.values()), axis=1)

    def __getitem__(self, name):
        return Frame({one: self.table[one] for one in name}) if isinstance(name, list) else self.table[name]

    def __len__(self):
        return 20


class Values:
    def __init__(self, values):
        self.values = values


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y.tolist(), strict=True))


class Compressed:
    """scipy's sparse matrices have this."""

    shape = (20, 30)

    def toarray(self):
        return X.flatten(1).numpy()


PIXELS = {f"pixel{i}": ARRAY.reshape(20, 30)[:, i].astype(np.int64) for i in range(30)}
DIVIDED = "images {} from 0 to 255 were divided by 255"
LOADER = "of the DataLoader its dataset was taken: the Experiment makes batches, and shuffles, itself"
TAKEN = {  # given, images, labels, what is said
    "a tensor": (X, X, None, []),
    "a pair": ((X, Y), X, Y, []),
    "a list of two": ([X, Y], X, Y, []),
    "a tuple of one": ((X,), X, None, []),
    "a tuple without labels": ((X, None), X, None, []),
    "a list of tensors": (list(X), X, None, []),
    "a tuple of tensors": (tuple(X), X, None, []),
    "two images": (list(X[:2]), X[:2], None, []),
    "two rows": (list(X.flatten(1)[:2]), X.flatten(1)[:2], None, []),
    "nested lists": (X.flatten(1).tolist(), X.flatten(1), None, ["images float64 were made float32"]),
    "a list of arrays": (list(ARRAY), X, None, [DIVIDED.format("uint8")]),
    "float64": ((X.double(), Y), X, Y, ["images float64 were made float32"]),
    "bfloat16": (X.gt(0.5).bfloat16(), X.gt(0.5).float(), None, ["images bfloat16 were made float32"]),
    "an array": (X.numpy(), X, None, []),
    "a flipped array": (X.numpy()[:, ::-1], X.flip(1), None, []),
    "an array turned round": (X.numpy().transpose(0, 2, 1), X.transpose(1, 2), None, []),
    "a big-endian array": (X.numpy().astype(">f4"), X, None, []),
    "a big-endian float64": (X.numpy().astype(">f8"), X, None, ["images float64 were made float32"]),
    "a read-only array": (np.frombuffer(X.numpy().tobytes(), np.float32).reshape(20, 6, 5), X, None, []),
    "bytes": ((ARRAY, Y), X, Y, [DIVIDED.format("uint8")]),
    "bytes as a tensor": ((BYTES, Y), X, Y, [DIVIDED.format("uint8")]),
    "bytes in int64": (ARRAY.astype(np.int64), X, None, [DIVIDED.format("int64")]),
    "big-endian uint16": (
        (ARRAY.astype(np.uint16) * 257).astype(">u2"),
        X,
        None,
        ["images uint16 from 0 to 65535 were divided by 65535"],
    ),
    "bits": (ARRAY > 99, (BYTES > 99).float(), None, ["images bool from 0 to 1 were made float32"]),
    "int8 of 0 and 1": (
        (BYTES > 99).to(torch.int8),
        (BYTES > 99).float(),
        None,
        ["images int8 from 0 to 1 were made float32"],
    ),
    "16 levels, as floats": (LEVELS, LEVELS, None, []),
    "channels last": (
        RGB.permute(0, 2, 3, 1).numpy(),
        RGB,
        None,
        ["images (6, 7, 3), channels last, were turned to (3, 6, 7)"],
    ),
    "channels last, a tensor": (RGB.permute(0, 2, 3, 1), RGB.permute(0, 2, 3, 1), None, []),
    "maps of 3 columns": (RGB.numpy().transpose(0, 2, 1, 3)[..., :3], RGB.transpose(1, 2)[..., :3], None, []),
    "one channel last, not square": (X.numpy()[..., None], X[..., None], None, []),
    "sparse": (X.flatten(1).to_sparse(), X.flatten(1), None, ["sparse images were made dense"]),
    "a sparse matrix": (Compressed(), X.flatten(1), None, []),
    "a masked array, nothing masked": (np.ma.masked_invalid(X.numpy()), X, None, []),
    "PIL": ([PIL.Image.fromarray(a) for a in ARRAY], X, None, [DIVIDED.format("uint8")]),
    "a data frame": (Frame(PIXELS), X.flatten(1), None, [DIVIDED.format("int64")]),
    "a data frame with labels": (
        Frame({"label": Y.numpy(), **PIXELS}),
        X.flatten(1),
        Y,
        ["labels were taken from the column 'label', images from the others", DIVIDED.format("int64")],
    ),
    "a data frame of places": (
        Frame({"x": X[:, 0, 0].numpy(), "y": X[:, 0, 1].numpy()}),
        X[:, 0, :2],
        None,
        [],
    ),
    "a data frame with y": (
        Frame({**PIXELS, "y": Y.numpy()}),
        X.flatten(1),
        Y,
        ["labels were taken from the column 'y', images from the others", DIVIDED.format("int64")],
    ),
    "a data frame of rows and columns": (
        Frame({f"{i // 6 + 1}x{i % 6 + 1}": column for i, column in enumerate(PIXELS.values())}),
        X.flatten(1),
        None,
        [DIVIDED.format("int64")],
    ),
    "a data frame of quantities": (
        Frame({"height": X[:, 0, 0].numpy(), "weight": X[:, 0, 1].numpy(), "age1": X[:, 0, 2].numpy()}),
        X[:, 0, :3],
        None,
        [],
    ),
    "values": (Values(X.numpy()), X, None, []),
    "a dict": ({"image": X, "label": Y}, X, Y, ["images were taken from 'image', labels from 'label'"]),
    "scikit-learn's Bunch": (
        {"data": X.flatten(1), "target": Y, "images": X, "DESCR": "…"},
        X,
        Y,
        ["images were taken from 'images', labels from 'target'"],
    ),
    "a TensorDataset": (TensorDataset(X, Y), X, Y, []),
    "a Subset": (Subset(TensorDataset(X, Y), [3, 1]), X[[3, 1]], Y[[3, 1]], []),
    "a ConcatDataset": (ConcatDataset([TensorDataset(X[:9], Y[:9]), TensorDataset(X[9:], Y[9:])]), X, Y, []),
    "a StackDataset": (
        StackDataset(image=X, label=Y),
        X,
        Y,
        ["images were taken from 'image', labels from 'label'"],
    ),
    "torchvision's, with a transform": (Items(lambda image: 1 - image[None] / 255), (1 - X)[:, None], Y, []),
    "torchvision's, without": (Items(), X, Y, [DIVIDED.format("uint8")]),
    "Hugging Face's": (
        Dicts(),
        X,
        Y,
        ["images were taken from 'image', labels from 'label'", DIVIDED.format("uint8")],
    ),
    "a list of pairs": (list(zip(X, Y.tolist(), strict=True)), X, Y, []),
    "a DataLoader": (DataLoader(TensorDataset(X, Y), 7, shuffle=True), X, Y, [LOADER]),
    "features with a graph": (X.clone().requires_grad_() * 1, X, None, []),
    "what has images and labels": (SimpleNamespace(images=BYTES, labels=Y), X, Y, [DIVIDED.format("uint8")]),
    "labels of int32": ((X, Y.int()), X, Y, ["labels int32 were made int64"]),
    "labels of uint8": ((X, Y.numpy().astype(np.uint8)), X, Y, ["labels uint8 were made int64"]),
    "labels in a list": ((X, Y.tolist()), X, Y, []),
    "labels of whole floats": ((X, Y.double()), X, Y, ["labels float64 were made int64"]),
    "labels in a column": ((X, Y[:, None]), X, Y, []),
    "one-hot labels": (
        (X, torch.eye(4)[Y]),
        X,
        Y,
        ["labels (20, 4), rows of one 1 among 0s, were made the numbers of their classes"],
    ),
}


@pytest.mark.parametrize(("given", "images", "labels", "said"), TAKEN.values(), ids=TAKEN)
@pytest.mark.usefixtures("unchecked")
def test_what_is_clear_is_taken_for_what_it_is_and_said_once(given, images, labels, said, capsys):
    for printed in ([f"Data: {what}." for what in said], []):
        batch = resolve(given)
        assert batch.images.dtype == torch.float32
        assert batch.images.device.type == "cpu"
        assert not batch.images.requires_grad
        assert torch.equal(batch.images, images)
        assert (batch.labels is None) == (labels is None)
        if labels is not None:
            assert batch.labels.dtype == torch.int64
            assert torch.equal(batch.labels, labels)
        assert capsys.readouterr().out.splitlines() == printed


def test_the_library_s_own_bytes_are_the_library_s_own_floats():
    """To the bit: /255 as data.load does it."""
    digits = data.load("mnist").test.images
    assert torch.equal(resolve((digits * 255).round().byte().numpy()).images, digits)


def test_images_of_the_right_dtype_are_not_copied():
    for given in (X, X.numpy(), X.clone().requires_grad_()):
        assert resolve(given).images.data_ptr() == (given if torch.is_tensor(given) else X).data_ptr()


def test_another_dtype_can_be_asked_for():
    for given in (X.double(), X.double().numpy()):
        assert resolve(given, torch.float64).images.data_ptr() == given.__array__().ctypes.data
    exact = torch.from_numpy(ARRAY / 255)
    assert torch.equal(resolve(ARRAY, torch.float64).images, exact)
    assert torch.equal(resolve(X.half(), torch.float64).images, X.half().double())


def test_data_are_described_in_a_few_words():
    assert describe((X, Y)) == "images (20, 6, 5), labelled"
    assert describe((X,)) == "images (20, 6, 5), no labels"
    assert describe(Items()) == "Items"


class Draws(Items):
    """A random transform, from a generator of torch's, numpy's, or its own."""

    def __init__(self, draw):
        super().__init__(lambda image: image / 255 * float(draw() > 0.2))


OWN = torch.Generator().manual_seed(0)
MASKED = np.ma.masked_greater(X.numpy(), 0.9)
REFUSED = {  # given, the error's words, and the mend: in the message, and as it is run here
    "three": ((X, Y, Y), "data are a tuple of 3, not images and labels: if they begin it, `data[:2]`.", None),
    "turned round": ((Y, X), "data are labels and then images: turn them round, `data[::-1]`.", None),
    "Keras's": (
        ((X, Y), (X, Y)),
        "data are two tuples: give the one that is to be learnt from, such as `data[0]`.",
        None,
    ),
    "a stream": (Stream(), "a Stream gives its images only one after another: `list(data)` reads them.", None),
    "a generator": (
        (image for image in X),
        "images are of type generator, which is not known to hold numbers: `list(images)`.",
        lambda images: list(X),
    ),
    "an object": (
        object(),
        "images are of type object, which is not known to hold numbers; a tensor, an array or a list of them does.",
        lambda images: [X[0].numpy()] * 3,
    ),
    "a dict of other keys": (
        {"a": X, "b": Y},
        "which of the keys 'a', 'b' are the images is not clear: give `(data[...], data[...])`.",
        lambda data: (data["a"], data["b"]),
    ),
    "a data frame with labels under another name": (
        Frame({**PIXELS, "digit": Y.numpy()}),
        "the column 'digit' is not named as the others are, and whether it holds labels is not clear: if it does, `(",
        None,
    ),
    "a data frame with an index": (
        Frame({"Unnamed: 0": np.arange(20), **PIXELS}),
        "the column 'Unnamed: 0' counts the rows: leave it out, `",
        None,
    ),
    "a data frame with identities": (
        Frame({"label": Y.numpy(), "id": np.arange(1, 21), **PIXELS}),
        "'id' counts",
        None,
    ),
    "a data frame with two labels": (
        Frame({"label": Y.numpy(), "target": Y.numpy(), **PIXELS}),
        "which of the columns 'label', 'target' are the labels is not clear: leave one out, `",
        None,
    ),
    "a sampler": (
        DataLoader(TensorDataset(X, Y), 7, sampler=SubsetRandomSampler([1, 2, 5])),
        "the DataLoader has a SubsetRandomSampler, and an Experiment makes its batches itself: read all once, "
        "`tuple(map(torch.cat, zip(*loader)))`.",
        None,
    ),
    "a collate_fn": (
        DataLoader(TensorDataset(X, Y), 7, collate_fn=lambda items: (torch.stack([x for x, _ in items]), Y[:1])),
        "the DataLoader has a collate_fn of its own, ",
        lambda loader: TensorDataset(X, Y),
    ),
    "transform from torch": (
        Draws(lambda: torch.rand(1)),
        "the Draws draws its images anew each time, and an Experiment reads them once: give them without that, and the "
        "random part to the learner, such as `CrossEntropy(distortion=Affine())`.",
        lambda data: Items(),
    ),
    "transform from numpy": (Draws(np.random.rand), "the Draws draws its images anew each time", lambda data: Items()),
    "transform from its own": (
        Draws(lambda: torch.rand(1, generator=OWN)),
        "the Draws draws its images anew each time",
        lambda data: Items(),
    ),
    "items of three": (
        list(zip(X, Y, Y, strict=True)),
        "an item of the list has 3 parts: give images and labels alone.",
        lambda data: [item[:2] for item in data],
    ),
    "items that differ": (
        [(X[0], 0), (X[1].T, 1)],
        "images differ in shape, (6, 5) and, at 1, (5, 6): resize or crop them to one in the transform of the dataset.",
        lambda data: [(image.reshape(6, 5), label) for image, label in data],
    ),
    "no items": (
        Subset(Items(), []),
        "the Subset is empty: give one image at least.",
        lambda data: Subset(Items(), [0]),
    ),
    "16 levels in bytes": (
        LEVELS.byte(),
        "images are uint8 from 0 to 16, and which number is white is not clear: `images / 16`, or, to keep them for a "
        "learner that takes any numbers, `images * 1.0`.",
        None,
    ),
    "16 levels in an array": (LEVELS.byte().numpy(), "images are uint8 from 0 to 16, and", None),
    "percent": ((X * 100).int().numpy(), "is not clear: `images / 100`, or", None),
    "12 bits": ((X * 4095).numpy().astype(np.uint16), "is not clear: `images / 4095`, or", None),
    "12 bits in int32": ((X * 4095).int(), "is not clear: `images / 4095`, or", None),
    "dark bytes": (BYTES // 8, "is not clear: `(images * 1.0 - 0) / 31`, or", None),
    "signed bytes": ((BYTES.int() - 128).to(torch.int8), "is not clear: `(images * 1.0 - -128) / 255`, or", None),
    "signed bytes in an array": ((ARRAY.astype(int) - 128).astype(np.int8), "`(images * 1.0 - -128) / 255`", None),
    "dark pictures": (
        [PIL.Image.fromarray(a // 16) for a in ARRAY],
        "is not clear: `numpy.asarray(images) / 16`, or",
        None,
    ),
    "masked": (MASKED, f"images are masked in {MASKED.mask.sum()} places: fill those, `images.filled(0)`.", None),
    "complex": (X.numpy() * 1j, "images are complex64: give their magnitude, `abs(images)`.", None),
    "complex tensor": (X * 1j, "images are complex64: give their magnitude, `abs(images)`.", None),
    "objects": (
        X.numpy().astype(object),
        "images are of dtype object: `numpy.array(images.tolist(), dtype=float)`.",
        None,
    ),
    "numbers as text": (X.numpy().astype(str), "`numpy.array(images.tolist(), dtype=float)`", None),
    "shapes that differ": (
        [X[0], X[1], X[2].T],
        "images differ in shape, (6, 5) and, at 2, (5, 6): resize or crop them to one, or keep those of the first's, "
        "`[one for one in images if one.shape == images[0].shape]`.",
        None,
    ),
    "pictures that differ": (
        [PIL.Image.fromarray(ARRAY[0]), PIL.Image.fromarray(ARRAY[0].T)],
        "`[one for one in images if one.size == images[0].size]`",
        None,
    ),
    "a picture with a palette": (
        [PIL.Image.fromarray(ARRAY[0]).convert("P")],
        'an image has PIL\'s mode "P", not "L" or "RGB": `image.convert("RGB")`.',
        lambda images: [image.convert("RGB") for image in images],
    ),
    "a picture with alpha": (
        [PIL.Image.new("RGBA", (8, 8), "white")],
        'an image has PIL\'s mode "RGBA"',
        lambda images: [image.convert("RGB") for image in images],
    ),
    "labels of halves": (
        (X, Y + 0.5),
        "labels[0] = 0.5 is no class, and labels are numbers of classes: `labels.round()`, or keep the images whose "
        "labels are whole, `labels == labels.round()`.",
        lambda data: (data[0], data[1].round()),
    ),
    "labels that are missing": (
        (X, torch.where(Y == 1, torch.nan, Y.double())),
        "labels[1] = nan is no class",
        lambda data: (data[0][data[1] == data[1].round()], data[1][data[1] == data[1].round()]),
    ),
    "soft labels": (
        (X, torch.eye(4)[Y] * 0.9 + 0.025),
        "labels have shape (20, 4), not (20,): of one-hot rows, `labels.argmax(1)`.",
        lambda data: (data[0], data[1].argmax(1)),
    ),
    "labels as text": (
        (X, [f"class {int(y)}" for y in Y]),
        "labels are text or objects, and a class is a whole number: `numpy.unique(labels, return_inverse=True)[1]` "
        "numbers them in their order.",
        lambda data: (data[0], np.unique(data[1], return_inverse=True)[1]),
    ),
}


@pytest.mark.parametrize(("given", "words", "mend"), REFUSED.values(), ids=REFUSED)
@pytest.mark.usefixtures("unchecked")
def test_what_is_not_clear_is_refused_with_a_mend_that_mends(given, words, mend):
    with pytest.raises((TypeError, ValueError), match=re.escape(words)) as refused:
        resolve(given)
    message = str(refused.value)
    assert message.count(". ") == 0, "one sentence"
    if mend is not None:
        resolve(mend(given))
        return
    for code in re.findall("`(.*?)`", message):
        names = {"data": given, "images": given, "loader": given, "torch": torch, "numpy": np, "PIL": PIL}
        images = resolve(eval(code, names)).images
        if " / " in code:
            data.check(images, values=(0.0, 1.0))


def test_names_of_picture_files_are_told_how_to_be_opened(tmp_path):
    PIL.Image.fromarray(ARRAY[0]).save(tmp_path / "0.png")
    names = [str(tmp_path / "0.png")]
    with pytest.raises(TypeError, match=r"images are text: if these are files, `(.*)`") as refused:
        resolve(names)
    code = re.search("`(.*?)`", str(refused.value)).group(1)
    assert torch.equal(resolve(eval(code, {"PIL": PIL, "images": names})).images, X[:1])


def test_reading_a_dataset_leaves_the_global_generators_alone():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    resolve(DataLoader(Items(), 3, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()


# Mapped files


def memory_in(tensor):
    """The line of this process's memory map that holds the tensor."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            if begin <= tensor.data_ptr() < end:
                return line
    raise AssertionError


linux = pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="no /proc")


@linux
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_mapped_array_stays_in_its_file(tmp_path, mode):
    np.save(tmp_path / "x.npy", X.numpy())
    images = resolve((np.load(tmp_path / "x.npy", mmap_mode=mode), Y)).images
    assert "x.npy" in memory_in(images)
    assert torch.equal(images, X)
    if mode == "r":  # what is read-only is mapped anew, or torch would write where it must not
        images[0] = 7
        assert (np.load(tmp_path / "x.npy") == X.numpy()).all()


def test_a_part_of_a_mapped_array_is_found_in_its_file(tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    whole = np.load(tmp_path / "x.npy", mmap_mode="r")
    raw = np.memmap(tmp_path / "x.npy", np.float32, "r", offset=128, shape=(20, 30))  # behind .npy's header
    for part, expected in ((whole, X), (whole[3:9], X[3:9]), (whole[5].reshape(1, 30), X[5].reshape(1, 30))):
        file = pickle.loads(pickle.dumps(MappedFile.of(part)))
        assert torch.equal(resolve(file).images, expected)
        assert torch.equal(resolve((np.asarray(part), None)).images, expected)
    assert torch.equal(resolve(MappedFile.of(raw[2:])).images, X.flatten(1)[2:])


def test_an_array_that_is_not_what_lies_in_the_file_has_no_file(tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[0] = 7
    every_other = np.load(tmp_path / "x.npy", mmap_mode="r")[::2]
    replaced = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert MappedFile.of(replaced)
    os.unlink(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", X.numpy() + 1)
    assert [MappedFile.of(array) for array in (private, every_other, replaced, X.numpy(), X)] == [None] * 5
    os.unlink(tmp_path / "x.npy")
    assert MappedFile.of(replaced) is None


@linux
def test_what_is_too_large_for_memory_is_converted_into_a_file_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped.psutil, "virtual_memory", lambda: SimpleNamespace(available=X.nbytes))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for given in (ARRAY, X.double(), Items()):
        images = resolve(given).images
        assert str(tmp_path) in memory_in(images)
        assert torch.equal(images, X)
        assert list(tmp_path.iterdir()) == []


def test_what_fits_nowhere_is_told_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped.psutil, "virtual_memory", lambda: SimpleNamespace(available=100))
    monkeypatch.setattr(mapped.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    told = (
        r"^the images take 2.4 kB as float32, and neither half of the free memory nor .*, 1 kB free, has room: "
        r"give a part of them, or set TMPDIR to a folder on a larger disk\.$"
    )
    with pytest.raises(MemoryError, match=told):
        resolve(ARRAY)
    assert len(resolve(ARRAY[:5]).images) == 5  # the mend
    with pytest.raises(
        MemoryError, match=r"sparse images, made dense, would take 2.4 kB, and 100 B of memory are free"
    ):
        resolve(X.flatten(1).to_sparse())


def test_what_is_too_large_for_a_gpu_is_told_before_it_is_copied(monkeypatch):
    """What torch keeps for later use is free as well."""
    for name, value in {"memory_reserved": 3000, "memory_allocated": 2000, "mem_get_info": (500, 9000)}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    gpu = torch.device("cuda")
    mapped.check_memory(1500, "the images, on cuda,", gpu)
    with pytest.raises(MemoryError, match=r"the images, on cuda, would take 1.6 kB, and 1.5 kB of memory are free"):
        mapped.check_memory(1600, "the images, on cuda,", gpu)


def test_conversion_takes_a_few_images_at_a_time(monkeypatch):
    monkeypatch.setattr(conversion, "AT_A_TIME", 100)  # three images of 30 pixels, and two are left
    for given in (ARRAY, BYTES, X.double(), X.numpy().astype(">f4")):
        assert torch.equal(resolve(given).images, X)
    big = np.broadcast_to(np.uint8([[[0, 255]]]), (2, 60, 2))  # more than that in one image
    assert torch.equal(resolve(big).images, torch.tensor([0.0, 1.0]).expand(2, 60, 2))


class Transforms(torch.utils.data.Dataset):
    """Holds images and labels, and gives others."""

    def __init__(self):
        self.images, self.labels, self.values = X, Y, np.zeros((len(X), 3))

    def __len__(self):
        return 20

    def __getitem__(self, i):
        return 1 - self.images[i], int(self.labels[i]) % 2


class TransformsTensors(torch.utils.data.TensorDataset):
    def __getitem__(self, i):
        return 1 - self.tensors[0][i], int(self.tensors[1][i]) % 2


@pytest.mark.parametrize("dataset", [Transforms(), TransformsTensors(X[:20], Y[:20])], ids=lambda d: type(d).__name__)
def test_a_dataset_is_what_its_items_are(dataset):
    found = resolve(dataset)
    torch.testing.assert_close(found.images, 1 - X[:20])
    assert torch.equal(found.labels, Y[:20] % 2)
