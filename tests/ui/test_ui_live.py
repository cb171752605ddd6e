"""The live cluster shows who is there, and its run can be stopped, cut off by a kill, recovered and gone on with."""

import os
import threading
import time
from dataclasses import replace
from xml.etree import ElementTree

import psutil
import pytest
from splitting import digits, same_bits, slow_net

from dlkit import Experiment
from dlkit.cluster import ClusterError
from dlkit.models import LeNet5
from dlkit.strategies import DataParallel, Downpour
from dlkit.training import CrossEntropy
from dlkit.ui.draw.engine_table import load_bar
from dlkit.ui.live import EVERY, LiveCluster

SHORT = Experiment(LeNet5, digits(1000), CrossEntropy(), lr=0.002, momentum=0.9, epochs=6)
SLOW = replace(SHORT, model=slow_net(0.03))
ENDLESS = replace(SLOW, epochs=10**5)


@pytest.fixture
def show(cluster):
    """Makes one; afterwards none goes on and the cluster is whole."""
    yield lambda experiment=SHORT, strategy=None: LiveCluster(cluster, experiment, strategy or DataParallel())
    if LiveCluster.current is not None:
        LiveCluster.current.retire()
        LiveCluster.current = None
    cluster.start().recover()


def until(true, limit=60):
    end = time.monotonic() + limit
    while not true():
        assert time.monotonic() < end, f"not within {limit} s"
        time.sleep(0.02)


def cells(live):
    """What the table says: a list a row, the load as its number."""
    rows = ElementTree.fromstring(live.engines.value.partition("</table>")[0] + "</table>").findall(".//tbody/tr")
    return [["".join(cell.itertext()).strip() for cell in row] for row in rows]


def test_a_row_an_engine_says_who_it_is(cluster, show):
    rows = cells(show())
    pids = cluster.call(os.getpid)
    assert [row[:2] for row in rows] == [["0", str(pids[0])], ["1", str(pids[1])]]
    assert [row[2] for row in rows] == [place.device for place in cluster.plan]
    assert [row[4] for row in rows] == ["ready", "ready"]


def test_its_run_is_the_cluster_s_own(cluster, show):
    live = show()
    live.start_button.click()
    split = live.wait()
    assert live.run is split
    assert (split.step, split.stopped) == (60, None)
    assert same_bits(split.model, cluster.run(SHORT, DataParallel(), progress=False).model)
    assert "Finished at step 60" in live.status.value


def test_it_draws_what_the_run_tells(show):
    live = show(ENDLESS)
    live.start()
    until(lambda: len(live.progress) >= 3)
    live.stop()
    live.wait()
    steps = [report["step"] for report in live.progress]
    assert steps == sorted(set(steps))
    first, last = live.progress[0]["loss"], live.progress[-1]["loss"]
    assert f"loss: from {first:.4g} to {last:.4g} at step {steps[-1]:.3g}" in live.chart.value


def test_stop_ends_the_run_after_a_step_that_all_took_and_the_buttons_follow(show):
    live = show(ENDLESS)
    buttons = live.start_button, live.recover_button, live.stop_button
    assert [button.disabled for button in buttons] == [False, False, True]
    live.start()
    assert [button.disabled for button in buttons] == [True, True, False]
    until(lambda: live.progress)
    live.stop_button.click()
    split = live.wait()
    assert split.stopped == "stopped"
    assert 0 < split.step < 10**6
    assert [button.disabled for button in buttons] == [False, False, True]
    assert "Stopped at step" in live.status.value


def test_a_run_on_a_cluster_can_be_stopped_from_another_thread(cluster):
    stop = threading.Event()
    threading.Timer(1, stop.set).start()
    assert cluster.run(ENDLESS, DataParallel(), stop=stop, progress=False).stopped == "stopped"
    assert cluster.run(SHORT, DataParallel(), steps=2, stop=threading.Event(), progress=False).stopped is None


def test_while_it_is_busy_nothing_else_begins(show):
    live = show(ENDLESS)
    live.start()
    for other in (live.start, live.recover):
        with pytest.raises(RuntimeError, match="the cluster is busy"):
            other()
    live.stop()
    live.wait()


def test_a_run_that_a_kill_cut_off_goes_on_to_the_same_bits(cluster, show):
    whole = cluster.run(replace(SHORT, model=slow_net(0), epochs=10), DataParallel(), progress=False)
    live = show(replace(SLOW, epochs=10))
    live.start()
    until(lambda: live.progress and live.progress[-1]["step"] > EVERY)  # after a checkpoint
    pids = [row[1] for row in cells(live)]
    live.engine.value = 1
    live.kill_button.click()
    with pytest.raises(ClusterError, match=rf"engine 1 \(.*pid {pids[1]}.*has died.*goes on from step \d+\."):
        live.wait()
    assert "has died" in live.status.value
    assert cells(live)[1][4] == "gone"
    live.recover_button.click()
    resumed = live.wait()
    assert resumed.step == 100
    assert same_bits(whole.model, resumed.model)
    assert cells(live)[0][1] == pids[0]
    assert cells(live)[1][1] != pids[1]
    steps = [report["step"] for report in live.progress]
    assert steps == sorted(set(steps))


def test_an_idle_engine_is_killed_and_recovered_too(cluster, show):
    live = show()
    victim = cluster.call(os.getpid)[0]
    live.kill(0)
    assert f"Engine 0 (pid {victim}) is killed" in live.status.value
    until(lambda: cells(live)[0][4] == "gone")  # without a press: it redraws by itself
    live.kill(0)
    assert "nothing to kill" in live.status.value
    live.recover()
    live._idle.wait()
    assert "All engines are ready" in live.status.value
    assert psutil.pid_exists(cluster.call(os.getpid)[0])


def test_a_stopped_cluster_is_shown_as_such_and_recover_starts_it(cluster, show):
    live = show()
    cluster.stop()
    until(lambda: "No engine is up" in live.engines.value)
    live.start()
    with pytest.raises(ClusterError, match="not started"):
        live.wait()
    live.recover()
    assert live.wait().step == 60  # what Run could not do is done
    assert [row[4] for row in cells(live)] == ["ready", "ready"]


def test_what_cannot_run_is_told_in_words(show):
    live = show(replace(SHORT, batch_size=5000))
    live.start()
    with pytest.raises(ValueError, match="batches of 5000"):
        live.wait()
    assert "Failed: ValueError: 1000 images for batches of 5000" in live.status.value


def test_the_same_cell_run_again_stops_the_run_of_the_one_before(show):
    first = show(ENDLESS)
    first.start()
    until(lambda: first.progress)
    show()
    assert first.run.stopped == "stopped"
    until(lambda: not first._watcher.is_alive())


def test_waiting_for_nothing_says_what_to_do(show):
    with pytest.raises(RuntimeError, match="press Run, first"):
        show().wait()


@pytest.mark.parametrize(("percent", "width", "text"), [(0, 0, "0 %"), (50, 60, "50 %"), (140, 120, "140 %")])
def test_a_bar_is_as_long_as_the_load_and_no_longer_than_its_frame(percent, width, text):
    assert f"width: {width}px; height: 10px; background" in load_bar(percent)
    assert load_bar(percent).endswith(text)


def test_a_run_with_servers_goes_on_when_the_engine_of_the_server_is_killed(show):
    made = replace(SLOW, data=digits(400), batch_size=10, row_every=5, momentum=0)
    live = show(made, Downpour(share=True))
    assert [row[6] for row in cells(live)] == ["server 0 and replica 0", "replica 1"]
    live.start()
    until(lambda: live.progress)
    pids = [row[1] for row in cells(live)]
    live.engine.value = 0
    live.kill_button.click()
    assert "the run goes on, and it comes back" in live.status.value
    run = live.wait()
    assert (run.step, run.stopped) == (240, None)
    assert "Finished at step 240" in live.status.value
    assert f"pid {pids[0]}, cpu) has died, and with it server 0 and a replica of part 0" in live.faults.value
    assert "engine 0 has come back" in live.faults.value
    steps = [report["at"] for report in live.progress]
    assert steps == sorted(set(steps))
    live.start()  # again, by the same button
    until(lambda: not live.faults.value)
    live.stop()
    assert live.wait().stopped == "stopped"
