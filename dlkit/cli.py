"""The command line: dlkit doctor | lab | bench | reproduce."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Annotated, NoReturn
from urllib.parse import quote

import typer

from dlkit.core.installation import REINSTALL

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


def lab_command(port: int | None, browser: bool, fresh: bool = False) -> list[str]:
    """What starts JupyterLab on the student's copy of the first notebook; older copies are in folders beside.

    Raises FileNotFoundError if JupyterLab is missing, and what `open_copies` raises.
    """
    from importlib.util import find_spec

    from dlkit import copies

    if not find_spec("jupyterlab"):
        raise FileNotFoundError(f"JupyterLab is not installed: {REINSTALL} installs it.")
    folder, told = copies.open_copies(fresh)
    typer.echo("\n".join(told))
    command = [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={folder.parent}"]
    command += [f"--LabApp.default_url=/lab/tree/{quote(folder.name)}/{copies.FIRST}"]
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
    fresh: Annotated[bool, typer.Option("--fresh", help="Make new copies, in a folder beside the old ones.")] = False,
) -> None:
    """Open JupyterLab on your copy of the first notebook; copies are made the first time."""
    with errors_as_sentences():
        command = lab_command(port, browser, fresh)
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
