"""Runs side by side as a picture: the speed-up on more ranks, and the loss over time."""

from dlkit.training.comparison import ComparedRun, Comparison
from dlkit.ui.draw.pictures import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, Picture, figure, show

MARKERS = tuple(zip((BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK), "osD^vPX", strict=True))  # colour and shape


def draw_comparison(comparison: Comparison) -> Picture:
    """Left, the speed-up against ranks, with the ideal as a line; right, the loss against seconds of training."""
    fig, (speed, loss) = figure(8.5, 3.4, columns=2)
    first = comparison[0]
    most = max(run.world_size for run in comparison)
    ends = [min(run.world_size for run in comparison), max(most, 2)]
    speed.plot(ends, [end / first.world_size for end in ends], color="0.5", ls="--", lw=1, label="ideal")
    for name in dict.fromkeys(run.name for run in comparison[1:]):
        line = sorted(
            {(run.world_size, run.speed_up) for run in comparison if run.name == name} | {(first.world_size, 1.0)}
        )
        world_sizes, speed_ups = zip(*line, strict=True)
        speed.plot(world_sizes, speed_ups, color="0.75", lw=1, zorder=0)
    for i, run in enumerate(comparison):
        colour, marker = MARKERS[i % len(MARKERS)]
        style = ("-", "--", ":")[i // len(MARKERS) % 3]
        label = _label(run)
        speed.plot([run.world_size], [run.speed_up], marker, color=colour, ms=8, mec="white", label=label)
        at, losses = [point[0] for point in run.curve], [point[1] for point in run.curve]
        loss.plot(at, losses, color=colour, ls=style, marker=marker, ms=4, markevery=max(len(at) // 8, 1), label=label)
    speed.set(
        xlabel="ranks", ylabel=f"speed-up over {first.name}", xticks=sorted({run.world_size for run in comparison})
    )
    speed.set(xlim=(ends[0] - 0.3, ends[1] + 0.3), ylim=(0, None))
    loss.set(xlabel="seconds of training", ylabel="loss", xlim=(0, None))
    handles, labels = speed.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False, fontsize=8)
    return show(fig, _alt(comparison))


def _label(run: ComparedRun) -> str:
    return f"{run.name}, {run.world_size} rank{'s' * (run.world_size > 1)}"


def _alt(comparison: Comparison) -> str:
    runs = "; ".join(
        f"{_label(run)}: speed-up {run.speed_up:.2f}"
        + (f", loss {run.loss:.3g} after {run.seconds:.3g} seconds" if run.loss is not None else "")
        for run in comparison
    )
    return f"Left, the speed-up of {len(comparison)} runs against ranks; right, their loss against seconds. {runs}."
