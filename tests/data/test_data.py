"""Data by name, held to a plain reading of the files, and each bad file, name and tensor tried once."""

import gzip
import hashlib
import http.server
import os
import pickle
import re
import shutil
import socket
import subprocess
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from dlkit import data
from dlkit.core import installation
from dlkit.core.slices import Slice
from dlkit.data import files
from dlkit.data.batch import Batch

REPOSITORY = Path(__file__).parents[2]
DATA = REPOSITORY / "data"
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
# The uncompressed originals, as they are known everywhere.
ORIGINALS = {
    TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def plain(file: str) -> bytes:
    return gzip.decompress((DATA / "mnist" / file).read_bytes())


def pixels(file: str) -> np.ndarray:
    return np.frombuffer(plain(file)[16:], np.uint8).reshape(-1, 28, 28)


@pytest.fixture(scope="module")
def mnist() -> data.Dataset:
    return data.load("mnist")


@pytest.fixture(scope="module")
def sampled() -> data.Dataset:
    return data.load("mnist", binarise="sample")


@pytest.fixture
def copy(tmp_path, monkeypatch) -> Path:
    """A copy of data/ outside any repository, seen from the folder that holds it."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(DATA, tmp_path / "data"))


@pytest.mark.parametrize(("file", "known"), ORIGINALS.items())
def test_the_files_are_the_four_originals(file, known):
    assert hashlib.sha256(plain(file)).hexdigest() == known


@pytest.mark.parametrize("folder", ["mnist", "photos"])
def test_each_file_is_listed_and_its_readme_gives_its_checksum(folder):
    sums = dict(reversed(line.split("  ")) for line in (DATA / "SHA256SUMS").read_text().splitlines())
    here = {f"{folder}/{path.name}" for path in (DATA / folder).iterdir()} - {f"{folder}/README.md"}
    assert here == {name for name in sums if name.startswith(folder)}
    readme = (DATA / folder / "README.md").read_text()
    assert [name for name in here if sums[name] not in readme] == []


def test_splits_have_their_sizes_types_and_range(mnist):
    for split, count in ((mnist.train, 50_000), (mnist.validation, 10_000), (mnist.test, 10_000)):
        assert len(split) == count
        assert split.images.shape == (count, 28, 28)
        assert split.images.dtype == torch.float32
        assert split.images.aminmax() == (0, 1)
        assert split.labels.shape == (count,)
        assert split.labels.dtype == torch.int64
        assert split.images.is_contiguous()


def test_every_pixel_is_the_files_in_the_files_order(mnist):
    raw = torch.from_numpy(pixels(TRAIN_IMAGES).copy())
    for split, part in ((mnist.train, raw[:50_000]), (mnist.validation, raw[50_000:])):
        assert torch.equal((split.images * 255).round_().byte(), part)
    assert torch.equal((mnist.test.images * 255).round_().byte(), torch.from_numpy(pixels(TEST_IMAGES).copy()))
    assert mnist.test.images.double().sum().item() == pytest.approx(pixels(TEST_IMAGES).sum(dtype=int) / 255, rel=1e-6)


def test_labels_count_as_published(mnist):
    assert mnist.full_train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]  # the first ten, as everyone's plots show
    assert mnist.validation.labels.bincount().min() > 900  # no class is missing from what is held out


def test_full_train_is_train_then_validation(mnist):
    full = mnist.full_train
    assert len(full) == 60_000
    assert torch.equal(full.images[:50_000], mnist.train.images)
    assert torch.equal(full.images[50_000:], mnist.validation.images)
    assert full.labels.tolist() == list(plain(TRAIN_LABELS)[8:])


def test_a_change_in_place_does_not_reach_the_next_load():
    spoilt = data.load("mnist")
    spoilt.test.images.zero_()
    spoilt.test.labels.zero_()
    again = data.load("mnist")
    assert again.test.images.sum() > 0
    assert again.test.labels.sum() > 0


def test_a_slice_a_mask_and_indices_are_splits_of_their_own(mnist):
    first, sevens = mnist.test[:100], mnist.test[mnist.test.labels == 7]
    assert (len(first), len(sevens), len(mnist.test[[3, 1]])) == (100, 1028, 2)
    assert torch.equal(mnist.test[[3, 1]].labels, mnist.test.labels[[3, 1]])
    assert sevens.labels.unique().tolist() == [7]
    first.images.zero_()
    assert mnist.test.images[:100].sum() > 0
    assert len(pickle.dumps(first)) < 100 * 28 * 28 * 4 + 10_000  # not the 10,000 it was cut from
    with pytest.raises(TypeError, match=r"split\[3\] is no Split: use split\.images\[3\]"):
        mnist.test[3]


def test_a_dataset_and_its_splits_say_what_they_hold(mnist):
    assert repr(mnist.train) == "Split(50,000 images of 28x28, labelled)"
    assert repr(data.Split(torch.zeros(2, 500))) == "Split(2 images of 500, no labels)"
    assert repr(mnist).startswith("Dataset('mnist', train=Split(50,000")
    assert "<td>validation</td><td>10,000</td><td>28x28</td><td>yes</td>" in mnist._repr_html_()
    assert repr(Batch(torch.zeros(5, 3, 4), torch.zeros(5).long())) == "Batch(5 images of 3x4, labelled)"
    last = Batch(torch.zeros(2, 500), rows=Slice(3, 5, 5))
    assert repr(last) == "Batch(2 images of 500, no labels, rows 3 to 5 of 5)"


def test_threshold_turns_on_what_is_above_one_half(mnist):
    binary = data.load("mnist", binarise="threshold")
    assert torch.equal(binary.test.images, (mnist.test.images > 0.5).float())
    assert torch.equal(binary.train.images, (mnist.train.images > 0.5).float())


def test_sampled_pixels_are_on_as_often_as_they_are_bright(mnist, sampled):
    assert sampled.train.images.unique().tolist() == [0, 1]
    levels = (mnist.test.images * 255).round().long().flatten()
    seen = torch.bincount(levels, minlength=256).double()
    on = torch.bincount(levels, weights=sampled.test.images.flatten().double(), minlength=256)
    chance = torch.arange(256).double() / 255
    assert on[0] == 0
    assert on[255] == seen[255]
    errors = (on - seen * chance)[1:255] / (seen * chance * (1 - chance))[1:255].sqrt()
    assert errors.abs().max() < 5  # 254 draws of a standard normal
    assert errors.std().item() == pytest.approx(1, abs=0.2)


def test_the_splits_are_sampled_independently(mnist, sampled):
    validation, test = (
        (getattr(sampled, part).images - getattr(mnist, part).images).flatten() for part in ("validation", "test")
    )
    train = (sampled.train.images[:10_000] - mnist.train.images[:10_000]).flatten()
    for first, second in ((validation, test), (train, test), (train, validation)):
        both = (first != 0) & (second != 0)
        assert abs(torch.corrcoef(torch.stack([first[both], second[both]]))[0, 1]) < 5 / both.sum().sqrt()


def test_sampled_bits_are_the_same_on_every_machine(sampled):
    bits = np.packbits(sampled.test.images.numpy().astype(bool))
    assert hashlib.sha256(bits).hexdigest() == "0106270ade2e531692520bff8921ff1ccea848536e054c081c3569df9532bbcf"


def test_another_seed_gives_another_sample(sampled):
    assert not torch.equal(data.load("mnist", binarise="sample", seed=1).test.images, sampled.test.images)


def test_bits_are_drawn_by_the_rule_that_is_written_down(sampled):
    stream = np.random.PCG64(np.random.SeedSequence(0, spawn_key=(2,)))  # 0 train, 1 validation, 2 test
    words = stream.random_raw(7_840_000 // 4)
    sixteen = np.stack([(words >> np.uint64(shift)) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48)], axis=1)
    bright = pixels(TEST_IMAGES).reshape(-1).astype(np.int64)
    lit = (sixteen.reshape(-1) < 257 * bright) | (bright == 255)
    assert np.array_equal(sampled.test.images.numpy().reshape(-1), lit)


def test_load_needs_no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    assert len(data.load("mnist").test) == 10_000


# Bad files


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def drop_a_line(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


COPY = "copy data again from the dlkit repository."
BAD_FILES = [
    (f"mnist/{TRAIN_IMAGES}", Path.unlink, FileNotFoundError, " is missing: it is part of the repository; "),
    (f"mnist/{TRAIN_IMAGES}", cut, ValueError, " is truncated, it ends too soon after 1,000 bytes; "),
    (f"mnist/{TEST_LABELS}", empty, ValueError, " is truncated, it ends too soon after 0 bytes; "),
    (f"mnist/{TRAIN_IMAGES}", flip, ValueError, r" was altered, its SHA-256 is \w{12}…, not 0b367032e93c…; "),
    ("photos/chelsea.png", cut, ValueError, " is truncated, it ends too soon after 1,000 bytes; "),
    ("photos/chelsea.png", flip, ValueError, r" was altered, its SHA-256 is \w{12}…, not 596aa1e7cb87…; "),
    ("photos/chelsea.png", Path.unlink, FileNotFoundError, " is missing: it is part of the repository; "),
    ("SHA256SUMS", Path.unlink, FileNotFoundError, " is missing: it is part of the repository; "),
    ("SHA256SUMS", drop_a_line, ValueError, " was altered, it lists 3 of the 4 files of mnist/; "),
]


@pytest.mark.parametrize(("file", "damage", "error", "what"), BAD_FILES)
def test_a_bad_file_is_named_with_its_fault_and_mend(copy, file, damage, error, what):
    name = "photos" if file.startswith("photos") else "mnist"
    read = {"photos": partial(data.patches, count=200), "mnist": data.load}[name]
    read(root=copy)
    damage(copy / file)
    for bad in (partial(data.verify, name), read):
        with pytest.raises(error, match="^" + re.escape(f"data/{file}") + what + re.escape(COPY) + "$"):
            bad(root=copy)


def test_the_mend_brings_the_data_back(tmp_path, monkeypatch):
    """In a checkout, seen from its top and from a folder within it (a notebook's place)."""
    checkout = tmp_path / "a checkout"
    (checkout / "notebooks").mkdir(parents=True)
    shutil.copytree(DATA / "photos", checkout / "data" / "photos")
    shutil.copy(DATA / "SHA256SUMS", checkout / "data")
    (checkout / "dlkit").mkdir()
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    git = ["git", "-C", checkout, "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "data"], check=True)
    for place, damage in ((checkout, flip), (checkout / "notebooks", Path.unlink)):
        monkeypatch.chdir(place)
        damage(checkout / "data" / "photos" / "grass.png")
        with pytest.raises((ValueError, FileNotFoundError), match="brings it back") as caught:
            data.verify("photos", root=checkout / "data")
        mend = re.search(r"`(git .*)`", str(caught.value)).group(1)
        subprocess.run(mend, shell=True, check=True, capture_output=True)
        assert len(data.verify("photos", root=checkout / "data")) == 6


def test_verify_names_the_files_it_read():
    assert {path.name for path in data.verify("mnist")} == set(ORIGINALS)


def test_the_data_are_found_by_the_environment(copy, monkeypatch):
    monkeypatch.setenv("DLKIT_DATA", str(copy))
    cut(copy / "mnist" / TEST_LABELS)
    with pytest.raises(ValueError, match=f"^data/mnist/{TEST_LABELS} is truncated"):
        data.load("mnist")
    monkeypatch.setenv("DLKIT_DATA", "nowhere")
    with pytest.raises(FileNotFoundError, match=r"^DLKIT_DATA is 'nowhere', which is no folder: set it to the data/"):
        data.load("mnist")
    with pytest.raises(FileNotFoundError, match=r"^root='nowhere' is no folder: give the data/ folder"):
        data.load("mnist", root="nowhere")


def test_an_installation_without_its_data_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("DLKIT_DATA", raising=False)
    monkeypatch.setattr(files, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"data is missing: .* copy .* again from the dlkit repository\.$"):
        data.load("mnist")
    (tmp_path / ".git").mkdir()
    (tmp_path / "dlkit").mkdir()
    with pytest.raises(FileNotFoundError, match=r"data is missing: .* `git -C .* checkout data/` brings it back\.$"):
        data.load("mnist")
    monkeypatch.setattr(installation, "WHEEL_FILES", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"data is missing: .* --force-reinstall --no-deps dlkit-.*\.whl` in "):
        data.load("mnist")


# Bad names


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            partial(data.load, "mnits"),
            "no data set is called 'mnits': there are .*'fashion-mnist'; did you mean 'mnist'",
        ),
        (partial(data.load, "MNIST"), "no data set is called 'MNIST': .* did you mean 'mnist'"),
        (partial(data.load, "fashion_mnist"), "did you mean 'fashion-mnist'"),
        (partial(data.load, "imagenet"), "no data set is called 'imagenet': there are 'mnist', 'fashion-mnist'[.]$"),
        (partial(data.load, "photos"), r"'photos' are not labelled images: data\.patches\(\) cuts patches from them"),
        (partial(data.load, binarise="smaple"), "binarise='smaple' is not known: use None, 'sample' or 'threshold'"),
        (
            partial(data.verify, "fashion-mnist"),
            "no data set 'fashion-mnist' comes with dlkit: verify one of mnist, ph",
        ),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Data that are fetched: a server on this machine stands in for the real one


class Quiet(http.server.SimpleHTTPRequestHandler):
    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """Serves data/mnist as fashion-mnist; the paths asked for are in `server.asked`."""
    asked = []
    handler = type("Handler", (Quiet,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=DATA / "mnist")) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        http_server.asked = asked
        point_at(monkeypatch, http_server.server_port)
        yield http_server
        http_server.shutdown()


def point_at(monkeypatch, port: int) -> None:
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    hashes = {file: hashlib.md5((DATA / "mnist" / file).read_bytes()).hexdigest() for file in ORIGINALS}
    monkeypatch.setitem(files.FETCHED, "fashion-mnist", (f"http://127.0.0.1:{port}/", hashes))


def test_a_fetched_set_is_downloaded_once_and_kept(server, tmp_path, mnist):
    fetched = data.load("fashion-mnist", root=tmp_path)
    assert torch.equal(fetched.test.images, mnist.test.images)
    assert torch.equal(fetched.train.labels, mnist.train.labels)
    assert fetched.name == "fashion-mnist"
    assert sorted(server.asked) == sorted(f"/{file}" for file in ORIGINALS)
    data.load("fashion-mnist", root=tmp_path)
    assert len(server.asked) == 4
    cut(tmp_path / "fashion-mnist" / TEST_IMAGES)  # never trusted: fetched again
    assert torch.equal(data.load("fashion-mnist", root=tmp_path).test.images, mnist.test.images)
    assert server.asked[4:] == [f"/{TEST_IMAGES}"]


def test_a_fetched_set_without_a_network_ends_in_one_sentence(monkeypatch, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        point_at(monkeypatch, taken.getsockname()[1])
        message = (
            rf"^fashion-mnist is not whole on this machine and http://127\.0\.0\.1:\d+/{TRAIN_IMAGES} cannot be "
            rf"fetched \(ConnectionError\): connect to the internet once, or copy its 4 files into /"
        )
        with pytest.raises(ConnectionError, match=message):
            data.load("fashion-mnist", root=tmp_path)


def test_copying_the_files_is_enough_without_a_network(monkeypatch, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        point_at(monkeypatch, taken.getsockname()[1])
        shutil.copytree(DATA / "mnist", tmp_path / "fashion-mnist")
        assert len(data.load("fashion-mnist", root=tmp_path).train) == 50_000


def test_a_server_that_sends_something_else_is_not_believed(server, monkeypatch, tmp_path):
    address, hashes = files.FETCHED["fashion-mnist"]
    monkeypatch.setitem(files.FETCHED, "fashion-mnist", (address, hashes | {TEST_LABELS: "0" * 32}))
    message = rf"{TEST_LABELS} sent another file than the published one of MD5 000000000000…: .*; try again, or copy"
    with pytest.raises(ValueError, match=message):
        data.load("fashion-mnist", root=tmp_path)
    assert not (tmp_path / "fashion-mnist" / TEST_LABELS).exists()


def test_an_address_that_has_gone_is_said_to_have(server, monkeypatch, tmp_path):
    address, hashes = files.FETCHED["fashion-mnist"]
    monkeypatch.setitem(files.FETCHED, "fashion-mnist", (address + "moved/", hashes))
    with pytest.raises(ConnectionError, match=rf"moved/{TRAIN_IMAGES} cannot be fetched \(HTTPError\)"):
        data.load("fashion-mnist", root=tmp_path)


def test_a_folder_that_takes_no_files_is_named(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/fashion-mnist cannot be written \(.+\): give load another root="):
        data.load("fashion-mnist", root=tmp_path / "file")


def test_the_published_checksums_of_fashion_mnist_are_md5s_of_four_files():
    address, hashes = files.FETCHED["fashion-mnist"]
    assert address.endswith("/")
    assert set(hashes) == set(ORIGINALS)
    assert all(re.fullmatch(r"[0-9a-f]{32}", md5) for md5 in hashes.values())


# A user's own tensors

GOOD = torch.linspace(0, 1, 4 * 784).reshape(4, 28, 28)
LABELS = torch.tensor([0, 9, 3, 1])


def spoilt(value: float) -> torch.Tensor:
    images = GOOD.clone()
    images[2, 5, 5] = value
    return images


@pytest.mark.parametrize(
    ("images", "how"),
    [
        (GOOD, {}),
        (GOOD, {"shape": (28, 28)}),
        (GOOD, {"shape": (784,)}),
        (GOOD.flatten(1), {"shape": (784,)}),
        (GOOD[:, None], {"shape": (1, 28, 28)}),
        (GOOD * 9 - 4, {"values": None}),
        (GOOD * 2 - 1, {"values": (-1.0, 1.0)}),
        (GOOD[:1], {}),
    ],
)
def test_sound_images_pass(images, how):
    data.check(images, **how)
    data.check(images, LABELS[: len(images)], classes=10, **how)
    data.check(images, LABELS[: len(images)] + 1, **how)


MASK = "keep the others, and their labels, by the mask `images.isfinite().flatten(1).all(1)`."
SHAPES = "not (count, pixels), (count, height, width) or (count, channels, height, width)"
BAD_IMAGES = [
    (GOOD.numpy(), {}, TypeError, "images are of type ndarray, not a tensor: `torch.from_numpy(images)`."),
    (GOOD.tolist(), {}, TypeError, "images are of type list, not a tensor: `torch.tensor(images)`."),
    (
        (GOOD * 255).byte(),
        {},
        ValueError,
        "images are uint8 from 0 to 255, not float32 in [0, 1]: `images.float() / 255`.",
    ),
    (GOOD > 0.5, {}, ValueError, "images are bool, not float32: `images.float()`."),
    (GOOD.half(), {}, ValueError, "images are float16, not float32: `images.float()`."),
    (list(GOOD), {}, TypeError, "images are of type list, not a tensor: `torch.stack(images)`."),
    (
        GOOD.numpy()[:, ::-1],
        {},
        TypeError,
        "images are of type ndarray, not a tensor: `torch.tensor(numpy.asarray(images).tolist())`.",
    ),
    (
        GOOD.numpy().astype(">f4"),
        {},
        TypeError,
        "images are of type ndarray, not a tensor: `torch.tensor(numpy.asarray(images).tolist())`.",
    ),
    (
        (GOOD * 16).byte(),
        {},
        ValueError,
        "images are uint8 from 0 to 16, not float32 in [0, 1]: `images.float() / 16`.",
    ),
    (
        (GOOD * 40).int() - 5,
        {},
        ValueError,
        "images are int32 from -5 to 35, not float32 in [0, 1]: `(images.float() - -5) / 40`.",
    ),
    (
        GOOD * 100,
        {},
        ValueError,
        "images run from 0 to 100, outside [0, 1], in 4 of 4 images, first in images[0]: `images / 100`.",
    ),
    (
        GOOD * 4095,
        {},
        ValueError,
        "images run from 0 to 4095, outside [0, 1], in 4 of 4 images, first in images[0]: `images / 4095`.",
    ),
    (GOOD[0, 0], {}, ValueError, f"images have shape (28,), {SHAPES}: `images[None]` is a batch of one."),
    (
        GOOD.reshape(2, 2, 1, 28, 28),
        {},
        ValueError,
        f"images have shape (2, 2, 1, 28, 28), {SHAPES}: `images.flatten(0, -4)` is one batch.",
    ),
    (
        GOOD[0],
        {"shape": (784,)},
        ValueError,
        "images have shape (28, 28), one image without its batch: `images[None]`.",
    ),
    (
        GOOD,
        {"shape": (1, 28, 28)},
        ValueError,
        "images have shape (28, 28) each and the model takes (1, 28, 28): `images.reshape(-1, 1, 28, 28)`.",
    ),
    (
        GOOD[:, :20],
        {"shape": (784,)},
        ValueError,
        "images have shape (20, 28), 560 values each, and the model takes 784: resize the images to (784,), "
        "or build the model for 560.",
    ),
    (
        GOOD[:0],
        {},
        ValueError,
        "images are empty, of shape (0, 28, 28): give one image at least, of one pixel at least.",
    ),
    (spoilt(torch.nan), {}, ValueError, f"images hold NaN pixels in 1 of 4 images, first in images[2]: {MASK}"),
    (
        spoilt(torch.inf),
        {"values": None},
        ValueError,
        f"images hold infinite pixels in 1 of 4 images, first in images[2]: {MASK}",
    ),
    (
        GOOD * 255,
        {},
        ValueError,
        "images run from 0 to 255, outside [0, 1], in 4 of 4 images, first in images[0]: `images / 255`.",
    ),
    (
        spoilt(-0.5),
        {},
        ValueError,
        "images run from -0.5 to 1, outside [0, 1], in 1 of 4 images, first in images[2]: "
        "`(images - images.min()) / (images.max() - images.min())`, or a model with Gaussian visible units.",
    ),
    (
        spoilt(3),
        {"values": (-1.0, 2.0)},
        ValueError,
        "images run from 0 to 3, outside [-1, 2], in 1 of 4 images, first in images[2]: `images.clamp(-1.0, 2.0)`.",
    ),
]
BAD_LABELS = [
    (LABELS.tolist(), TypeError, "labels are of type list, not a tensor: `torch.tensor(labels)`."),
    (LABELS[:3], ValueError, "4 images but 3 labels: give each image one label."),
    (LABELS.float(), ValueError, "labels are float32, not int64: `labels.long()`."),
    (LABELS.byte(), ValueError, "labels are uint8, not int64: `labels.long()`."),
    (torch.eye(10)[LABELS], ValueError, "labels have shape (4, 10), not (4,): of one-hot rows, `labels.argmax(1)`."),
    (LABELS[:, None], ValueError, "labels have shape (4, 1), not (4,): `labels.flatten()`."),
    (
        LABELS + 1,
        ValueError,
        "labels run from 1 to 10, not 0 to 9 for 10 classes, first in labels[1] = 10: "
        "they are counted from 1, `labels - 1`.",
    ),
    (
        LABELS - 1,
        ValueError,
        "labels run from -1 to 8, not 0 to 9 for 10 classes, first in labels[0] = -1: "
        "drop those images, or mend their labels.",
    ),
]


@pytest.mark.parametrize(("images", "how", "error", "message"), BAD_IMAGES)
def test_bad_images_are_refused_with_a_mend_that_mends(images, how, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        data.check(images, **how)
    if code := re.search("`(.*?)`", message):
        mended = eval(code.group(1), {"torch": torch, "numpy": np, "images": images})
        if mended.dtype == torch.bool and mended.shape == (4,):
            mended = images[mended]
        if mended.dtype == torch.float32 and mended.ndim > 1:  # else it takes a second mend, tried in its own row
            data.check(mended, **how)


@pytest.mark.parametrize(("labels", "error", "message"), BAD_LABELS)
def test_bad_labels_are_refused_with_a_mend_that_mends(labels, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        data.check(GOOD, labels, classes=10)
    if code := re.search("`(.*?)`", message):
        data.check(GOOD, eval(code.group(1), {"torch": torch, "labels": labels}), classes=10)


def test_negative_labels_are_refused_where_the_classes_are_not_known():
    with pytest.raises(ValueError, match=r"^labels run from -1 to 8, not 0 and up, first in labels\[0\] = -1"):
        data.check(GOOD, LABELS - 1)


def test_the_real_data_pass_their_own_check(mnist):
    for split in (mnist.train, mnist.validation, mnist.test):
        data.check(split.images, split.labels, shape=(784,), classes=10)
