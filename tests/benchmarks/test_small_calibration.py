"""The benchmark of calibrations on few studies: its rows, by hand."""

import numpy as np
import pandas as pd
from scipy.special import expit

from benchmarks.stacking import small_calibration
from benchmarks.stacking.simulated_cnns import Simulated

STUDIES, SLICES = 12, 5
STUDY = np.repeat([f"s{number:02}" for number in range(STUDIES)], SLICES)


def simulated():
    """Right logits of slices; only the first label has positives, in every second study."""
    logits = np.full((STUDIES * SLICES, 6), -9.0)
    logits[:, 0] = np.random.default_rng(0).normal(0, 2, len(logits))
    y = np.zeros(logits.shape)
    y[np.arange(len(y)) // SLICES % 2 == 0, 0] = 1
    slices = pd.DataFrame({"study_id": STUDY, "patient_id": STUDY}, dtype=object)
    fold = np.arange(len(y)) // SLICES % 3
    return Simulated(slices, y, fold, {"cnn": expit(logits)}), logits


def test_a_study_has_its_largest_label_and_the_mean_of_its_three_largest_logits():
    made, logits = simulated()
    raw, y, fold, patients = small_calibration.of_studies(made, 2.0, 1.0)
    top = np.sort(logits[:SLICES, 0])[-3:]
    assert abs(raw[0, 0] - (2 * top.mean() + 1)) < 1e-4
    assert y[:, 0].tolist() == [1, 0] * 6 and not y[:, 1:].any()
    assert fold.tolist() == [0, 1, 2] * 4 and list(patients) == sorted(set(STUDY))


def test_a_label_without_positives_is_as_raw_by_ours_and_not_by_platt():
    made, _ = simulated()
    raw, y, fold, patients = small_calibration.of_slices(made, 1.0, 0.0)
    losses, who = small_calibration.calibrated(raw[:, 1:2].repeat(6, 1), y * 0, fold, patients)
    np.testing.assert_array_equal(losses["ours"], losses["raw"])
    assert (losses["Platt"] > losses["raw"]).all()
    assert small_calibration.row("", [(losses, who)]) == 0
