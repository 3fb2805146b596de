"""Whether a gain is significant, with few positive patients and as the best of many, too."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from ct.metrics import patient_bootstrap


def lower_end(
    gain: NDArray[np.float64],
    patients: NDArray[Any],
    y: NDArray[np.float64] | None,
    level: float,
    seed: int,
    best_of: int = 1,
) -> float:
    """Return the lower end of the interval of the mean of `gain` (n,) over patients (n,).

    y: (n,) 0 and 1; None: the bootstrap interval as it is. It is too narrow with few patients, and
    those with or without positives may be few among many. With y its lower half is widened as
    Student's t widens a normal interval, with the smaller number of both as the number of
    observations.

    best_of: number of candidates of which this one has the largest gain. With y the interval's
    errors, 1 - level, are divided by it (Bonferroni): the best of many is also the luckiest.

    Raises ValueError for best_of > 1 without y.
    """
    if y is None and best_of > 1:
        raise ValueError(f"best_of = {best_of} needs y, by which the interval is widened")
    low: float = patient_bootstrap(gain, patients, seed=seed, level=level)[0]
    if y is None or level == 0:
        return low
    few = min(len(np.unique(patients[y == value])) for value in (0, 1))
    if few < 2:
        return -np.inf
    # from the level's own bootstrap: its 1,000 samples do not show the tail of a higher level
    higher = 1 - (1 - level) / best_of
    wider = t.ppf((1 + higher) / 2, few - 1) / norm.ppf((1 + level) / 2)
    mean = float(gain.mean())
    return mean - (mean - low) * float(wider)
