"""Small slice tables and images for the tests of stage one."""

import numpy as np
import pandas as pd

from ct.labels import LABELS

SIZE = 32  # px


def make_slices(patients, each, seed=0):
    """Return a train table of `patients` studies with `each` slices, and its images.

    The images are int16 HU (n, SIZE, SIZE). A third of the slices is positive for every label at
    once: they have a bright square of 70 HU in brain of 30 HU.
    """
    rng = np.random.default_rng(seed)
    n = patients * each
    study = np.repeat(np.arange(patients), each)
    positive = rng.random(n) < 1 / 3
    hu = rng.normal(30, 5, (n, SIZE, SIZE)).astype(np.int16)
    for i in np.flatnonzero(positive):
        y, x = rng.integers(4, SIZE - 12, 2)
        hu[i, y : y + 8, x : x + 8] = 70
    slices = pd.DataFrame(
        {
            "split": "train",
            "patient_id": [f"ID_{p:02d}" for p in study],
            "study_id": [f"study{p}" for p in study],
            "series_id": [f"series{p}" for p in study],
            "place": np.tile(np.arange(each), patients),
            "readable": True,
            **{label: positive.astype(np.float32) for label in LABELS},
        },
        index=pd.Index([f"s{i}" for i in range(n)], name="slice_id"),
    )
    return slices, hu


def reader(hu, calls=None):
    """Return a read_hu of the images `hu`; it appends the row numbers of each call to `calls`."""

    def read_hu(numbers, out=None):
        if calls is not None and len(numbers):
            calls.append(list(numbers))
        return np.take(hu, numbers, axis=0, out=out)

    return read_hu
