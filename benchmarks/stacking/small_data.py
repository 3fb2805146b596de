"""Stage two with few studies, beside the raw mean of the CNNs: it must not be worse beyond doubt.

    python -m benchmarks.stacking.small_data [--quick] [--draws=N] [--before] [RUN ...]

10, 20, 40 and 100 studies are drawn from the real labels and geometry; three simulated CNNs of both
families (benchmarks/stacking/simulated_cnns.py) are fitted on each draw, five folds by patient.
Stage two has the features and components of the recipe `small`, and three trials a label and fold.
Each RUN is a finished run whose out-of-fold tables are compared in the same way.

Weighted log loss out of fold: the raw mean, its calibration, stage two; the gain of stage two over
the raw mean with its 95 % interval over patients. A case is missed where this interval ends below
zero. --before: calibrations in which a slice counts as one observation, as before 2026-11-26.
--quick: two draws of 10 studies.
"""

import sys
import time
from pathlib import Path

import numpy as np
import optuna
from scipy.special import expit

from benchmarks.command_line import flag_parser
from benchmarks.stacking import simulated_cnns as sim
from benchmarks.stacking.stack_baselines import stack_features
from benchmarks.stacking.stack_gain import settings
from ct.averaging import mean_logits
from ct.labels import LABELS, WEIGHTS
from ct.metrics import log_loss, patient_bootstrap
from ct.storage.file_formats import read_table
from ct.system.blas_threads import one_blas_thread
from pipeline.recipe import find_recipe, load_recipe
from pipeline.run_context import Run
from pipeline.stage_data.run_tables import load_logits
from stage2_stack.calibration import smoothed_prior
from stage2_stack.learners.binned_features import BinnedFeatures
from stage2_stack.nested_cv import why_not_stacked
from stage2_stack.stack_context import StackData
from stage2_stack.stacker import fit_stack

SIZES, TRIALS, ROUNDS = (10, 20, 40, 100), 3, 50
ROUNDING = 1e-6  # equal logits of float32 and of float64 differ by less


def main():
    options = flag_parser(__doc__)
    options.add_argument("--draws", type=int, default=3)
    options.add_argument("--before", action="store_true")
    options.add_argument("runs", nargs="*", type=Path)
    options = options.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(f"{'':20}     raw  calibrated  stage two   gain over raw [95 % interval]   seconds")
    missed = [run.name for run in options.runs if worse(run.name, *of_run(run))]
    sizes, draws = (SIZES[:1], 1) if options.quick else (SIZES, options.draws)
    by = "slice" if options.before else "patient"
    slices = sim.read_studies(sim.labelled_studies())
    for size in sizes:
        for draw in range(draws):
            for family in sim.FAMILIES:
                name, start = f"{family} {size} draw {draw}", time.perf_counter()
                tables = of_draw(some_studies(slices, size, draw), family, draw, by)
                missed += [name] * worse(name, *tables, time.perf_counter() - start)
    print(f"worse than the raw mean beyond doubt: {', '.join(missed)}" if missed else "no case is")
    return 1 if missed else 0


def some_studies(slices, size, draw):
    """Return the slice table of `size` studies."""
    rng, studies = np.random.default_rng([size, draw]), slices["study_id"].unique()
    return slices[slices["study_id"].isin(rng.choice(studies, size, replace=False))]


@one_blas_thread()
def of_draw(slices, family, seed, by):
    """Return y, raw, calibrated, final (n, 6 each) and patients (n,) of simulated CNNs."""
    made, recipe = sim.simulate(slices, family, seed), load_recipe(find_recipe("small"))
    config = recipe.stage2.model_copy(
        update={"trials": TRIALS, "max_rounds": ROUNDS, "calibrate_by": by}
    )
    X, names = stack_features(made, recipe.features)
    patients = made.slices["patient_id"].to_numpy(object)
    data, features = StackData(X, made.y, made.fold, patients, names), BinnedFeatures(X, names)

    def tuned(label, k):
        others = made.fold != k
        y = made.y[others, LABELS.index(label)]
        why = why_not_stacked(y, patients[others], config.positive_patients, by)
        if why:
            return {"stacked": False, "why": why}
        return settings(data, features, label, k, config)

    found = {label: [tuned(label, k) for k in range(sim.FOLDS)] for label in LABELS}
    stacks = fit_stack(data, X[None, :1].repeat(sim.FOLDS, axis=0), found, config, seed)
    raw = expit(mean_logits(made.logits()))
    calibrated, final = (
        np.column_stack([getattr(stacks[label], name) for label in LABELS])
        for name in ("calibrated", "oof")
    )
    return made.y, raw, calibrated, final, patients


def of_run(folder):
    """Return the same of the labelled train slices of a finished run.

    The prior of the labels stands for the raw mean where a slice is unreadable.
    """
    run = Run(folder, log=lambda text: None)
    train = read_table(run.dir.slices).query("split == 'train'").dropna(subset=list(LABELS))
    y = train[list(LABELS)].to_numpy(np.float64)
    raw = expit(mean_logits(load_logits(run, train.index)))
    raw = np.where(np.isnan(raw), [smoothed_prior(column) for column in y.T], raw)
    calibrated, final = (
        read_table(run.dir.stage2 / f"{name}.parquet").loc[train.index, list(LABELS)].to_numpy()
        for name in ("calibrated", "oof")
    )
    return y, raw, calibrated, final, train["patient_id"].to_numpy(object)


def worse(name, y, raw, calibrated, final, patients, seconds=0.0):
    """Print one line; return whether `final` is worse than `raw` beyond doubt."""
    losses = [log_loss(y, p) @ WEIGHTS for p in (raw, calibrated, final)]
    gain = losses[0] - losses[2]
    low, high = patient_bootstrap(gain, patients)
    means = "  ".join(f"{loss.mean():9.4f}" for loss in losses)
    print(
        f"{name:20}{means}   {gain.mean():+.4f} [{low:+.4f}, {high:+.4f}]  {seconds:7.0f}",
        flush=True,
    )
    return bool(high < -ROUNDING)


if __name__ == "__main__":
    sys.exit(main())
