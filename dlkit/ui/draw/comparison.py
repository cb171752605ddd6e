"""Runs side by side as a picture: the speed-up on more ranks, and the loss over time."""

from dlkit.training.comparison import ComparedRun, Comparison
from dlkit.ui.draw.pictures import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, Picture, figure, show

LOOKS = tuple(zip((BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK), "osD^vPX", strict=True))  # colour and marker


def draw(comparison: Comparison) -> Picture:
    """Left the speed-up against ranks, with what is ideal as a line; right the loss against seconds of training."""
    fig, (speed, loss) = figure(8.5, 3.4, columns=2)
    first = comparison[0]
    most = max(one.world_size for one in comparison)
    ends = [min(one.world_size for one in comparison), max(most, 2)]
    speed.plot(ends, [end / first.world_size for end in ends], color="0.5", ls="--", lw=1, label="ideal")
    for name in dict.fromkeys(one.name for one in comparison[1:]):
        line = sorted(
            {(one.world_size, one.speed_up) for one in comparison if one.name == name} | {(first.world_size, 1.0)}
        )
        speed.plot([ranks for ranks, _ in line], [up for _, up in line], color="0.75", lw=1, zorder=0)
    for place, one in enumerate(comparison):
        colour, marker = LOOKS[place % len(LOOKS)]
        style = ("-", "--", ":")[place // len(LOOKS) % 3]
        label = _label(one)
        speed.plot([one.world_size], [one.speed_up], marker, color=colour, ms=8, mec="white", label=label)
        at, losses = [point[0] for point in one.curve], [point[1] for point in one.curve]
        loss.plot(at, losses, color=colour, ls=style, marker=marker, ms=4, markevery=max(len(at) // 8, 1), label=label)
    speed.set(
        xlabel="ranks", ylabel=f"speed-up over {first.name}", xticks=sorted({one.world_size for one in comparison})
    )
    speed.set(xlim=(ends[0] - 0.3, ends[1] + 0.3), ylim=(0, None))
    loss.set(xlabel="seconds of training", ylabel="loss", xlim=(0, None))
    handles, labels = speed.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), frameon=False, fontsize=8)
    return show(fig, _alt(comparison))


def _label(one: ComparedRun) -> str:
    return f"{one.name}, {one.world_size} rank{'s' * (one.world_size > 1)}"


def _alt(comparison: Comparison) -> str:
    runs = "; ".join(
        f"{_label(one)}: speed-up {one.speed_up:.2f}"
        + (f", loss {one.loss:.3g} after {one.seconds:.3g} seconds" if one.loss is not None else "")
        for one in comparison
    )
    return f"Left, the speed-up of {len(comparison)} runs against ranks; right, their loss against seconds. {runs}."
