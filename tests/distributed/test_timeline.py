"""What ranks did when: worked examples of a few spans, and a run on two ranks, whose times must add up."""

import json
import random
from functools import partial
from itertools import pairwise

import pytest
import torch
from ranks import team

from dlkit import Experiment
from dlkit.distributed.group import Group
from dlkit.distributed.recorder import MAX_SPANS, Recorder, Span, now
from dlkit.distributed.timeline import Timeline
from dlkit.models import RBM
from dlkit.strategies import DataParallel
from dlkit.training import CD


def step(begin, end, number=1):
    return Span("step", "step", begin, end, number=number)


def exchange(begin, end, number=1, bytes_sent=100, wait_begin=None, group="all", name="all-reduce"):
    return Span("exchange", name, begin, end, group, number, bytes_sent, wait_begin)


def times(timeline, rank):
    return [(segment.kind, round(segment.begin, 9), round(segment.end, 9)) for segment in timeline.segments(rank)]


# Rank 0 comes to the exchange at 3, rank 1, which is late, at 6; it ends at 8 on both, and the step at 9 and 10.
LATE = [[exchange(13, 18), step(10, 19)], [exchange(16, 18), step(11, 20)]]


def test_a_rank_waits_until_the_last_has_come_and_communicates_until_the_end():
    timeline = Timeline(LATE)
    assert times(timeline, 0) == [("compute", 0, 3), ("wait", 3, 6), ("communicate", 6, 8), ("compute", 8, 9)]
    assert times(timeline, 1) == [("compute", 1, 6), ("communicate", 6, 8), ("compute", 8, 10)]
    assert [segment.last_rank for segment in timeline.segments(0) if segment.kind != "compute"] == [1, 1]


def test_totals_are_the_seconds_of_each_kind_and_make_up_the_whole():
    first, second = Timeline(LATE).totals()
    assert (first.compute, first.communicate, first.wait, first.other) == (4, 2, 3, 1)
    assert (second.compute, second.communicate, second.wait, second.other) == (7, 2, 0, 1)
    assert first.share("wait") == 0.3
    assert (first.seconds, first.bytes_sent, first.overlapped) == (10, 100, 0)


def test_totals_show_as_a_table_in_text_and_in_html():
    totals = Timeline(LATE).totals()
    lines = [line.split("  ") for line in repr(totals).splitlines()]
    assert [cell.strip() for cell in lines[1] if cell] == [
        "0",
        "4 s (40%)",
        "2 s (20%)",
        "3 s (30%)",
        "1 s (10%)",
        "100 B",
    ]
    assert "<td>1</td><td>7 s (70%)</td>" in totals._repr_html_()
    assert "overlapped" not in repr(totals)


def test_an_exchange_that_goes_on_while_a_rank_computes_counts_from_when_it_waits():
    # Begun at 2 and 3; waited for from 6 and from 4; over at 7 on both.
    spans = [
        [exchange(2, 7, wait_begin=6), step(0, 8)],
        [exchange(3, 7, wait_begin=4), step(0, 8)],
    ]
    timeline = Timeline(spans)
    assert times(timeline, 0) == [("compute", 0, 6), ("communicate", 6, 7), ("compute", 7, 8)]
    assert times(timeline, 1) == [("compute", 0, 4), ("communicate", 4, 7), ("compute", 7, 8)]
    assert [row.overlapped for row in timeline.totals()] == [3, 1]  # from 3, when the last had come
    assert "overlapped" in repr(timeline.totals())


def test_overlapped_exchanges_of_which_several_go_on_count_once():
    spans = [[exchange(1, 6, 1, wait_begin=5), exchange(2, 7, 2, wait_begin=6), step(0, 8)]]
    timeline = Timeline(spans)
    assert [(segment.begin, segment.end) for segment in timeline.overlapped(0)] == [(1, 5), (2, 6)]
    assert timeline.totals()[0].overlapped == 5
    assert times(timeline, 0) == [("compute", 0, 5), ("communicate", 5, 6), ("communicate", 6, 7), ("compute", 7, 8)]


def test_a_late_rank_is_waited_for_only_from_when_there_is_nothing_else_to_do():
    timeline = Timeline([[exchange(1, 8, wait_begin=3), step(0, 9)], [exchange(5, 8), step(0, 9)]])
    assert times(timeline, 0) == [("compute", 0, 3), ("wait", 3, 5), ("communicate", 5, 8), ("compute", 8, 9)]
    assert timeline.overlapped(0) == []


def test_exchanges_of_other_numbers_and_other_groups_are_not_waited_for():
    spans = [
        [exchange(1, 2, 1, group="a"), exchange(3, 4, 2, group="a"), step(0, 6)],
        [exchange(1.5, 2, 1, group="b"), exchange(1, 4, 2, group="b"), step(0, 6)],
    ]
    assert all(row.wait == 0 for row in Timeline(spans).totals())


def test_neighbours_do_not_wait_for_who_comes_after_they_have_finished():
    spans = [[exchange(1, 4), step(0, 9)], [exchange(2, 4), step(0, 9)], [exchange(6, 8), step(0, 9)]]
    timeline = Timeline(spans)
    assert times(timeline, 0)[1:3] == [("wait", 1, 2), ("communicate", 2, 4)]
    assert timeline.segments(0)[1].last_rank == 1
    assert times(timeline, 2)[1] == ("communicate", 6, 8)


def test_a_send_that_takes_no_time_is_where_its_receiver_stops_waiting():
    """As in a pipeline: rank 2 sends to rank 3, or rank 3 to rank 2, and goes on at once."""
    for sender, receiver in ((2, 3), (3, 2)):
        spans = [[step(0, 9)] for _ in range(4)]
        spans[sender].append(exchange(4, 4, group="2-3"))
        spans[receiver].append(exchange(1, 6, group="2-3"))
        timeline = Timeline(spans)
        assert times(timeline, sender) == [("compute", 0, 9)]
        assert times(timeline, receiver)[1:3] == [("wait", 1, 4), ("communicate", 4, 6)]
        assert timeline.segments(receiver)[1].last_rank == sender


def test_a_receiver_that_comes_late_does_not_wait_for_what_has_been_sent():
    for sender, receiver in ((2, 3), (3, 2)):
        spans = [[step(0, 9)] for _ in range(4)]
        spans[sender].append(exchange(1, 1, group="2-3"))
        spans[receiver].append(exchange(4, 6, group="2-3"))
        timeline = Timeline(spans)
        assert timeline.overlapped(sender) == []
        assert times(timeline, sender) == [("compute", 0, 9)]
        assert times(timeline, receiver)[1] == ("communicate", 4, 6)


def test_where_a_strategy_has_its_computing_apart_the_rest_of_a_step_is_other():
    spans = [[Span("compute", "forward 0", 1, 3), exchange(3, 4), Span("compute", "backward 0", 5, 6), step(0, 8)]]
    timeline = Timeline(spans)
    assert times(timeline, 0) == [("compute", 1, 3), ("communicate", 3, 4), ("compute", 5, 6)]
    assert timeline.totals()[0].other == 4


def test_what_threads_exchange_while_another_computes_takes_nothing_from_it():
    spans = [[Span("compute", "step", 1, 5), exchange(2, 7), exchange(3, 8, 2), step(0, 9)]]
    assert times(Timeline(spans), 0) == [("compute", 1, 5), ("communicate", 5, 7), ("communicate", 7, 8)]


TWO = [  # two steps on each of two ranks
    [step(0, 4, 1), step(5, 9, 2), exchange(6, 8, 2), exchange(1, 3, 1)],
    [step(0, 4, 1), step(5, 10, 2), exchange(7, 8, 2), exchange(1, 3, 1)],
]


def test_a_part_is_cut_at_its_ends():
    part = Timeline(TWO).between(2, 6.5)
    assert times(part, 0) == [
        ("communicate", 2, 3), ("compute", 3, 4), ("compute", 5, 6), ("wait", 6, 6.5),
    ]  # fmt: skip
    totals = part.totals()[0]
    assert (totals.seconds, totals.compute, totals.communicate, totals.wait, totals.other) == (4.5, 2, 1, 0.5, 1)
    assert totals.bytes_sent == 100  # the second exchange has not ended yet


def test_steps_are_parts_from_the_first_that_begins_to_the_last_that_ends():
    timeline = Timeline(TWO)
    part = timeline.steps(2, 2)
    assert (part.begin, part.end) == (5, 10)
    assert part.step_begins() == {2: 5}
    assert timeline.step_begins() == {1: 0, 2: 5}
    assert repr(part) == "Timeline(2 ranks, steps 2 to 2, 5 s)"


def test_it_begins_with_the_first_step_that_all_ranks_still_have():
    kept = [TWO[0], [span for span in TWO[1] if span.number == 2]]
    timeline = Timeline(kept)
    assert (timeline.begin, timeline.end) == (0, 5)
    assert times(timeline, 1) == [("compute", 0, 2), ("communicate", 2, 3), ("compute", 3, 5)]


def test_what_comes_before_the_first_step_and_after_the_last_is_left_out():
    outside = [exchange(5, 9, 1), step(10, 12), exchange(13, 14, 2)]
    timeline = Timeline([outside])
    assert (timeline.end, times(timeline, 0), timeline.totals()[0].bytes_sent) == (2, [("compute", 0, 2)], 0)


def test_a_rank_that_left_nothing_has_a_row_of_nothing():
    totals = Timeline([TWO[0], []]).totals()
    assert (totals[1].compute, totals[1].other, totals[1].bytes_sent) == (0, 9, 0)


def test_what_a_rank_did_at_a_time():
    timeline = Timeline(LATE)
    assert timeline.segment_at(0, 3.5).kind == "wait"
    assert timeline.segment_at(1, 6.0).kind == "communicate"
    assert timeline.segment_at(1, 0.5) is None
    assert (timeline.step_at(0, 8.5), timeline.step_at(0, 9.5), timeline.step_at(1, 0.5)) == (1, None, None)


@pytest.mark.parametrize(("first", "last"), [(2, 1), (0, 2), (1, 3)])
def test_steps_that_are_not_there_are_refused_with_those_that_are(first, last):
    with pytest.raises(ValueError, match=f"steps {first} to {last}: there are 1 to 2"):
        Timeline(TWO).steps(first, last)


def test_no_spans_and_no_time_are_refused():
    with pytest.raises(ValueError, match="no spans"):
        Timeline([[], []])
    with pytest.raises(ValueError, match="from 2 to 2 s: the end must come after the beginning"):
        Timeline(TWO).between(2, 2)


def test_random_spans_are_resolved_as_an_instant_by_instant_count_has_it():
    """Integers as times: what a rank does between t and t + 1 is looked up from the spans alone."""
    draw = random.Random(1)
    spans = []
    for _ in range(3):
        at, mine = 0, []
        for number in range(1, 9):
            begin = at + draw.randint(0, 3)
            waited = begin + draw.randint(0, 4)
            at = waited + draw.randint(1, 4)
            mine.append(exchange(begin, at, number, wait_begin=waited))
        spans.append([*mine, step(0, at + 2)])
    timeline = Timeline(spans)
    for rank, mine in enumerate(spans):
        for t in range(int(mine[-1].end)):
            (inside,) = [span for span in mine[:-1] if span.wait_begin <= t < span.end] or [None]
            expected = "compute"
            if inside:
                begins = [peer.begin for of_rank in spans for peer in of_rank if peer.number == inside.number]
                last_arrival = max(begin for begin in begins if begin <= inside.end)
                expected = "wait" if t < last_arrival else "communicate"
            segment = timeline.segment_at(rank, t + 0.5)
            assert segment is not None
            assert segment.kind == expected


# Chrome's format.


def trace(timeline, tmp_path):
    timeline.write_chrome_trace(tmp_path / "trace.json")
    return json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))


def test_the_trace_has_what_the_format_asks_for(tmp_path):
    written = trace(Timeline(LATE), tmp_path)
    assert written["displayTimeUnit"] == "ms"
    complete = [event for event in written["traceEvents"] if event["ph"] == "X"]
    named = [event for event in written["traceEvents"] if event["ph"] == "M"]
    assert len(complete) + len(named) == len(written["traceEvents"])
    for event in complete:
        assert {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"} == set(event)
        assert isinstance(event["name"], str)
        assert event["ts"] >= 0
        assert event["dur"] > 0
    assert {event["args"]["name"] for event in named} == {"rank 0", "rank 1", "steps", "what it did"}
    threads = {(event["pid"], event["tid"]) for event in named if event["name"] == "thread_name"}
    assert {(event["pid"], event["tid"]) for event in complete} == threads


def test_the_trace_says_in_microseconds_what_the_totals_say_in_seconds(tmp_path):
    timeline = Timeline(LATE)
    events = [event for event in trace(timeline, tmp_path)["traceEvents"] if event["ph"] == "X"]
    for row in timeline.totals():
        for kind in ("compute", "communicate", "wait"):
            spent = [event["dur"] for event in events if event["pid"] == row.rank and event["cat"] == kind]
            assert sum(spent) == pytest.approx(1e6 * getattr(row, kind))
    (wait,) = [event for event in events if event["cat"] == "wait"]
    assert (wait["name"], wait["ts"], wait["dur"]) == ("wait: all-reduce", 3e6, 3e6)
    assert wait["args"] == {"group": "all", "number": 1, "bytes sent": 100, "last rank": 1}


def test_events_of_one_thread_do_not_overlap_as_viewers_would_drop_them(tmp_path):
    spans = [
        [exchange(1, 6, 1, wait_begin=5), exchange(2, 7, 2, wait_begin=6), exchange(5, 8, 3, wait_begin=7), step(0, 9)]
    ]
    threads = {}
    for event in trace(Timeline(spans), tmp_path)["traceEvents"]:
        if event["ph"] == "X":
            threads.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    assert len(threads) == 4  # the steps, the segments, and overlapped exchanges two at a time
    for times in threads.values():
        times.sort()
        assert all(end <= begin for (_, end), (begin, _) in pairwise(times))


# Recording.


def test_a_recorder_keeps_the_last_spans_and_counts_all_bytes():
    recorder = Recorder()
    for number in range(MAX_SPANS + 5):
        recorder.add(exchange(0.0, 1.0, number, bytes_sent=2))
    assert (len(recorder.spans), recorder.spans[0].number, recorder.bytes_sent) == (MAX_SPANS, 5, 2 * MAX_SPANS + 10)


def test_what_is_recorded_shows_in_one_line():
    recorder = Recorder()
    recorder.add(exchange(1, 2.5, 7, bytes_sent=24_300))
    assert repr(recorder) == "Recorder(1 spans, 24,300 bytes sent)"
    assert repr(recorder.spans[0]) == (
        "Span(exchange: all-reduce 7 of group all, 24,300 bytes sent, 1.000000 to 2.500000 s)"
    )
    assert repr(step(1, 2, 3)) == "Span(step: step 3, 1.000000 to 2.000000 s)"
    assert repr(Timeline(LATE).segment_at(0, 3.5)) == "Segment(wait: all-reduce 1, 3.000000 to 6.000000 s)"
    assert repr(Timeline(LATE).totals()[0]) == (
        "RankTotals(rank 0: compute 4 s (40%), communicate 2 s (20%), wait 3 s (30%), other 1 s (10%), 100 B sent)"
    )


def trained(experiment, strategy):
    began = now()
    shard = experiment.run(strategy=strategy, steps=6, device="cpu", progress=False).shard
    return list(shard.recorder.spans), began, now()


@pytest.mark.parametrize("reduce", ["naive", "bucketed"])
def test_a_run_on_two_ranks_adds_up(reduce):
    images = (torch.rand(60, 64, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    experiment = Experiment(partial(RBM, 64, 32), data=images, learner=CD(), batch_size=20)
    answers = team(2).call(trained, experiment, DataParallel(reduce=reduce))
    spans = [of_rank for of_rank, _, _ in answers]
    timeline = Timeline(spans)
    assert list(timeline.step_begins()) == [1, 2, 3, 4, 5, 6]
    assert 0 < timeline.end < max(end for _, _, end in answers) - min(began for _, began, _ in answers)
    for rank, row in enumerate(timeline.totals()):
        steps = [span for span in spans[rank] if span.kind == "step"]
        in_steps = [s for s in spans[rank] if s.kind == "exchange" and steps[0].begin <= s.begin <= steps[-1].end]
        blocked = sum(span.end - max(span.begin, span.wait_begin or 0) for span in in_steps)
        assert row.wait + row.communicate == pytest.approx(blocked)
        assert row.compute == pytest.approx(sum(span.end - span.begin for span in steps) - blocked)
        assert row.seconds == pytest.approx(timeline.end)
        assert row.bytes_sent == sum(span.bytes_sent for span in in_steps) > 0


def test_only_an_exchange_that_was_started_apart_is_overlapped():
    def both():
        recorder = Recorder()
        group = Group(recorder=recorder)
        tensor = torch.ones(1000)
        group.all_reduce(tensor)
        wait = group.start_all_reduce(tensor)
        begun = now()
        wait()
        return list(recorder.spans), begun

    for (blocking, started), begun in team(2).call(both):
        assert blocking.wait_begin <= blocking.begin
        assert started.begin < begun <= started.wait_begin <= started.end
