"""Students' copies of the notebooks: without outputs, never overwritten; what has changed in the kit since is told."""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from dlkit.core.installation import FROM_WHEEL, ROOT, restore, shown

FIRST = "00_start_here.ipynb"
MANIFEST = ".dlkit-copies.json"  # of each copy, the fingerprint of the kit's file that it was made from
COPIED = (".ipynb", ".py")


def open_copies(fresh: bool = False) -> tuple[Path, list[str]]:
    """The folder of the newest copies, in which none is missing now, and what the student is told of it, in sentences.

    The first copies are made where there are none; `fresh` makes new ones in a folder beside. Raises FileNotFoundError
    if the kit has no notebooks, ValueError if one is damaged, RuntimeError if copies cannot be written.
    """
    kit, (parent, name) = read_kit(source := ROOT / "notebooks"), home()
    if FIRST not in kit:
        raise FileNotFoundError(f"{source / FIRST} is missing: it is part of the repository; {restore(source)}.")
    try:
        folder = newest()
        if folder is None:
            make(kit, folder := parent / name)
            return folder, [
                f"Your copies of the notebooks are in {shown(folder)}, without outputs. What you write there is never "
                "overwritten."
            ]
        if fresh:
            make(kit, new := parent / f"{name}-{_number(folder, name) + 1}")
            return new, [
                f"New copies of the notebooks are in {shown(new)}, and `dlkit lab` opens these from now on. "
                f"{shown(folder)} stays as you left it."
            ]
        return folder, _told(kit, folder, complete(kit, folder))
    except OSError as error:
        mend = "start `dlkit lab` in" if FROM_WHEEL else "copy the project to"
        raise RuntimeError(
            f"the notebooks cannot be copied to a folder in {parent} ({error.strerror}): {mend} a folder of yours, on "
            "a disk that is not full."
        ) from None


def home() -> tuple[Path, str]:
    """Where copies are: a folder, and in it the name of the first copies' folder; later ones have -2, -3, ... added.

    In a checkout `work`. For a wheel the folder with copies in which the reader is, else `dlkit-notebooks` in it.
    """
    if not FROM_WHEEL:
        return ROOT, "work"
    here, name = Path.cwd(), "dlkit-notebooks"
    if not (here / FIRST).is_file():
        return here, name
    return here.parent, name if _number(here, name) else here.name


def newest() -> Path | None:
    """The folder of the newest copies; None if there are none yet. Raises OSError."""
    parent, name = home()
    folders = [path for path in parent.iterdir() if _number(path, name) and path.is_dir()]
    return max(folders, key=lambda path: _number(path, name), default=None)


def changed(kit: dict[str, Any], folder: Path) -> list[str] | None:
    """Names of the notebooks, such as "02_rbm_pretraining", that have changed in the kit since they were copied.

    Their solutions count too. None if it is not known of all copies: the manifest is missing, or damaged.
    """
    known, copied = _manifest(folder), [name for name in kit if (folder / name).exists()]
    if not known.keys() >= set(copied):
        return None
    return sorted({Path(name).stem for name in copied if known[name] != fingerprint(kit[name])})


def read_kit(source: Path) -> dict[str, Any]:
    """What is copied of the kit, by its name in `source`: notebooks without outputs as dicts, other files as bytes.

    ValueError if a notebook is damaged.
    """
    kit = {}
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.suffix not in COPIED or any(part.startswith((".", "__")) for part in name.parts):
            continue
        try:
            content = path.read_bytes()
            kit[name.as_posix()] = stripped(json.loads(content)) if path.suffix == ".ipynb" else content
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path} is damaged: {restore(source)}.") from None
    return kit


def stripped(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook without outputs, execution counts and the state of widgets."""
    metadata = {name: value for name, value in notebook["metadata"].items() if name != "widgets"}
    empty = {"outputs": [], "execution_count": None}
    cells = [cell | empty if cell["cell_type"] == "code" else cell for cell in notebook["cells"]]
    return notebook | {"metadata": metadata, "cells": cells}


def fingerprint(content: Any) -> str:
    """SHA-256 of a notebook's cells, or of the bytes of another file."""
    if isinstance(content, dict):
        content = json.dumps([(cell["cell_type"], "".join(cell["source"])) for cell in content["cells"]]).encode()
    return hashlib.sha256(content).hexdigest()


def make(kit: dict[str, Any], folder: Path) -> None:
    """Copy all of the kit to a new folder, which is there only once it is complete. Raises OSError."""
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a call that was ended
        partial.mkdir(parents=True)
        complete(kit, partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def complete(kit: dict[str, Any], folder: Path) -> list[str]:
    """Copy what is missing in the folder, and nothing else: the names of these files. Raises OSError."""
    missing = [name for name in kit if not (folder / name).exists()]
    if missing:  # the manifest first: a file that does not follow is missing again
        known = _manifest(folder) | {name: fingerprint(kit[name]) for name in missing}
        _write(folder / MANIFEST, _as_bytes(known))
    for name in missing:
        _write(folder / name, kit[name] if isinstance(kit[name], bytes) else _as_bytes(kit[name]))
    return missing


def _told(kit: dict[str, Any], folder: Path, added: list[str]) -> list[str]:
    """Sentences on copies that were there before."""
    told = [f"Your copies of the notebooks are in {shown(folder)}, as you left them."]
    if names := [name for name in added if name.endswith(".ipynb")]:
        told.append(f"Added, because they were not there: {', '.join(names)}.")
    program = "dlkit" if shutil.which("dlkit") else shown(Path(sys.executable).with_name("dlkit"))
    mend = f"`{program} lab --fresh` makes new copies beside these."
    names = changed(kit, folder)
    if names is None:
        told.append(
            f"{shown(folder / MANIFEST)} is missing or damaged, so it is not known whether the kit's notebooks have "
            f"changed since your copies were made: {mend}"
        )
    elif names:
        told.append(f"The kit has changed these since your copies were made: {', '.join(names)}; {mend}")
    return told


def _number(folder: Path, name: str) -> int:
    """1 for the folder `name`, 2 for `name`-2 and so on; 0 for any other."""
    found = re.fullmatch(rf"{re.escape(name)}(?:-([2-9]|[1-9]\d+))?", folder.name)
    return int(found[1] or 1) if found else 0


def _manifest(folder: Path) -> dict[str, str]:
    """What the folder's manifest says; nothing if it is missing or damaged."""
    try:
        known = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _as_bytes(content: dict[str, Any]) -> bytes:
    """JSON, as notebooks are stored."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    """Write the file, which is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
