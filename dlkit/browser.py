"""Finds Chromium or Chrome, in which the browser tests run the notebooks."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> Path | None:
    """The path of the browser: $DLKIT_BROWSER, else Chromium or Chrome on PATH, else where they are usually installed.

    None if there is no browser. FileNotFoundError if $DLKIT_BROWSER names a file that is not there.
    """
    if named := os.environ.get("DLKIT_BROWSER"):
        if not Path(named).is_file():
            raise FileNotFoundError(f"DLKIT_BROWSER={named} is not a file: give the path of Chromium or Chrome.")
        return Path(named)
    on_path = (Path(path) for name in NAMES if (path := shutil.which(name)))
    return next((path for path in (*on_path, *off_path()) if path.is_file()), None)


def off_path() -> Iterator[Path]:
    """Where Chromium or Chrome may be on this system when it is not on PATH, playwright's own Chromium last."""
    home = Path.home()
    if sys.platform == "darwin":
        for folder in (Path("/Applications"), home / "Applications"):
            yield from (folder / f"{name}.app/Contents/MacOS/{name}" for name in ("Google Chrome", "Chromium"))
        cache, program = home / "Library/Caches/ms-playwright", "chrome-mac*/*.app/Contents/MacOS/*"
    elif sys.platform == "win32":
        for variable in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA"):
            folder = Path(os.environ.get(variable, "C:/Program Files"))
            yield from (folder / maker / "Application/chrome.exe" for maker in ("Google/Chrome", "Chromium"))
        cache, program = home / "AppData/Local/ms-playwright", "chrome-win*/chrome.exe"
    else:
        cache, program = home / ".cache/ms-playwright", "chrome-linux*/chrome"
    yield from sorted(cache.glob(f"chromium-*/{program}"), reverse=True)
