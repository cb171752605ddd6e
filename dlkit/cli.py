"""The command line: dlkit doctor | lab | bench | reproduce."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from dlkit.core.installation import FROM_WHEEL, REINSTALL, ROOT, restore

FIRST = Path("notebooks", "00_start_here.ipynb")

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Name = Annotated[str | None, typer.Argument(help="Left out: lists the names.", show_default=False)]


def stop(sentence: object, code: int = 1) -> NoReturn:
    """End the program with this sentence on stderr and this exit code."""
    typer.echo(f"dlkit: {sentence}", err=True)
    raise typer.Exit(code)


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Errors that dlkit raises on purpose end the program with their message alone, without a traceback."""
    try:
        yield
    except (typer.Exit, typer.Abort):  # they are RuntimeErrors too
        raise
    except ModuleNotFoundError as error:
        stop(f"{error}: {REINSTALL} installs what is needed, `dlkit doctor` says what is missing.")
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        stop(error)


def show_version(wanted: bool) -> bool:
    """Print the version and end, if that is wanted."""
    if wanted:
        typer.echo(f"dlkit {metadata.version('dlkit')}")
        raise typer.Exit
    return wanted


@app.callback(help="Deep learning and high-performance computing, to run, break and measure in Jupyter notebooks.")
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say whether the notebooks will work on this machine, and how to mend what does not work."""
    with errors_as_sentences():
        from rich.console import Console

        from dlkit import doctor

        with Console(stderr=True).status("checking (about 15 s)"):
            rows = list(doctor.rows())
        if as_json:
            typer.echo(doctor.as_json(rows))
        else:
            Console().print(doctor.table(rows))
        raise typer.Exit(int(any(row.state == "fail" for row in rows)))


def copy_notebooks() -> Path:
    """Folder with a copy of the notebooks to work in: the current one if it has them, else dlkit-notebooks in it.

    Only what is not there yet is copied. Raises RuntimeError where the folder cannot be written.
    """
    source, here = ROOT / FIRST.parent, Path.cwd()
    folder = here if (here / FIRST.name).is_file() else here / "dlkit-notebooks"
    names = [path.relative_to(source) for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    missing = [name for name in names if not (folder / name).exists()]
    try:
        for name in missing:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            partial = (folder / name).with_suffix(".partial")
            shutil.copyfile(source / name, partial)
            partial.replace(folder / name)
    except OSError as error:
        raise RuntimeError(
            f"the notebooks cannot be copied to {folder} ({error.strerror}): "
            "start `dlkit lab` in a folder of yours, on a disk that is not full."
        ) from None
    typer.echo(
        f"The notebooks are in {folder}: {len(missing)} of {len(names)} files were copied now, "
        "and the others are as you left them."
    )
    return folder


def lab_command(port: int | None, browser: bool) -> list[str]:
    """What starts JupyterLab on the first notebook: in the checkout, or in a copy of what a wheel brought.

    Raises FileNotFoundError if JupyterLab or the notebook is missing, and what `copy_notebooks` raises.
    """
    from importlib.util import find_spec

    if not find_spec("jupyterlab"):
        raise FileNotFoundError(f"JupyterLab is not installed: {REINSTALL} installs it.")
    if not (ROOT / FIRST).is_file():
        raise FileNotFoundError(
            f"{ROOT / FIRST} is missing: it is part of the repository; {restore(ROOT / FIRST.parent)}."
        )
    folder, first = (copy_notebooks(), FIRST.name) if FROM_WHEEL else (ROOT, FIRST.as_posix())
    command = [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={folder}"]
    command += [f"--LabApp.default_url=/lab/tree/{first}"]
    if port is not None:
        command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if not browser:
        command += ["--no-browser"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # a container's root
        command += ["--allow-root"]
    return command


@app.command()
def lab(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: 8888, or the next that is free.")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
) -> None:
    """Open JupyterLab on the first notebook."""
    with errors_as_sentences():
        command = lab_command(port, browser)
        if os.name == "posix":
            os.execv(command[0], command)  # the server takes this process's place, and its signals
        raise typer.Exit(subprocess.call(command))


def chosen(name: str | None, names: tuple[str, ...]) -> str:
    """The name, if it is one of `names`; otherwise the program ends with a list of these."""
    listed = ", ".join(names)
    if name is None:
        stop(f"give a name: {listed}.", 2)
    if name not in names:
        stop(f"there is no {name!r}: the names are {listed}.", 2)
    return name


@app.command()
def bench(name: Name = None, as_json: Json = False) -> None:
    """Measure how fast this machine trains, beside a reference, such as its matrix products alone."""
    with errors_as_sentences():
        from dlkit import bench

        bench.run(chosen(name, bench.NAMES), as_json=as_json)


@app.command()
def reproduce(
    name: Name = None,
    quick: Annotated[bool, typer.Option("--quick", help="A reduced table, in about a minute.")] = False,
    as_json: Json = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew instead of going on from checkpoints.")] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="Draws to take the mean of; by default the table's.")] = None,
) -> None:
    """Measure a published table again and print both."""
    with errors_as_sentences():
        from dlkit import papers

        papers.run(chosen(name, papers.NAMES), quick=quick, as_json=as_json, fresh=fresh, seeds=seeds)


if __name__ == "__main__":
    app()
