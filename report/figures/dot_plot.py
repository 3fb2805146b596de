"""Dot plot: one row a name, with whiskers where a value has an interval."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from report.figures.svg import FONT_SIZE, PALETTE, WIDTH, new_axes, svg_panel

ROW_HEIGHT = 26
MARGIN, WIDEST_MARGIN = 112, 176  # left of the axes, for the names
BESIDE_NAME = 16  # between a name and the axes, and left of it
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


def dot_plot_panel(
    rows: Sequence[tuple[str, Sequence[Dot]]], x: str, alt: str, zero: bool = False
) -> Markup | None:
    """Draw rows of dots from top to bottom.

    rows: (name, dots), no name twice; x: caption of the axis; alt: text alternative; zero: draw a
    line at 0. A name that is too long loses its middle; the whole name is its title.
    """
    whole: dict[str, list[str]] = {}  # shortened name -> names, from top to bottom
    shortened = []
    for name, dots in rows:
        short = _shortened(name)
        if short != name:
            whole.setdefault(short, []).append(name)
        shortened.append((short, dots))
    picture = _dot_plot(shortened, x, alt, zero)
    return picture if picture is None else _with_titles(picture, whole)


def _shortened(name: str) -> str:
    """Return a name, without its middle where it does not fit beside the axes."""
    left, right = (len(name) + 1) // 2, len(name) // 2  # characters that are kept
    short = name
    while _width(short) > WIDEST_MARGIN - BESIDE_NAME:
        left, right = (left - 1, right) if left > right else (left, right - 1)
        short = f"{name[:left]}…{name[len(name) - right :]}"
    return short


def _width(text: str) -> float:
    """Return the width of a text in matplotlib's font, which is a wide one."""
    return float(TextPath((0, 0), text, size=FONT_SIZE).get_extents().width) if text else 0.0


def _with_titles(picture: Markup, whole: Mapping[str, Sequence[str]]) -> Markup:
    """Return a picture whose shortened names have the whole ones as titles.

    whole: {shortened name: names, from top to bottom}
    """
    names = {str(escape(short)): iter(of_short) for short, of_short in whole.items()}

    def titled(match: re.Match[str]) -> str:
        name = next(names.get(match[1], iter(())), None)
        return match[0] if name is None else f"><title>{escape(name)}</title>{match[1]}</text>"

    return Markup(re.sub(r">([^<>]+)</text>", titled, picture))


@svg_panel
def _dot_plot(
    rows: Sequence[tuple[str, Sequence[Dot]]], x: str, alt: str, zero: bool
) -> tuple[Figure, str]:
    """Draw rows of dots; arguments as in `dot_plot_panel`, with names that fit."""
    height = ROW_HEIGHT * len(rows) + 44
    longest = max((_width(name) for name, _ in rows), default=0)
    left = max(MARGIN, longest + BESIDE_NAME)
    figure, axes = new_axes(x, "", height, left=left)
    axes.set_position(
        (left / WIDTH, 38 / height, (WIDTH - 12 - left) / WIDTH, ROW_HEIGHT * len(rows) / height)
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
