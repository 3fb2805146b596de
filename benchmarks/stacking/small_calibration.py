"""Calibrations on few studies, of slices and of whole studies, beside the logits as they are.

    python -m benchmarks.stacking.small_calibration [--quick] [--draws=N]

10, 20, 40 and 100 studies are drawn as in benchmarks/stacking/small_data.py, with the simulated
CNNs of both families. Their mean logits are taken as they are ("right"), 1.7 times as large
("overconfident"), and 1.5 higher ("shifted"). Weighted log loss out of fold, mean of the draws, by:

    raw        the logits as they are
    Platt      `fit_platt`: each row counts as one observation
    ours       `fit_calibration`: a patient does

The rows are slices, or studies with the mean of their three largest slice logits. In brackets: in
how many of the draws a calibration is worse than raw beyond the 95 % interval over patients. A case
is missed where ours is. --quick: one draw of 10 and 20 studies.
"""

import sys

import numpy as np
from scipy.special import expit

from benchmarks.command_line import flag_parser
from benchmarks.stacking import simulated_cnns as sim
from benchmarks.stacking.small_data import ROUNDING, SIZES, some_studies
from ct.averaging import mean_logits
from ct.labels import LABELS, WEIGHTS
from ct.metrics import KAGGLE_CLIP, log_loss, patient_bootstrap
from stage2_stack.calibration import Platt, fit_platt
from stage2_stack.patient_calibration import fit_calibration
from stage2_stack.study_level import top_logits

DISTORTED = {"right": (1.0, 0.0), "overconfident": (1.7, 0.0), "shifted": (1.0, 1.5)}
WAYS = {
    "raw": lambda x, y, patients: Platt(1.0, 0.0, 0.0),
    "Platt": lambda x, y, patients: fit_platt(x, y, clipped=False),
    "ours": lambda x, y, patients: fit_calibration(x, y, patients, clipped=False),
}


def main():
    options = flag_parser(__doc__)
    options.add_argument("--draws", type=int, default=4)
    options = options.parse_args()
    sizes, draws = (SIZES[:2], 1) if options.quick else (SIZES, options.draws)
    slices, missed = sim.read_studies(sim.labelled_studies()), []
    for size in sizes:
        drawn = [
            sim.simulate(some_studies(slices, size, draw), family, draw)
            for draw in range(draws)
            for family in sim.FAMILIES
        ]
        for name, (factor, shift) in DISTORTED.items():
            for level, rows in (("slices", of_slices), ("studies", of_studies)):
                losses = [calibrated(*rows(made, factor, shift)) for made in drawn]
                worse = row(f"{size:4} {name:14} {level:8}", losses)
                missed += [f"{size} {name} {level}"] * (worse > 0)
    print(f"worse than raw beyond doubt: {', '.join(missed)}" if missed else "no case is")
    return 1 if missed else 0


def of_slices(made, factor, shift):
    """Return logits, labels (n, 6 each), folds and patients (n,) of the slices."""
    raw = factor * mean_logits(made.logits()).astype(np.float64) + shift
    return raw, made.y, made.fold, made.slices["patient_id"].to_numpy(object)


def of_studies(made, factor, shift):
    """Return the same of the studies."""
    raw, y, fold, patients = of_slices(made, factor, shift)
    study = made.slices["study_id"].to_numpy(object)
    names, first, number = np.unique(study, return_index=True, return_inverse=True)
    positive = np.zeros((len(names), len(LABELS)))
    np.maximum.at(positive, number, y)
    logits = top_logits(study, expit(raw), KAGGLE_CLIP).loc[names].to_numpy()
    return logits, positive, fold[first], patients[first]


def calibrated(raw, y, fold, patients):
    """Return ({way: weighted losses (n,) out of fold}, patients)."""
    losses = {}
    for way, fit in WAYS.items():
        logits = np.empty(raw.shape)
        for k in np.unique(fold):
            held, others = fold == k, fold != k
            for j in range(len(LABELS)):
                platt = fit(raw[others, j], y[others, j], patients[others])
                logits[held, j] = platt.logit(raw[held, j])
        losses[way] = log_loss(y, expit(logits)) @ WEIGHTS
    return losses, patients


def row(name, draws):
    """Print the mean losses of the draws; return in how many of them ours is worse than raw."""
    shown = {}
    for way in WAYS:
        gains = [(losses["raw"] - losses[way], patients) for losses, patients in draws]
        worse = sum(patient_bootstrap(gain, who)[1] < -ROUNDING for gain, who in gains)
        shown[way] = np.mean([losses[way].mean() for losses, _ in draws]), worse
    cells = "   ".join(
        f"{way} {loss:.4f} [{worse}/{len(draws)}]" for way, (loss, worse) in shown.items()
    )
    print(f"{name}  {cells}", flush=True)
    return shown["ours"][1]


if __name__ == "__main__":
    sys.exit(main())
