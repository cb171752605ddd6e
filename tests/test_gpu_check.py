"""The check for GPUs: what it says of checks that pass, fail, hang or die; and that it leaves no name out."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from gpu_check.__main__ import main, run_all  # noqa: E402
from gpu_check.running import Check, Row, run, why_not  # noqa: E402
from gpu_check.setting import Skipped  # noqa: E402

# Checks, for processes that import this module.


def fails():
    raise ValueError("2 is not 3\nand more")


def skips():
    raise Skipped("it is Sunday")


def good(setting):
    yield "a", lambda: f"on {setting.device}, {setting.seconds:.0f} s"
    yield "b", lambda: None
    yield "c", skips


def bad(setting):
    yield "a", lambda: "1.5 s"
    yield "b", fails
    yield "c", lambda: "goes on"


def absent(setting):
    yield "a", skips


def hangs(setting):
    yield "a", lambda: "1.5 s"
    yield "b", lambda: time.sleep(600)


def dies(setting):
    yield "a", lambda: os.kill(os.getpid(), signal.SIGSEGV)


def breaks(setting):
    yield "a", lambda: "1.5 s"
    raise RuntimeError("no parts")


def starts_a_process(setting):
    import subprocess

    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    yield str(started.pid), lambda: time.sleep(600)


def check(function, limit=30.0, **settings):
    return Check(function.__name__, f"test_gpu_check:{function.__name__}", limit, **settings)


def rows_of(capsys, tmp_path, *checks, options=()):
    code = main(["--device", "cpu", "--json", str(tmp_path / "out.json"), *options], checks)
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    return code, {row["check"]: row for row in rows} | {"all": rows}, capsys.readouterr().out


def test_each_check_has_its_outcome_in_the_table_and_in_the_file(capsys, tmp_path):
    checks = [check(function) for function in (good, bad, dies, absent, breaks)]
    code, rows, shown = rows_of(capsys, tmp_path, *checks, check(hangs, limit=1.5))
    assert code == 1
    assert {row["check"]: row["outcome"] for row in rows["all"]} == {
        "good": "passed", "bad": "failed", "dies": "failed", "absent": "skipped", "breaks": "failed", "hangs": "failed"
    }  # fmt: skip
    assert rows["good"]["measured"] == "2 of 3 parts; a: on cpu, 30 s; c skipped: it is Sunday"
    assert rows["bad"]["why"] == "b: ValueError: 2 is not 3"
    assert rows["bad"]["measured"] == "2 of 3 parts; a: 1.5 s; c: goes on"
    assert "in fails" in rows["bad"]["parts"][1]["details"]
    assert rows["dies"]["why"] == "its process ended by SIGSEGV in a"
    assert rows["breaks"]["why"] == "its process ended by exit code 1: RuntimeError: no parts"
    assert rows["absent"]["why"] == "it is Sunday"
    assert rows["hangs"]["why"] == "not done after 2 s in b"
    assert "test_gpu_check.py" in rows["hangs"]["log"]  # where its thread was
    assert rows["hangs"]["seconds"] < 30
    for row in rows["all"]:
        assert f"== {row['check']}: {row['outcome']}" in shown
    assert "2 is not 3" in shown


def test_nothing_that_failed_is_success_and_nothing_that_passed_is_none(capsys, tmp_path):
    assert rows_of(capsys, tmp_path, check(good), check(absent))[0] == 0
    assert rows_of(capsys, tmp_path, check(good), options=("--only", "another"))[0] == 1


def test_what_no_longer_fits_is_skipped_and_said(capsys, tmp_path, monkeypatch):
    code, rows, _ = rows_of(capsys, tmp_path, check(good), options=("--seconds", "10"))
    assert (code, rows["good"]["outcome"], rows["good"]["why"]) == (1, "skipped", "no time left")
    monkeypatch.setattr("gpu_check.running.LEAST", 1.0)
    assert run(check(hangs, limit=99), "cpu", [""], 1.5).why == "the time for all checks was over in b"


def test_checks_that_measure_run_alone_and_others_two_at_once_where_there_are_cores(monkeypatch):
    both = threading.Barrier(2)
    going, seen = [], []

    def pretended_run(check, device, gpus, left):
        going.append(check)
        if cores == 8 and not check.alone:
            both.wait(timeout=10)  # passed by two at once
        seen.append((check.name, len(going)))
        if cores == 8 and not check.alone:
            both.wait(timeout=10)
        going.remove(check)
        return Row(check.name, "passed")

    monkeypatch.setattr("gpu_check.__main__.run", pretended_run)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    checks = [check(good), check(bad), check(dies, alone=True), check(hangs), check(absent)]
    for cores, most in ((8, 2), (2, 1)):  # noqa: B007
        seen.clear()
        assert [row.check for row in run_all(checks, "cpu", [""], 100)] == [one.name for one in checks]
        assert dict(seen) == {one.name: 1 if one.alone else most for one in checks}


def test_without_enough_gpus_or_a_module_a_check_is_skipped_with_the_reason():
    assert why_not(check(good), ["0"], 100) == ""
    assert why_not(check(good, gpus=2), ["0"], 100) == "needs 2 GPUs, and there is 1"
    assert why_not(check(good, needs=("json", "no_such_module")), ["0"], 100).startswith("no_such_module not installed")


def test_a_check_that_takes_too_long_leaves_no_process_behind():
    row = run(check(starts_a_process, limit=2), "cpu", [""], 100)
    pid = int(row.why.split(" in ")[1])
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_a_gpu_it_is_the_rehearsal(monkeypatch, capsys, tmp_path):
    rehearsal = check(good)
    monkeypatch.setattr("gpu_check.__main__.gpus_here", list)
    monkeypatch.setattr("gpu_check.__main__.REHEARSAL", rehearsal)
    assert main(["--json", str(tmp_path / "out.json")], [check(bad)]) == 0
    said = capsys.readouterr().out
    assert "torch finds no GPU here: in place of the checks, the rehearsal" in said
    assert "dlkit on a pretended GPU" in said
    assert "this machine's GPUs" not in said


def test_the_rehearsal_is_all_tests_of_it(monkeypatch):
    from gpu_check import suites

    monkeypatch.setattr(suites, "pytest", lambda *arguments: " ".join(arguments))
    files = [str(path) for path in sorted((ROOT / "tests").glob("test_rehears*.py"))]
    assert [part() for _, part in suites.rehearsal(None)] == files


def test_ranks_that_are_to_share_a_gpu_see_one(monkeypatch):
    from gpu_check.running import environment

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert environment(check(good, one_gpu=True), ["3", "1"])["CUDA_VISIBLE_DEVICES"] == "3"
    assert environment(check(good), ["3", "1"])["CUDA_VISIBLE_DEVICES"] == "3,1"


def test_every_learner_strategy_and_net_is_tried_and_every_check_is_there():
    import importlib

    from gpu_check.checks import CHECKS, REHEARSAL
    from gpu_check.experiments import experiments
    from gpu_check.groups import SPLITS
    from gpu_check.steps import REPLAYED, small

    from dlkit import models, strategies
    from dlkit.training import Backprop, Learner

    training = importlib.import_module("dlkit.training")
    made = experiments()
    learners = {value for name in dir(training) if isinstance(value := getattr(training, name), type)}
    learners = {kind for kind in learners if issubclass(kind, Learner)} - {Learner, Backprop}
    assert {type(experiment.learner) for experiment in made.values()} == learners
    assert {models.LeNet5, models.ConvNet, models.LocalNet} <= {experiment.model for experiment in made.values()}
    assert training.LineSearches in {experiment.optimizer for experiment in made.values()}
    splits = {value for name in dir(strategies) if hasattr(value := getattr(strategies, name), "shard")}
    assert {type(strategy) for strategy, _ in SPLITS} == splits
    assert {name for _, names in SPLITS for name in names} <= set(made)
    assert set(REPLAYED) <= set(small())
    for one in (*CHECKS, REHEARSAL):
        module, function = one.parts.split(":")
        assert callable(getattr(importlib.import_module(module), function))
    assert [one.name for one in CHECKS] == sorted((one.name for one in CHECKS), key=lambda name: int(name.split()[0]))
