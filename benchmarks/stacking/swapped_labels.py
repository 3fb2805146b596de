"""Control: does stage two gain on labels that the CNNs know nothing about, and by what?

    python -m benchmarks.stacking.swapped_labels [--studies=N] [--seed=N]

The labels of real studies are swapped in blocks between studies: each series is cut into BLOCKS
blocks of equal height, and each block takes the labels that another study has at the same relative
heights. The CNNs' probabilities (family "runs" of simulated_cnns.py) and the geometry stay. Then
the only information about a slice is how often slices of its height are positive. Using it is no
leak: a stacker may gain by it. Contenders differ in where they can read the height:

    all                  features of the recipe stack_only in the scope "study", with geometry
    without geometry     the same without it; missing neighbours at the ends still show the height
    no missing either    without geometry, and missing values take the slice's own logit of `any`
    geometry alone       the geometry, and the CNNs' logits of the slice itself
    own logits alone     no height but what the CNNs' logits hold of it
    heights not kept     "all", with each series' labels rotated by a random number of slices
    shuffled             "all", with labels permuted over all slices of a fold

The gain is that of `any` over the calibrated mean of the CNNs, out of fold, by a booster with the
settings of trial 0. In the last two there is no information left: a significant gain would be a
leak, and so would a gain of "all" that "geometry alone" does not have.
"""

import sys
import time

import numpy as np

from benchmarks.command_line import flag_parser
from benchmarks.stacking import simulated_cnns as sim
from benchmarks.stacking.stack_gain import SEED, some_studies, stack_only
from ct.labels import LABELS
from ct.metrics import log_loss, patient_bootstrap
from ct.system.blas_threads import one_blas_thread
from features.build import build_features
from stage2_stack.stack_context import StackData
from stage2_stack.stacker import fit_stack
from stage2_stack.tuning.search_space import FIRST

BLOCKS = 4
NO_GEOMETRY = {"geometry": False, "place": False}
NO_CONTEXT = {
    "reach": 0,
    "model_reach": 0,
    "difference_reach": 0,
    "smooth_mm": (),
    "smooth_best": False,
    "rolling": (),
    "cumulative": False,
    "study": False,
}
CONTENDERS = {
    "all": {},
    "without geometry": NO_GEOMETRY,
    "no missing either": NO_GEOMETRY,
    "geometry alone": NO_CONTEXT,
    "own logits alone": NO_CONTEXT | NO_GEOMETRY,
    "heights not kept": {},
    "shuffled": {},
}


def swapped(slices, y, rng):
    """Return labels (n, 6) swapped between series in blocks, heights kept.

    slices: slice table sorted by series and place; y: (n, 6). Block b of all series is dealt out by
    one permutation of the series; a slice takes the label at the same relative height.
    """
    place, length = slices["place"].to_numpy(), slices["series_slices"].to_numpy()
    first = np.flatnonzero(place == 0)
    series, height = np.cumsum(place == 0) - 1, (place + 0.5) / length
    donors = np.array([rng.permutation(len(first)) for _ in range(BLOCKS)])
    donor = donors[(height * BLOCKS).astype(int), series]
    return y[first[donor] + (height * length[first[donor]]).astype(int)]


def turned(slices, y, rng):
    """Return labels (n, 6), rotated within each series by a random number of slices.

    Runs stay, heights do not.
    """
    place, length = slices["place"].to_numpy(), slices["series_slices"].to_numpy()
    by = np.repeat(rng.random((place == 0).sum()), length[place == 0])
    return y[np.arange(len(y)) - place + (place + (by * length).astype(int)) % length]


def shuffled(y, fold, rng):
    """Return labels (n, 6) dealt out anew over all slices of each fold."""
    order, mixed = np.lexsort([rng.random(len(fold)), fold]), np.empty_like(y)
    mixed[np.argsort(fold, kind="stable")] = y[order]
    return mixed


@one_blas_thread()
def contend(simulated, name):
    """Return the gain (n,) on `any`, and the number of folds whose blend keeps the booster.

    The gain is that over the calibrated mean of the CNNs.
    """
    recipe = stack_only()
    features = recipe.features.model_copy(update={"chain": False, **CONTENDERS[name]})
    X, names = build_features(simulated.slices, simulated.logits(), features)
    if name == "no missing either":
        X = np.where(np.isnan(X), X[:, [names.index("any")]], X)
    config = recipe.stage2.model_copy(
        update={"components": ("raw", "lightgbm"), "any_at_least_largest": False}
    )
    rows = StackData(
        X, simulated.y, simulated.fold, simulated.slices["patient_id"].to_numpy(object), names
    )
    first = {"stacked": True, "params": FIRST | {"scope": "study"}, "rounds": None}
    none = {"stacked": False, "params": {}, "rounds": 0}
    settings = {label: [first if label == "any" else none] * sim.FOLDS for label in LABELS}
    made = fit_stack(rows, X[None, :1].repeat(sim.FOLDS, axis=0), settings, config, SEED)["any"]
    raw, final = (log_loss(simulated.y[:, 0], p) for p in (made.calibrated, made.oof))
    return raw - final, sum("lightgbm" in blend.weights for blend in made.blends)


def main():
    options = flag_parser(__doc__)
    options.add_argument("--studies", type=int, default=300)
    options.add_argument("--seed", type=int, default=0)
    options = options.parse_args()
    slices, rng = some_studies(options.studies), np.random.default_rng(options.seed)
    simulated = sim.simulate(slices, "runs", options.seed)
    labels = swapped(slices, simulated.y, rng)
    others = {
        "heights not kept": turned(slices, labels, rng),
        "shuffled": shuffled(simulated.y, simulated.fold, rng),
    }
    print(f"{slices['study_id'].nunique()} studies, {len(slices)} slices, seed {options.seed}")
    print(
        f"{'':18} {'gain on any':>11} {'95 % over patients':>20}  folds that keep the booster  "
        "seconds"
    )
    low = {}
    for name in CONTENDERS:
        start = time.perf_counter()
        gain, kept = contend(simulated._replace(y=others.get(name, labels)), name)
        low[name], high = patient_bootstrap(gain, slices["patient_id"])
        interval = f"[{low[name]:.4f}, {high:.4f}]"
        seconds = time.perf_counter() - start
        print(
            f"{name:18} {gain.mean():11.4f} {interval:>20}  {f'{kept} of {sim.FOLDS}':27}  "
            f"{seconds:7.0f}",
            flush=True,
        )
    leak = max(low[name] for name in others) > 0 or low["all"] > 0 >= low["geometry alone"]
    print(
        "a gain that the height does not explain: a leak"
        if leak
        else "no gain but that of the height"
    )
    return 1 if leak else 0


if __name__ == "__main__":
    sys.exit(main())
