"""Runs a check in a process of its own, for a limited time: an error of CUDA, or a hang, costs that check alone."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
LEAST = 15.0  # seconds without which no check is begun
_running: list[subprocess.Popen] = []


@dataclass(frozen=True)
class Check:
    """parts: module:function, which gives them. limit: seconds. gpus: how many it takes, at least.

    one_gpu: it sees the first GPU alone, which its ranks share. needs: modules that are not everywhere. alone: no other
    check meanwhile, as it measures time or memory.
    """

    name: str
    parts: str
    limit: float
    gpus: int = 1
    one_gpu: bool = False
    needs: tuple[str, ...] = ()
    alone: bool = False


@dataclass(frozen=True)
class Row:
    """A check's line of the table; `log` is the end of what its process has written, if it failed."""

    check: str
    outcome: str  # passed, failed, skipped
    why: str = ""
    seconds: float = 0.0
    measured: str = ""
    parts: list[dict[str, Any]] = field(default_factory=list)
    log: str = ""


def why_not(check: Check, gpus: list[str], left: float) -> str:
    """Why the check cannot be tried; "" if it can. left: the seconds that are left for all checks."""
    missing = [name for name in check.needs if importlib.util.find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed: `pip install -e '.[test]'` in this environment adds what lacks"
    if len(gpus) < check.gpus:
        return f"needs {check.gpus} GPUs, and there {'is' if len(gpus) == 1 else 'are'} {len(gpus)}"
    return "" if left >= LEAST else "no time left"


def run(check: Check, device: str, gpus: list[str], left: float) -> Row:
    """The check's row. gpus: what CUDA_VISIBLE_DEVICES calls each."""
    if reason := why_not(check, gpus, left):
        return Row(check.name, "skipped", reason)
    limit = min(check.limit, left)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        file, log = Path(folder, "parts"), Path(folder, "log")
        command = [sys.executable, "-m", "gpu_check.one", check.parts, device, str(limit), str(file)]
        with log.open("w") as output:
            process = subprocess.Popen(
                command, env=environment(check, gpus), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        _running.append(process)
        try:
            process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            pass
        finally:
            ended = process.poll()
            end(process)
            _running.remove(process)
        written = log.read_text(errors="replace")[-4000:]
        lines = file.read_text().splitlines() if file.exists() else []
    outcome, why, parts = judge([json.loads(line) for line in lines], ended, limit, limit < check.limit, written)
    seconds = round(time.monotonic() - begun, 1)
    return Row(check.name, outcome, why, seconds, summary(parts), parts, written if outcome == "failed" else "")


def environment(check: Check, gpus: list[str]) -> dict[str, str]:
    path = os.pathsep.join([*(str(ROOT / name) for name in ("", "tests", "tools")), os.environ.get("PYTHONPATH", "")])
    own = {"PYTHONPATH": path, "PYTHONFAULTHANDLER": "1", "TQDM_DISABLE": "1"}
    return os.environ | own | ({"CUDA_VISIBLE_DEVICES": gpus[0]} if check.one_gpu and gpus[0] else {})


def end(process: subprocess.Popen) -> None:
    """End it, with all that it has started; one that still runs writes first where its threads are."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    if process.poll() is None:
        process.send_signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=2)
        process.kill()
        process.wait()
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def end_all() -> None:
    """For somebody who has had enough."""
    for process in list(_running):
        end(process)


def judge(
    lines: list[dict[str, Any]], ended: int | None, limit: float, cut: bool, written: str
) -> tuple[str, str, list[dict[str, Any]]]:
    """(outcome, why, parts) of what a process wrote. ended: its exit code, or None. cut: had it less than its limit?"""
    parts = [line for line in lines if line["outcome"] not in ("begun", "end")]
    failed = [f"{part['name']}: {part['why']}" for part in parts if part["outcome"] == "failed"]
    skipped = [part for part in parts if part["outcome"] == "skipped"]
    last = lines[-1] if lines else {"outcome": "", "name": ""}
    where = f" in {last['name']}" if last["outcome"] == "begun" else ""
    if ended is None and cut and not failed:
        return "skipped", f"the time for all checks was over{where}", parts
    if ended is None:
        failed.append(f"not done after {limit:.0f} s{where}")
    elif ended or last["outcome"] != "end":
        died = signal.Signals(-ended).name if ended < 0 else f"exit code {ended}"
        told = [line for line in written.splitlines() if line.strip()][-1:] if ended > 0 else []
        failed.append(f"its process ended by {died}{where}" + "".join(f": {line.strip()}" for line in told))
    if failed:
        return "failed", "; ".join(failed), parts
    if len(skipped) == len(parts):
        reasons = dict.fromkeys(part["why"] for part in skipped)
        return "skipped", "; ".join(reasons) or "nothing to try here", parts
    return "passed", "", parts


def summary(parts: list[dict[str, Any]]) -> str:
    """How many parts passed, and what they measured: what many have in common is said once."""
    passed = [part for part in parts if part["outcome"] == "passed"]
    skipped = [f"{part['name']} skipped: {part['why']}" for part in parts if part["outcome"] == "skipped"]
    count = Counter(part["measured"] for part in passed if part["measured"])
    texts = [f"{text} ({n})" for text, n in count.items() if n > 2]
    texts += [f"{part['name']}: {part['measured']}" for part in passed if 0 < count[part["measured"]] <= 2]
    return "; ".join([f"{len(passed)} of {len(parts)} parts", *texts, *skipped]) if parts else ""
