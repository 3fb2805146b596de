"""Dot plot: one row a name, with whiskers where a value has an interval."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from report.figures.svg import PALETTE, WIDTH, new_axes, svg_panel

ROW_HEIGHT = 26
DOTS = {  # kind of dot -> (face, edge)
    "truth": (PALETTE["paper"], PALETTE["ink"]),
    "raw": (PALETTE["line"], PALETTE["stage-one"]),
    "calibrated": (PALETTE["stage-one"], PALETTE["stage-one"]),
    "final": (PALETTE["accent"], PALETTE["accent"]),
    "better": (PALETTE["accent"], PALETTE["accent"]),
    "worse": (PALETTE["warn"], PALETTE["warn"]),
    "unclear": (PALETTE["paper"], PALETTE["stage-one"]),
    "unknown": (PALETTE["paper"], PALETTE["stage-one"]),
}


class Dot(NamedTuple):
    """One value of a row. kind: of DOTS; interval: (low, high) of its whisker, or None."""

    value: float
    kind: str
    interval: tuple[float, float] | None = None


@svg_panel
def dot_plot_panel(
    rows: Sequence[tuple[str, Sequence[Dot]]], x: str, alt: str, zero: bool = False
) -> tuple[Figure, str]:
    """Draw rows of dots from top to bottom.

    rows: (name, dots); x: caption of the axis; alt: text alternative; zero: draw a line at 0
    """
    height = ROW_HEIGHT * len(rows) + 44
    figure, axes = new_axes(x, "", height, left=112)
    axes.set_position(
        (112 / WIDTH, 38 / height, (WIDTH - 124) / WIDTH, ROW_HEIGHT * len(rows) / height)
    )
    axes.grid(axis="x", visible=True)
    axes.grid(axis="y", visible=False)
    if zero:
        axes.axvline(0, color=PALETTE["faint"], linewidth=1)
    for y, (_, dots) in enumerate(rows):
        for dot in dots:
            face, edge = DOTS[dot.kind]
            if dot.interval:
                axes.plot(dot.interval, [y, y], color=edge, linewidth=2, gid="interval")
            axes.plot(
                [dot.value],
                [y],
                "o",
                markersize=7.5,
                color=face,
                markeredgecolor=edge,
                markeredgewidth=1.6,
                gid=dot.kind,
            )
    axes.set(
        ylim=(len(rows) - 0.5, -0.5),
        yticks=range(len(rows)),
        yticklabels=[name for name, _ in rows],
    )
    axes.tick_params(axis="y", labelcolor=PALETTE["soft"], pad=8)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.06)
    return figure, alt
