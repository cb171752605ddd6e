"""The folder of an asynchronous run: which run is in it, and how a run goes on from there."""

from pathlib import Path
from typing import Any

from dlkit.core.storage import read_json, write_json
from dlkit.strategies.asynchronous.record import Kind, path_of, read_rows
from dlkit.strategies.asynchronous.server import go_back_to_common
from dlkit.strategies.asynchronous.with_servers import WithServers
from dlkit.training.checkpoint import fingerprint, prepare, refuse_another
from dlkit.training.run import Run

ABOUT = "run.json"


def take_folder(folder: Path, run: Run, strategy: WithServers, *, resume: bool) -> None:
    """Make the folder ready for a run, or for its going on. ValueError if it holds another run."""
    prepare(folder)
    about: dict[str, Any] = {"fingerprint": fingerprint(run), "strategy": repr(strategy)}
    path = folder / ABOUT
    if resume and path.exists():
        kept = read_json(path)
        here, there = (each["fingerprint"] | {"strategy": each["strategy"]} for each in (about, kept))
        refuse_another(here, there, folder)
        go_back_to_common(folder, strategy.servers)
        return
    for old in (*folder.glob("shard-*.safetensors"), *folder.glob("arrivals-*.bin")):
        old.unlink()
    write_json(about, path)


def replicas_before(folder: Path | None, servers: int) -> int:
    """How many replicas have begun in the lives before, of a run that goes on: new ones have other numbers."""
    if folder is None:
        return 0
    paths = [path_of(folder, server) for server in range(servers)]
    rows = [row for path in paths if path.exists() for row in read_rows(path)]
    return 1 + max((row.who for row in rows if row.kind == Kind.JOIN), default=-1)
