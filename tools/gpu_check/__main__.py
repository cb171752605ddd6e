"""Tries dlkit on GPUs, what may break most first: `sh tools/gpu_check.sh [--json FILE] [--only WORD]`."""

import argparse
import json
import os
import platform
import socket
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path

from gpu_check.checks import CHECKS, REHEARSAL
from gpu_check.running import Check, Row, end_all, run
from rich.console import Console
from rich.table import Table

TOTAL = 470.0  # seconds for all checks
CORES = 8  # of a machine on which two checks do not wait for each other


def main(arguments: Sequence[str] | None = None, checks: Sequence[Check] = CHECKS) -> int:
    """The exit code: 1 if a check failed, or if none could be tried."""
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("gpu_check.json"), help="where the results go")
    parser.add_argument("--only", default="", help="only checks with this in their name")
    parser.add_argument("--device", choices=("cpu",), help=argparse.SUPPRESS)  # the checks' own code, without a GPU
    parser.add_argument("--seconds", type=float, help=f"for all checks together ({TOTAL:g}; the rehearsal has longer)")
    wanted = parser.parse_args(arguments)
    gpus = [""] * 4 if wanted.device else gpus_here()
    seconds, title = TOTAL, "dlkit on this machine's GPUs" if gpus else "dlkit on a pretended GPU"
    if not gpus:
        print("torch finds no GPU here: in place of the checks, the rehearsal on a pretended one (tests/pretended.py).")
        checks, gpus, seconds = [REHEARSAL], [""], REHEARSAL.limit
    checks = [check for check in checks if wanted.only in check.name]
    rows = run_all(checks, wanted.device or "cuda", gpus, wanted.seconds or seconds)
    show(rows, title)
    machine = {"host": socket.gethostname(), "system": platform.platform(), "python": sys.version.split()[0]}
    wanted.json.write_text(json.dumps({**machine, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")
    print(f"With tracebacks: {wanted.json}")
    outcomes = {row.outcome for row in rows}
    return int("failed" in outcomes or "passed" not in outcomes)


def run_all(checks: Sequence[Check], device: str, gpus: list[str], seconds: float) -> list[Row]:
    """Their rows, in their order. Two checks go on at once where there are cores for both."""
    begun = time.monotonic()

    def one(check: Check) -> Row:
        row = run(check, device, gpus, seconds - (time.monotonic() - begun))
        print(f"== {row.check}: {row.outcome}, {row.seconds:.0f} s", flush=True)
        return row

    rows: list[Future[Row]] = []
    with ThreadPoolExecutor(2 if (os.cpu_count() or 1) >= CORES else 1) as pool:
        try:
            for check in checks:
                if check.alone:
                    wait(rows)
                rows.append(pool.submit(one, check))
                if check.alone:
                    wait(rows)
            wait(rows)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            end_all()
            raise
    return [row.result() for row in rows]


def gpus_here() -> list[str]:
    from dlkit.cluster.placement import gpus_here

    return gpus_here()


def show(rows: Sequence[Row], title: str) -> None:
    table = Table(title=title, title_justify="left", show_lines=True)
    for name in ("check", "outcome", "seconds", "why, and what was measured"):
        table.add_column(name, justify="right" if name == "seconds" else "left", overflow="fold")
    for row in rows:
        text = "\n".join(part for part in (row.why, row.measured) if part)
        table.add_row(row.check, row.outcome, f"{row.seconds:.1f}", text)
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table, markup=False)  # a pipe has no width


if __name__ == "__main__":
    sys.exit(main())
