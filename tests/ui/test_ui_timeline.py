"""The picture of a timeline, pixel by pixel where it can be counted, and the view to zoom into, without a browser."""

from itertools import groupby

import numpy as np
import pytest
from PIL import ImageColor
from seen import changes, pixels

from dlkit.distributed.recorder import Span
from dlkit.distributed.timeline import Timeline
from dlkit.ui.controls.zoomed_image import SHORTEST, moved, zoomed
from dlkit.ui.draw import timeline_bars
from dlkit.ui.draw.timeline_bars import (
    BAR,
    KIND_COLOURS,
    LEFT,
    PITCH,
    TOP,
    UNDER,
    WIDTH,
    TimelineBars,
    ticks,
    timeline_sheet,
)
from dlkit.ui.draw.timeline_figure import describe_moment, draw_timeline
from dlkit.ui.timeline import TimelineView


def exchange(begin, end, number=1, wait_begin=None):
    return Span("exchange", "all-reduce", begin, end, "all", number, 24_300, wait_begin)


def step(begin, end, number=1):
    return Span("step", "step", begin, end, number=number)


@pytest.fixture
def timeline():
    """Ten seconds: rank 0 waits from 2 to 5, rank 1 is late; then an exchange that goes on from 6 to 9."""
    return Timeline(
        [
            [step(0, 9.5), exchange(2, 6), exchange(6, 9, 2, wait_begin=8)],
            [step(0, 10), exchange(5, 6), exchange(6, 9, 2, wait_begin=9)],
        ]
    )


def colours(row):
    """The names of the colours in a row of pixels, and how many of each, in order."""
    names = {ImageColor.getrgb(colour): name for name, colour in KIND_COLOURS.items()}
    names |= {ImageColor.getrgb(timeline_bars.OVERLAPPED): "overlapped", (255, 255, 255): "white"}
    pixels = [names[tuple(int(value) for value in pixel)] for pixel in row]
    return [(name, len(list(run))) for name, run in groupby(pixels)]


def test_each_rank_has_a_bar_of_its_colours_and_a_strip_of_what_is_overlapped_under_it(timeline):
    picture = TimelineBars(timeline).picture(0, 10, 100)
    assert colours(picture[BAR // 2]) == [
        ("compute", 20), ("wait", 30), ("communicate", 10), ("compute", 20), ("communicate", 10), ("compute", 5),
        ("other", 5),
    ]  # fmt: skip
    assert colours(picture[PITCH]) == [("compute", 50), ("communicate", 10), ("compute", 40)]
    assert colours(picture[BAR + 1]) == [("white", 60), ("overlapped", 20), ("white", 20)]
    assert colours(picture[PITCH + BAR + UNDER]) == [("white", 60), ("overlapped", 30), ("white", 10)]
    assert colours(picture[PITCH - 1]) == [("white", 100)]


def test_a_column_in_which_much_happens_is_stacked_by_its_shares(timeline):
    column = TimelineBars(timeline).picture(0, 10, 1)[:BAR, 0]
    assert [name for name, _ in colours(column[::-1])] == ["compute", "communicate", "wait", "other"]
    shares = np.array([count for _, count in colours(column[::-1])]) / BAR
    assert np.allclose(shares, [0.45, 0.2, 0.3, 0.05], atol=1 / BAR)


def test_shares_are_those_of_the_totals(timeline):
    bars, part = TimelineBars(timeline), timeline.between(1.5, 8.25)
    for rank, row in enumerate(part.totals()):
        shares = bars.shares(rank, np.array([1.5, 8.25]))[:, 0]
        assert shares[:3].tolist() == pytest.approx([row.share(kind) for kind in ("compute", "communicate", "wait")])
        assert shares[3] == pytest.approx(row.overlapped / 6.75)


def test_the_sheet_has_the_bars_where_its_axis_says_and_a_mark(timeline):
    sheet = timeline_sheet(TimelineBars(timeline), {1: 0.0}, (0, 10), rank=1, time=7.5)
    bar = sheet[TOP + BAR // 2, LEFT : LEFT + WIDTH]
    assert colours(bar)[:2] == [("compute", WIDTH // 5), ("wait", 3 * WIDTH // 10)]
    marked = (sheet == ImageColor.getrgb("#D55E00")).all(2).nonzero()
    assert abs(marked[1].mean() - (LEFT + 0.75 * WIDTH)) < 2
    assert TOP + PITCH - 4 < marked[0].min() < marked[0].max() < TOP + 2 * PITCH


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.3, 1.1, [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1]), (1203, 1217, None)],
)
def test_ticks_are_round_and_few(begin, end, expected):
    assert ticks(begin, end) == pytest.approx(expected or [1204, 1206, 1208, 1210, 1212, 1214, 1216])


def test_words_say_what_a_rank_did_and_whom_it_waited_for(timeline):
    assert describe_moment(timeline, 0, 1) == "Rank 0, step 1: computes, 2 s."
    assert (
        describe_moment(timeline, 0, 3)
        == "Rank 0, step 1: waits 3 s for rank 1, the last to come to all-reduce 1 of group all."
    )
    assert describe_moment(timeline, 1, 5.5) == (
        "Rank 1, step 1: communicates, 1 s: all-reduce 1 of group all, of which it sends 24.3 kB."
    )
    assert describe_moment(timeline, 0, 7) == (
        "Rank 0, step 1: computes, 2 s; meanwhile all-reduce 2 of group all under way."
    )
    assert describe_moment(timeline, 0, 9.75) == "Rank 0: other: between steps, or not recorded."
    own = Timeline([[step(0, 2), Span("compute", "forward 3", 0, 1)]])
    assert describe_moment(own, 0, 0.5) == "Rank 0, step 1: computes: forward 3, 1 s."


def test_zooming_keeps_the_time_that_it_is_about_in_its_place():
    begin, end = zoomed((0, 10), (0, 10), 4, about=2.5)
    assert (end - begin, (2.5 - begin) / (end - begin)) == pytest.approx((2.5, 0.25))
    assert zoomed((begin, end), (0, 10), 1 / 4, about=2.5) == pytest.approx((0, 10))


def test_zooming_and_moving_end_where_the_whole_does():
    assert zoomed((4, 6), (0, 10), 0.01, about=5) == (0, 10)
    assert zoomed((4, 6), (0, 10), 0, about=5) == (0, 10)
    assert zoomed((0, 2), (0, 10), 0.5, about=2) == (0, 4)
    begin, end = zoomed((4, 6), (0, 10), 1e12, about=5)
    assert end - begin == pytest.approx(SHORTEST)
    assert moved((4, 6), (0, 10), by=0.5) == (5, 7)
    assert moved((4, 6), (0, 10), by=9) == (8, 10)
    assert moved((4, 6), (0, 10), by=-9) == (0, 2)


def test_the_picture_says_in_words_what_it_shows(timeline):
    alt = draw_timeline(timeline).alt
    assert "What each of 2 ranks did when, 0 to 10000 milliseconds, steps 1 to 1" in alt
    assert "rank 0 computes 45%, communicates 20% and waits 30% of the time" in alt


def test_many_ranks_and_steps_can_be_drawn():
    spans = [[step(at, at + 1, at + 1) for at in range(40)] for _ in range(10)]
    assert "rank 7" in draw_timeline(Timeline(spans)).alt
    assert "and 2 more ranks" in draw_timeline(Timeline(spans)).alt


# The view.


@pytest.fixture
def view(timeline):
    return TimelineView(timeline)


def place(view, x, rank):
    """Of a time's share of the view and a rank's bar, in the whole picture."""
    left, right = view.picture.box
    return [left + x * (right - left), (TOP + rank * PITCH + BAR / 2) / pixels(view.picture).shape[0]]


def test_it_says_what_is_under_the_pointer_and_marks_it(view):
    assert changes(view, ["picture"], lambda: view.respond({"place": place(view, 0.3, 0)})) == {"picture"}
    assert (view.rank, view.time) == (0, pytest.approx(3))
    assert "<b>3000 ms.</b> Rank 0, step 1: waits 3 s for rank 1" in view.caption.value
    view.respond({"place": place(view, 0.3, 1)})
    assert "<b>3000 ms.</b> Rank 1, step 1: computes" in view.caption.value
    assert "marked: Rank 1, step 1: computes" in view.picture.alt


def test_the_wheel_zooms_about_the_pointer_and_dragging_moves(view):
    view.respond({"zoom": 4, "place": place(view, 0.3, 0)})
    assert view.time == pytest.approx(3)
    assert view.shown == pytest.approx((2.25, 4.75))
    view.respond({"pan": 0.2})
    assert view.shown == pytest.approx((2.75, 5.25))
    view.respond({"zoom": 0})
    assert view.shown == (0, 10)


def test_arrows_up_and_down_go_from_rank_to_rank_and_stop_at_the_last(view):
    for rows, rank in ((1, 1), (1, 1), (-1, 0), (-1, 0)):
        view.respond({"rows": rows})
        assert view.rank == rank
        assert f"Rank {rank}" in view.caption.value


def test_a_pointer_in_the_margins_is_at_the_nearest_rank_and_time(view):
    view.respond({"place": [0.0, 0.0]})
    assert (view.rank, view.time) == (0, 0)
    view.respond({"place": [1.0, 1.0]})
    assert (view.rank, view.time) == (1, 10)


def test_each_button_does_what_its_tooltip_says(view):
    closer, further, earlier, later, everything = view.buttons
    closer.click()
    assert view.shown == pytest.approx((5 - 5 / 1.5, 5 + 5 / 1.5))
    begin = view.shown[0]
    later.click()
    assert view.shown[0] > begin
    earlier.click()
    assert view.shown[0] == pytest.approx(begin)
    further.click()
    assert view.shown == pytest.approx((0, 10))
    closer.click()
    everything.click()
    assert view.shown == (0, 10)


def test_what_the_browser_sends_is_done(view):
    view.picture._handle_custom_msg({"zoom": 2, "pan": 0, "rows": 1}, [])
    assert view.shown == pytest.approx((2.5, 7.5))
    assert view.rank == 1


def test_the_legend_has_overlapped_exchanges_only_where_there_are_any(view, timeline):
    def legend(view):
        return view.children[2].value

    assert "overlapped exchange" in legend(view)
    assert "overlapped exchange" not in legend(TimelineView(timeline.between(0, 5)))


def test_a_part_is_all_that_there_is(timeline):
    view = TimelineView(timeline.between(2, 6))
    view.respond({"zoom": 0.1})
    assert view.shown == (2, 6)
    assert repr(view) == "TimelineView(Timeline(2 ranks, 4 s))"
