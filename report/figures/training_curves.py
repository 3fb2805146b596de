"""Learning curves of a CNN, and the best gain so far of a search of stage two's settings."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from report.figures.svg import LINES, PALETTE, new_axes, svg_panel


@svg_panel
def learning_panel(
    model: str, folds: Mapping[int, Sequence[Mapping[str, Any]]]
) -> tuple[Figure, str]:
    """Draw the training and held-out loss of one CNN by epoch.

    folds: {fold: [{"epoch", "train_loss", "held_out_loss"}, ...]}
    """
    figure, axes = new_axes("epoch", "loss")
    ends = []
    for fold, curve in folds.items():
        epochs = [row["epoch"] for row in curve]
        for kind, key in (("train", "train_loss"), ("held-out", "held_out_loss")):
            losses = np.array([row[key] for row in curve], np.float64)  # None becomes NaN
            axes.plot(epochs, losses, marker="o", gid=kind, **LINES[kind])
        ends.append(f"fold {fold} ends at {losses[-1]:.3f} held out")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.06, y=0.08)
    return figure, (
        f"Learning curves of {model}: training and held-out loss of each fold by epoch; "
        f"{', '.join(ends)}"
    )


@svg_panel
def search_panel(
    label: str, folds: Mapping[int, tuple[Sequence[int], Sequence[float]]]
) -> tuple[Figure, str]:
    """Draw the best gain so far by trial, in thousandths, a line a fold.

    folds: {fold: (number of each trial, best gain up to it)}
    """
    figure, axes = new_axes("trial", "best gain so far, thousandths")
    for trials, gains in folds.values():
        axes.plot(
            trials,
            1000 * np.asarray(gains),
            drawstyle="steps-post",
            marker="o" if len(trials) == 1 else "",
            gid="held-out",
            **LINES["held-out"],
        )
    axes.axhline(0, color=PALETTE["faint"], linewidth=1, zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    lowest_start = min(1000 * gains[0] for _, gains in folds.values())
    highest_end = max(1000 * gains[-1] for _, gains in folds.values())
    return figure, (
        f"Tuning of {label}: best gain on the inner folds so far, by trial, a line a fold; "
        f"from {lowest_start:.2f} at the lowest to {highest_end:.2f} at the highest"
    )
