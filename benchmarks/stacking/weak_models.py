"""Weak CNNs beside good ones: stage two must lose nothing by them.

    python -m benchmarks.stacking.weak_models [--quick] [--seed=N]

Beside the three simulated CNNs stand five copies of theirs, whose logits have Gaussian noise of
1 to 5. Stage two is the recipe `stack_only`, with one trial (stack_gain.py):

    best subset     on the three alone
    equal weights   on all eight, each with the same weight in their mean
    fitted weights  on all eight, with the weights of features/cnn_weights.py
    equal models    on the three alone, with fitted weights: nothing may be lost

Gains are per slice, their intervals over patients. --quick: 400 studies.
"""

import sys
import time

import numpy as np
from scipy.special import logit

from benchmarks.command_line import flag_parser
from benchmarks.stacking import simulated_cnns as sim
from benchmarks.stacking import stack_baselines as baselines
from benchmarks.stacking.stack_gain import QUICK_STUDIES, fit, some_studies, stack_only
from ct.labels import LABELS, WEIGHTS
from ct.metrics import log_loss, patient_bootstrap
from ct.seeds import derive_seed
from ct.system.blas_threads import one_blas_thread
from ct.system.parallel_jobs import cores, run_jobs

NOISE = (1.0, 2.0, 3.0, 4.0, 5.0)  # of the copies' logits
CONTENDERS = {  # name -> (whether the weak CNNs take part, weights)
    "best subset": (False, "equal"),
    "equal weights": (True, "equal"),
    "fitted weights": (True, "fitted"),
    "equal models": (False, "fitted"),
}
BAR = 1e-4  # the weighted log loss that weak CNNs may cost


def with_weak_copies(simulated, seed):
    """Return the Simulated with one noisy copy for each spread of NOISE."""
    rng = np.random.default_rng(derive_seed(seed, "weak CNNs"))
    probs, names = dict(simulated.probs), list(simulated.probs)
    for number, spread in enumerate(NOISE):
        noisy = logit(probs[names[number % len(names)]])
        noisy = noisy + spread * rng.standard_normal(noisy.shape)
        probs[f"weak_{number}"] = 1 / (1 + np.exp(-noisy))
    return simulated._replace(probs=probs)


@one_blas_thread()
def contend(name, family, seed, studies):
    """Return (losses (n,) weighted over labels, seconds) of one contender."""
    start, (weak, weights) = time.perf_counter(), CONTENDERS[name]
    simulated = sim.simulate(some_studies(studies), family, seed)
    if weak:
        simulated = with_weak_copies(simulated, seed)
    recipe = stack_only()
    features = recipe.features.model_copy(update={"cnn_weights": weights})
    config = recipe.stage2.model_copy(update={"trials": 1})
    made = fit(simulated, *baselines.stack_features(simulated, features), config)
    final = np.column_stack([made[label].oof for label in LABELS])
    return log_loss(simulated.y, final) @ WEIGHTS, time.perf_counter() - start


def main():
    options = flag_parser(__doc__)
    options.add_argument("--seed", type=int, default=0)
    options = options.parse_args()
    studies = QUICK_STUDIES if options.quick else None
    jobs = [(name, family, options.seed, studies) for family in sim.FAMILIES for name in CONTENDERS]
    print(f"{cores()} cores, one job each")
    losses = {}
    for (name, family, *_), (of_job, seconds) in zip(jobs, run_jobs(contend, jobs), strict=True):
        losses[family, name] = of_job
        print(f"{family:6} {name:15} {of_job.mean():.5f}  {seconds:6.0f} s", flush=True)
    patients = some_studies(studies)["patient_id"]
    missed = [line for family in sim.FAMILIES for line in judge(losses, family, patients)]
    print("\n".join(missed) if missed else "every bar is met")
    return 1 if missed else 0


def judge(losses, family, patients):
    """Print the gains of one family, and return the missed bars.

    losses: {(family, contender): (n,)}; patients: (n,)
    """

    def gain(name, over):
        difference = losses[family, over] - losses[family, name]
        low, high = patient_bootstrap(difference, patients)
        mean = difference.mean()
        print(f"{family}: {name} over {over}: {1e5 * mean:.1f} [{1e5 * low:.1f}, {1e5 * high:.1f}]")
        return mean, low, high

    missed = []
    if gain("fitted weights", "best subset")[0] < -BAR:
        missed.append(f"{family}: weak CNNs cost more than {BAR}")
    if gain("fitted weights", "equal weights")[1] <= 0:
        missed.append(f"{family}: fitted weights gain nothing beyond doubt over equal ones")
    if gain("equal models", "best subset")[2] < 0:
        missed.append(f"{family}: fitted weights of equal CNNs lose beyond doubt")
    return missed


if __name__ == "__main__":
    sys.exit(main())
