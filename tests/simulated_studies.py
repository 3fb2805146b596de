"""Simulated probabilities of patients with several slices, for operating points and evaluation."""

import numpy as np
from scipy.special import expit


def simulated_slices(rng, patients=400, slices=8):
    """Labels (n,), probabilities (n,) and patients (n,) of slices; a patient's errors are alike."""
    ill = rng.random(patients) < 0.35
    patient = np.repeat(np.arange(patients), slices)
    y = ill[patient] & (rng.random(len(patient)) < 0.6)
    logits = rng.normal(size=len(y)) + rng.normal(0, 0.7, patients)[patient] + 2.2 * y - 1.5
    return y.astype(float), expit(logits), patient
