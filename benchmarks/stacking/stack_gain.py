"""Gain of stage two, and of public solvers' stackers, on simulated CNNs over real labels.

    python -m benchmarks.stacking.stack_gain [--quick] [--trials=N]

--quick: 400 of the studies, seed 0; five minutes at most. The contenders, all calibrated on the
other folds:

    raw        mean of the CNNs' logits
    smoothed   its Gaussian means, of public solvers' widths
    plain      one LightGBM per label on the mean logits of all labels of nine slices each way
    single     ours, but each booster has the rounds that are best for it alone (blend_rounds: 1),
               and the pooled one knows which way is up (symmetric: false)
    ours       recipe stack_only: its features, its components, its blend

Plain and ours share the same code: boosters start at the calibrated mean (which helps plain),
rounds are chosen on nested predictions, seeds, trials and their space are the same. With one trial,
the default, that is trial 0 of both: the first guess of stage2_stack/tuning/search_space.py. More
trials are tuned inside each outer fold, as the stage `tune` does it.

Two families of simulated CNNs, three seeds. A gain is the mean over seeds of each slice's gain; its
interval is over patients. Seed 0 also shows how much of its gain plain keeps without neighbours,
and with the slices permuted.
"""

import sys
import time

import numpy as np
import optuna

from benchmarks.command_line import flag_parser
from benchmarks.stacking import simulated_cnns as sim
from benchmarks.stacking import stack_baselines as baselines
from ct.averaging import mean_logits
from ct.labels import LABELS, WEIGHTS
from ct.metrics import log_loss, patient_bootstrap
from ct.seeds import derive_seed
from ct.system.blas_threads import one_blas_thread
from ct.system.parallel_jobs import cores, run_jobs
from features.neighbours import neighbour_features
from pipeline.recipe import find_recipe, load_recipe
from stage2_stack.learners.binned_features import BinnedFeatures
from stage2_stack.stack_context import StackData
from stage2_stack.stacker import fit_stack
from stage2_stack.tuning.best_trial import best_config
from stage2_stack.tuning.booster_trials import run_trials
from stage2_stack.tuning.inner_cv import InnerFolds
from stage2_stack.tuning.search_space import FIRST, space_of

CONTENDERS = ("raw", "smoothed", "plain", "single", "ours")
CONTROLS = ("no neighbours", "permuted in studies", "permuted in folds")
QUICK_STUDIES = 400
# bars: ours' gain over plain's; share of the loss that a control may gain
TIMES_PLAIN, NOTHING = 1.25, 0.02
COLUMNS = ("weighted", *LABELS)
SEED = 0  # of stage two


@one_blas_thread()
def contend(name, family, seed, trials, studies):
    """Return (losses (n, 7), columns COLUMNS, and seconds) of a contender or control.

    studies: how many, None for all
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    simulated = sim.simulate(some_studies(studies), family, seed)
    start = time.perf_counter()
    if name.startswith("permuted"):
        simulated = baselines.permuted(
            simulated, seed, "study" if name.endswith("studies") else "fold"
        )
    losses = log_loss(simulated.y, METHODS[name](simulated, trials))
    return np.column_stack([losses @ WEIGHTS, losses]), time.perf_counter() - start


def some_studies(count):
    """Return the slice table of `count` studies' patients, drawn with seed 0; None: of all."""
    slices = sim.read_studies(sim.labelled_studies())
    if count is None:
        return slices
    studies = slices["study_id"].unique()
    drawn = np.random.default_rng(0).choice(studies, min(count, len(studies)), replace=False)
    return slices[slices["study_id"].isin(drawn)]


def plain(simulated, trials, reach=baselines.PLAIN_REACH):
    """Return the probabilities of one LightGBM per label on a slice and its neighbours.

    It reads their mean logits.
    """
    logits = mean_logits(simulated.logits())
    around, names = neighbour_features(simulated.slices, logits, LABELS, reach)
    X, names = np.concatenate([logits, around], axis=1).astype(np.float32), [*LABELS, *names]
    config = stack_only().stage2.model_copy(
        update={"components": ("raw", "lightgbm"), "trials": trials, "blend_rounds": 1}
    )
    made = fit(simulated, X, names, config)
    return np.column_stack([made[label].component_oof["lightgbm"] for label in LABELS])


def ours(simulated, trials, **changes):
    """Return the probabilities of the recipe stack_only. changes: of its stage2"""
    recipe = stack_only()
    changes = {"trials": trials, **changes}
    features, config = recipe.features, recipe.stage2.model_copy(update=changes)
    made = fit(simulated, *baselines.stack_features(simulated, features), config)
    return np.column_stack([made[label].oof for label in LABELS])


def stack_only():
    return load_recipe(find_recipe("stack_only"))


def fit(simulated, X, names, config):
    """Return fit_stack's {label: Stacked} of features X (n, f)."""
    rows = StackData(
        X, simulated.y, simulated.fold, simulated.slices["patient_id"].to_numpy(object), names
    )
    features = BinnedFeatures(X, names)
    found = {
        label: [settings(rows, features, label, k, config) for k in range(sim.FOLDS)]
        for label in LABELS
    }
    return fit_stack(rows, X[None, :1].repeat(sim.FOLDS, axis=0), found, config, SEED)


def settings(rows, features, label, k, config):
    """Return the settings of a label's booster without fold k: the best of the trials."""
    if config.trials == 1:
        return {"stacked": True, "params": FIRST, "rounds": None}  # fit_stack finds the rounds
    others, seed = np.flatnonzero(rows.fold != k), derive_seed(SEED, "tune", label, k)
    y, patients = rows.y[others, LABELS.index(label)], rows.patients[others]
    folds = InnerFolds(
        features, others, y, rows.fold[others], label, config, seed, patients=patients
    )
    study = optuna.create_study(direction="minimize")
    run_trials(study, folds, config.trials, seed, space_of(label))
    return best_config(study, folds, patients, config.trials)


METHODS = {
    "raw": lambda simulated, _: baselines.raw_mean(simulated),
    "smoothed": lambda simulated, _: baselines.smoothed(simulated),
    "plain": plain,
    "single": lambda simulated, trials: ours(simulated, trials, blend_rounds=1, symmetric=False),
    "ours": ours,
    "no neighbours": lambda simulated, trials: plain(simulated, trials, reach=0),
    "permuted in studies": plain,
    "permuted in folds": plain,
}


def main():
    options = flag_parser(__doc__)
    options.add_argument("--trials", type=int, default=1)
    options = options.parse_args()
    studies, seeds = (QUICK_STUDIES, sim.SEEDS[:1]) if options.quick else (None, sim.SEEDS)
    start = time.perf_counter()
    jobs = [
        (name, family, seed, options.trials, studies)
        for seed in seeds
        for family in sim.FAMILIES
        for name in (*reversed(CONTENDERS), *(CONTROLS if seed == 0 else ()))
    ]
    print(
        f"{cores()} cores, one job each; {options.trials} trial{'s' * (options.trials > 1)} a "
        "label and fold"
    )
    print(
        f"{'family':6} seed  {'contender':19}  "
        + "  ".join(f"{name[:8]:>8}" for name in COLUMNS)
        + "  seconds"
    )
    found = {}
    for (name, family, seed, *_), (losses, seconds) in zip(
        jobs, run_jobs(contend, jobs), strict=True
    ):
        found[name, family, seed] = losses
        row = "  ".join(f"{value:8.5f}" for value in losses.mean(axis=0))
        print(f"{family:6} {seed:4}  {name:19}  {row}  {seconds:7.0f}", flush=True)
    missed = [
        line
        for family in sim.FAMILIES
        for line in judge(found, family, seeds, some_studies(studies)["patient_id"])
    ]
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes")
    print("\n".join(missed) if missed else "every bar is met")
    return 1 if missed else 0


def judge(found, family, seeds, patients):
    """Print a family's gains, their intervals and the controls; return the missed bars.

    found: {(contender, family, seed): losses (n, 7)}; patients: (n,)
    """
    mean = {
        name: np.mean([found[name, family, seed] for seed in seeds], axis=0) for name in CONTENDERS
    }
    print(
        f"\nfamily {family}: gain over raw in 1e-5, mean of {len(seeds)} seeds, with the 95 % "
        "interval over patients"
    )
    raw = mean.pop("raw")
    gains = {name: gain_of(raw - losses, patients) for name, losses in mean.items()}
    for other in ("plain", "single"):
        gains[f"ours less {other}"] = gain_of(mean[other] - mean["ours"], patients)
    print(f"{'':17}" + "".join(f"{name:>23}" for name in gains))
    for column in COLUMNS:
        cells = [tuple(1e5 * value for value in gains[name][column]) for name in gains]
        print(
            f"{column:17}"
            + "".join(f"{f'{g:.0f} [{low:.0f}, {high:.0f}]':>23}" for g, low, high in cells)
        )
    missed = [
        f"{family}: ours gains nothing beyond doubt on {label}"
        for label in ("weighted", "any")
        if gains["ours"][label][1] <= 0
    ]
    missed += [
        f"{family}: ours is worse than raw on {label}"
        for label in LABELS
        if label != "epidural" and gains["ours"][label][2] < 0
    ]
    times = gains["ours"]["weighted"][0] / gains["plain"]["weighted"][0]
    print(f"ours gains {times:.2f} times what plain gains (bar {TIMES_PLAIN})")
    if times < TIMES_PLAIN or gains["ours less plain"]["weighted"][1] <= 0:
        missed.append(
            f"{family}: ours gains {times:.2f} times what plain gains, the bar is {TIMES_PLAIN}, "
            "beyond doubt"
        )
    for name in CONTROLS:
        base = found["raw", family, 0][:, 0].mean()
        share = 1 - found[name, family, 0][:, 0].mean() / base
        print(f"plain, {name}, seed 0: {share:+.1%} of the loss")
        if share > NOTHING and name != "permuted in studies":
            missed.append(f"{family}: {name}, yet {share:.1%} of the loss are gained")
    return missed


def gain_of(gain, patients):
    """Return {column: (mean, low, high)} of gains (n, 7)."""
    low, high = patient_bootstrap(gain, patients)
    return dict(zip(COLUMNS, zip(gain.mean(axis=0), low, high, strict=True), strict=True))


if __name__ == "__main__":
    sys.exit(main())
