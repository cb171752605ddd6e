"""Where dlkit's own files are: in a checkout of its repository, or in what a wheel brought; and how to mend them."""

import sys
from importlib.metadata import version
from pathlib import Path

WHEEL_FILES = Path(__file__).resolve().parents[1] / "_share"  # only a wheel has this folder: see pyproject.toml
FROM_WHEEL = WHEEL_FILES.is_dir()
ROOT = WHEEL_FILES if FROM_WHEEL else WHEEL_FILES.parents[1]  # holds data/ and notebooks/

_python = Path(sys.executable)
_pip = f"{_python.relative_to(ROOT) if _python.is_relative_to(ROOT) else _python} -m pip install"
if FROM_WHEEL:  # with its version: an index may hold another package of this name
    REINSTALL = f'`{_pip} "dlkit[lab]=={version("dlkit")}"`'
else:
    REINSTALL = f'`{_pip} -c constraints.txt -e ".[lab]"` in the project folder'


def shown(path: Path) -> str:
    """The path as the reader would type it in the current folder."""
    return (path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path).as_posix()


def restore(folder: Path) -> str:
    """What brings back files of a folder that comes with dlkit, such as data/: the end of a sentence."""
    root = folder.parent
    if root == WHEEL_FILES:
        wheel = f"dlkit-{version('dlkit')}-py3-none-any.whl"
        return f"`{_pip} --force-reinstall --no-deps {wheel}` in the folder of that wheel brings it back"
    if not ((root / ".git").exists() and (root / "dlkit").is_dir()):
        return f"copy {shown(folder)} again from the dlkit repository"
    where = "" if root == Path.cwd() else f' -C "{root.as_posix()}"'
    return f"`git{where} checkout {folder.name}/` brings it back"
