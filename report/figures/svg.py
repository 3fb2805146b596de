"""Style of the drawings, and their conversion to SVG: colours and font come from the style sheet.

A colour of the light scheme in page.css is replaced by the name of its CSS variable. One drawing
therefore suits the light and the dark scheme.
"""

import functools
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

WIDTH, HEIGHT = 320, 250  # of a panel in its own units; the page scales it
CSS = Path(__file__).parents[1].joinpath("templates", "page.css").read_text(encoding="utf-8")
PALETTE = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", CSS.partition("@media")[0]))
FONT_SIZE = 11
STYLE: dict[Any, Any] = {  # matplotlib's rcParams
    "svg.fonttype": "none",  # text stays text, in the font of the page
    "font.size": FONT_SIZE,
    "axes.edgecolor": PALETTE["faint"],
    "axes.linewidth": 1,
    "axes.labelcolor": PALETTE["soft"],
    "axes.labelsize": 11,
    "axes.titlesize": 11,
    "axes.titlecolor": PALETTE["soft"],
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALETTE["line"],
    "grid.linewidth": 1,
    "xtick.color": PALETTE["faint"],
    "ytick.color": PALETTE["faint"],
    "xtick.major.size": 0,
    "xtick.major.pad": 5,
    "ytick.major.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}
# how each kind of curve is drawn; the legends of the page show the same through page.css
LINES: dict[str, dict[str, Any]] = {
    "raw": {
        "color": PALETTE["stage-one"],
        "linewidth": 1.5,
        "linestyle": (0, (1.3, 3)),
        "markersize": 3.2,
    },
    "calibrated": {"color": PALETTE["stage-one"], "linewidth": 1.8, "markersize": 5},
    "final": {"color": PALETTE["accent"], "linewidth": 2.4, "markersize": 5},
    "train": {"color": PALETTE["stage-one"], "linewidth": 1.3, "markersize": 3.2},
    "held-out": {"color": PALETTE["accent"], "linewidth": 1.8, "markersize": 4.4},
    "chance": {
        "color": PALETTE["faint"],
        "linewidth": 1,
        "linestyle": (0, (1, 4)),
        "dash_capstyle": "round",
    },
}
# edits (pattern, replacement) that make matplotlib's SVG fit into a page with other drawings
EDITS = (
    (
        r"<metadata>.*?</metadata>|<style.*?</style>|<clipPath.*?</clipPath>| clip-path=\"[^\"]*\"",
        "",
    ),
    (r"font-family: [^;\"]*(; )?|(transform=\"rotate\(-0 [^\"]*\")", ""),
    (r'<g id="[\w.]+_\d+"', "<g"),  # ids that every figure repeats
    (r'<g id="', '<g class="'),
    (r"(?<![>−\d])(\d+\.\d\d)\d+", r"\1"),  # digits of coordinates, not of tick labels
    (r"\s*\n\s*", "\n"),
    (r'<path d="[^"]*" style="fill: none"/>\n', ""),  # outlines without a line
    (r"<defs>\n</defs>\n|<g/>\n|<g>\n</g>\n", ""),
)
VARIABLES = {colour: name for name, colour in PALETTE.items()}
P = ParamSpec("P")


def svg_panel(
    draw: Callable[P, tuple[Figure, str] | None],
) -> Callable[P, Markup | None]:
    """Decorate a function that returns (figure, text alternative) so that it returns SVG.

    None stays None.
    """

    @functools.wraps(draw)
    def draw_svg(*args: P.args, **kwargs: P.kwargs) -> Markup | None:
        with matplotlib.rc_context(STYLE):
            drawn = draw(*args, **kwargs)
            return None if drawn is None else figure_to_svg(*drawn)

    return draw_svg


def figure_to_svg(figure: Figure, alt: str) -> Markup:
    """Return a figure as SVG for the page. The gid of an artist becomes the class of its group."""
    buffer = io.StringIO()
    # ids differ between figures, and are the same in every run
    with matplotlib.rc_context({"svg.hashsalt": alt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    body = buffer.getvalue().partition("<svg")[2].partition(">")[2]
    for pattern, replacement in EDITS:
        body = re.sub(pattern, replacement, body, flags=re.DOTALL)
    body = re.sub("|".join(VARIABLES), lambda colour: f"var(--{VARIABLES[colour[0]]})", body)
    width, height = figure.get_size_inches() * 72
    return Markup(
        f'<svg class="panel" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(alt)}">{body.strip()}'
    )


def new_axes(x: str, y: str, height: float = HEIGHT, left: float = 34) -> tuple[Figure, Axes]:
    """Return (figure, axes) of one panel. x, y: captions of the axes; left: margin of the axes."""
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    FigureCanvasSVG(figure)
    axes = figure.add_axes(
        (left / WIDTH, 36 / height, (WIDTH - 4 - left) / WIDTH, (height - 60) / height)
    )
    axes.set_title(y, x=-left / (WIDTH - 4 - left), pad=9)
    axes.set_xlabel(x, loc="right")
    axes.grid(axis="x", visible=False)
    return figure, axes


def unit_axes(
    x: str,
    y: str,
    ticks: list[float],
    scale: tuple[Callable[..., Any], Callable[..., Any]] | None = None,
) -> tuple[Figure, Axes]:
    """Return (figure, axes) of a panel whose axes both run from 0 to 1.

    scale: (function, inverse) of both axes; None: linear
    """
    figure, axes = new_axes(x, y)
    if scale:
        axes.set_xscale("function", functions=scale)
        axes.set_yscale("function", functions=scale)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return figure, axes
