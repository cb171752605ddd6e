"""A timeline as a figure, and in words what a rank did at a moment."""

from matplotlib.patches import Patch

from dlkit.core.text_table import format_bytes, format_seconds
from dlkit.distributed.recorder import Span
from dlkit.distributed.timeline import Timeline
from dlkit.ui.draw.pictures import Picture, figure, show
from dlkit.ui.draw.timeline_bars import BAR, PITCH, TimelineBars

COLUMNS = 1000  # pixels in which the bars are computed
STEPS = 12  # steps that are named above the bars, at most
RANKS = 8  # ranks that the alt text describes, at most


def draw_timeline(timeline: Timeline) -> Picture:
    """The timeline, or a part of it such as `timeline.steps(3, 6)`: a bar for each rank, and where its steps begin."""
    bars = TimelineBars(timeline)
    fig, ax = figure(8.5, 1.2 + timeline.world_size * PITCH / 96)
    extent = (1e3 * timeline.begin, 1e3 * timeline.end, timeline.world_size * PITCH, 0)
    pixels = bars.picture(timeline.begin, timeline.end, COLUMNS)
    ax.imshow(pixels, extent=extent, aspect="auto", interpolation="nearest")
    middles = [rank * PITCH + BAR / 2 for rank in range(timeline.world_size)]
    ax.set(xlabel="milliseconds", yticks=middles, yticklabels=[f"rank {rank}" for rank in range(timeline.world_size)])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    begins = timeline.step_begins()
    named = dict(list(begins.items())[:: -(-len(begins) // STEPS) or 1])
    above = ax.secondary_xaxis("top")
    above.set_xticks([1e3 * time for time in named.values()], [f"step {number}" for number in named], fontsize=8)
    above.spines[:].set_visible(False)
    patches = [Patch(color=colour, label=name) for name, colour in bars.legend().items()]
    fig.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=9)
    return show(fig, _alt(timeline))


def _alt(timeline: Timeline) -> str:
    steps, totals = list(timeline.step_begins()), timeline.totals()
    which = f", steps {steps[0]} to {steps[-1]}" if steps else ""
    sentences = [
        f"rank {row.rank} computes {row.share('compute'):.0%}, communicates {row.share('communicate'):.0%} and waits "
        f"{row.share('wait'):.0%} of the time"
        for row in totals[:RANKS]
    ]
    more = f"; and {len(totals) - RANKS} more ranks" if len(totals) > RANKS else ""
    span = f"{1e3 * timeline.begin:.6g} to {1e3 * timeline.end:.6g} milliseconds"
    return f"What each of {timeline.world_size} ranks did when, {span}{which}: {'; '.join(sentences)}{more}."


def describe_moment(timeline: Timeline, rank: int, time: float) -> str:
    """What the rank did at this time, in seconds."""
    step = timeline.step_at(rank, time)
    where = f"Rank {rank}" + (f", step {step}" if step is not None else "")
    segment = timeline.segment_at(rank, time)
    if segment is None:
        return f"{where}: other: between steps, or not recorded."
    span, took = segment.span, format_seconds(segment.end - segment.begin)
    if segment.kind == "compute":
        name = "computes" if span.kind == "step" else f"computes: {span.name}"
        under_way = [other.span for other in timeline.overlapped(rank) if other.begin <= time < other.end]
        meanwhile = f"; meanwhile {' and '.join(map(_exchange, under_way))} under way" if under_way else ""
        return f"{where}: {name}, {took}{meanwhile}."
    if segment.kind == "wait":
        return f"{where}: waits {took} for rank {segment.last_rank}, the last to come to {_exchange(span)}."
    return f"{where}: communicates, {took}: {_exchange(span)}, of which it sends {format_bytes(span.bytes_sent)}."


def _exchange(span: Span) -> str:
    return f"{span.name} {span.number} of group {span.group}"
