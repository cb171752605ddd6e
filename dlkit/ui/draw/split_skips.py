"""Under the picture of a split net, the values that go past layers: an arc for each, from who gives to who takes it."""

from collections.abc import Sequence

LOW, DEEPER = 26, 10  # pixels: of the shallowest arc, and for each column more that one goes past
MOST = 12  # arcs: with more, as in a DenseNet, the picture says so in words


def skip_arcs(skips: Sequence[tuple[int, int]], left: float, column: float, top: float) -> tuple[list[str], float]:
    """SVG shapes, and how high they are. `skips`: pairs of layers, of which -1 is the batch, in the first column."""
    if not skips:
        return [], 0.0
    if len(skips) > MOST:
        text = f"{len(skips)} values go past other layers, and are not drawn."
        return [f'<text x="{left:.0f}" y="{top + 14:.0f}">{text}</text>'], 24.0
    shapes, height = [], 0.0
    for source, taker in skips:
        begin, end = left + (source + 1) * column + 24, left + (taker + 1) * column + 12
        depth = LOW + DEEPER * min(taker - source, 6)
        shapes.append(
            f'<path d="M{begin:.0f} {top:.0f} C{begin:.0f} {top + depth:.0f} {end:.0f} {top + depth:.0f} '
            f'{end:.0f} {top + 3:.0f}" stroke="currentColor" stroke-width="1.3" fill="none" '
            'marker-end="url(#dlkit-split-head)"/>'
        )
        height = max(height, 0.75 * depth + 18)
    shapes.append(f'<text x="0" y="{top + 14:.0f}" font-weight="700">skips</text>')
    return shapes, height


def skips_in_words(skips: Sequence[tuple[int, int]], names: Sequence[str]) -> str:
    """For the alternative text."""
    if not skips:
        return ""
    given = ["the images", *names]
    return " Past other layers: " + ", ".join(f"{given[i + 1]} to {given[j + 1]}" for i, j in skips[:MOST]) + "."
