"""Tests and notebooks that there are anyway, as a reader runs them."""

import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from gpu_check.running import ROOT
from gpu_check.setting import Parts, Setting

TESTS = ROOT / "tests"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal
REHEARSED = ("test_rehearsal.py", "test_rehearsed_apple.py", "test_rehearsed_strategies.py")
NOTEBOOKS = ("02_*", "03_*", "04_*", "08_*", "09_*")


def cuda_tests(setting: Setting) -> Parts:
    files = sorted(path for path in TESTS.rglob("test_*.py") if "mark.cuda" in path.read_text())
    yield "pytest -m cuda", lambda: passed(pytest("-m", "cuda", *map(str, files)), setting)


def passed(last: str, setting: Setting) -> str:
    assert "passed" in last or not setting.is_gpu, last
    return last


def rehearsal(setting: Setting) -> Parts:
    for name in REHEARSED:
        yield f"tests/{name}", lambda name=name: pytest(str(TESTS / name))


def pytest(*arguments: str) -> str:
    """The last line that pytest prints. AssertionError, with more of it, if a test fails, or if there is none."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 0, f"{last}\n{done.stdout[-6000:]}"
    return last


def notebooks(setting: Setting) -> Parts:
    """Some at once; each in its own kernel, by its own process."""
    at_once = max(1, (os.cpu_count() or 1) // 2)
    paths = sorted(path for pattern in NOTEBOOKS for path in (ROOT / "notebooks").glob(f"{pattern}.ipynb"))
    with ThreadPoolExecutor(at_once) as pool:
        running = {path: pool.submit(execute, path) for path in paths}
        for path, future in running.items():
            yield path.stem, lambda future=future: wait_for(future)


def wait_for(future: Future[None]) -> None:
    future.result()


def execute(path: Path) -> None:
    """Run all cells; what they show is not kept. AssertionError with the end of what nbconvert says if one raises."""
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--log-level=ERROR"]
        done = subprocess.run([*command, "--output-dir", folder, str(path)], capture_output=True, text=True)
    text = COLOURS.sub("", done.stderr).strip()
    last = text.splitlines()[-1:] or ["no words"]
    assert done.returncode == 0, f"{last[0]}\n{text[-6000:]}"
