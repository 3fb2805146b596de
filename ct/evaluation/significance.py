"""Whether a gain on the inner folds is significant, with few positive patients too."""

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
) -> float:
    """Return the lower end of the interval of the mean of `gain` (n,) over patients (n,).

    y: (n,) 0 and 1; None: the bootstrap interval as it is. It is too narrow with few patients, and
    those with or without positives may be few among many. With y its lower half is widened as
    Student's t widens a normal interval, with the smaller number of both as the number of
    observations.
    """
    low: float = patient_bootstrap(gain, patients, seed=seed, level=level)[0]
    if y is None or level == 0:
        return low
    few = min(len(np.unique(patients[y == value])) for value in (0, 1))
    if few < 2:
        return -np.inf
    wider = t.ppf((1 + level) / 2, few - 1) / norm.ppf((1 + level) / 2)
    mean = float(gain.mean())
    return mean - (mean - low) * float(wider)
