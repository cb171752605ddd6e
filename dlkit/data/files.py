"""Data files: where they lie, whether they are whole, and how to mend them."""

import hashlib
import os
import zlib
from pathlib import Path

from dlkit.core.installation import ROOT, restore, shown

FOLDERS = {"mnist": 4, "photos": 6, "pretrained": 4}  # files in each
# Name -> address and MD5 of each file, as its authors and torchvision publish them.
FETCHED = {
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    )
}


def data_root(root: str | Path | None = None) -> Path:
    """Folder that holds mnist/, photos/ and SHA256SUMS: `root`, else $DLKIT_DATA, else the one that came with dlkit.

    Raises FileNotFoundError where there is no such folder.
    """
    given = root or os.environ.get("DLKIT_DATA")
    folder = Path(given).absolute() if given else ROOT / "data"
    if folder.is_dir():
        return folder
    if root:
        raise FileNotFoundError(f"root={str(root)!r} is no folder: give the data/ folder of a dlkit checkout.")
    if given:
        raise FileNotFoundError(
            f"DLKIT_DATA is {given!r}, which is no folder: set it to the data/ folder of a dlkit checkout, or unset it."
        )
    raise FileNotFoundError(f"{shown(folder)} is missing: it is part of the repository; {restore(folder)}.")


def listed(folder: str, root: Path) -> dict[Path, str]:
    """Each file of `folder` in SHA256SUMS, in its order, with its known hash, "sha256:...".

    Raises FileNotFoundError where the list is missing, ValueError where it is not whole.
    """
    sums = root / "SHA256SUMS"
    if not sums.is_file():
        raise FileNotFoundError(f"{shown(sums)} is missing: it is part of the repository; {restore(root)}.")
    lines = (line.split() for line in sums.read_text(errors="replace").splitlines())
    pairs = (line for line in lines if len(line) == 2 and line[1].startswith(folder + "/"))
    files = {root / name: f"sha256:{digest}" for digest, name in pairs}
    count = FOLDERS[folder]
    if len(files) != count:
        raise ValueError(
            f"{shown(sums)} was altered, it lists {len(files)} of the {count} files of {folder}/; {restore(root)}."
        )
    return files


def read(path: Path, known: str) -> bytes:
    """The file's bytes, if their hash is `known` ("sha256:..." or "md5:...").

    Raises FileNotFoundError where it is missing, ValueError where it is truncated or altered.
    """
    mend = restore(path.parents[1])
    if not path.is_file():
        raise FileNotFoundError(f"{shown(path)} is missing: it is part of the repository; {mend}.")
    raw = path.read_bytes()
    algorithm, _, wanted = known.partition(":")
    found = hashlib.new(algorithm, raw, usedforsecurity=False).hexdigest()
    if found == wanted:
        return raw
    if _cut_short(path.suffix, raw):
        raise ValueError(f"{shown(path)} is truncated, it ends too soon after {len(raw):,} bytes; {mend}.")
    name = {"sha256": "SHA-256", "md5": "MD5"}[algorithm]
    raise ValueError(f"{shown(path)} was altered, its {name} is {found[:12]}…, not {wanted[:12]}…; {mend}.")


def verify(name: str, *, root: str | Path | None = None) -> list[Path]:
    """Read every file of "mnist", "photos" or "pretrained" against SHA256SUMS and return their paths.

    Raises what `read` raises.
    """
    if name not in FOLDERS:
        raise ValueError(f"no data set {name!r} comes with dlkit: verify one of {', '.join(FOLDERS)}.")
    files = listed(name, data_root(root))
    for path, known in files.items():
        read(path, known)
    return list(files)


def fetch(name: str, root: str | Path | None = None) -> dict[Path, str]:
    """Each file of a data set that dlkit does not carry, with its known hash; downloads those not there yet.

    They are kept in `root`/name, by default in this platform's cache folder. Raises ConnectionError where the
    address does not answer, ValueError where it sends something else, OSError where nothing can be kept.
    """
    import pooch  # with requests 0.2 s, which only those who download should wait for
    from requests import RequestException

    address, hashes = FETCHED[name]
    folder = (Path(root).absolute() if root else pooch.os_cache("dlkit")) / name
    downloader = pooch.HTTPDownloader(timeout=(5, 30))
    for file, md5 in hashes.items():
        try:
            # pyrefly: ignore[bad-argument-type]  pooch's own downloader does not fit its own protocol
            pooch.retrieve(address + file, f"md5:{md5}", fname=file, path=folder, downloader=downloader)
        except RequestException as error:
            raise ConnectionError(
                f"{name} is not whole on this machine and {address + file} cannot be fetched "
                f"({type(error).__name__}): connect to the internet once, or copy its {len(hashes)} files "
                f"into {folder}."
            ) from None
        except ValueError:
            raise ValueError(
                f"{address + file} sent another file than the published one of MD5 {md5[:12]}…: a log-in page of your "
                f"network may have answered; try again, or copy {name}'s {len(hashes)} files into {folder}."
            ) from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OSError(f"{folder} cannot be written ({reason}): give load another root= for {name}.") from None
    return {folder / file: f"md5:{md5}" for file, md5 in hashes.items()}


def _cut_short(suffix: str, raw: bytes) -> bool:
    if suffix == ".png":
        return b"IEND" not in raw
    try:
        inflate = zlib.decompressobj(wbits=31)
        inflate.decompress(raw)
        return not inflate.eof
    except zlib.error:
        return False
