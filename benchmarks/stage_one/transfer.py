"""One CNN from ImageNet's weights beside the same CNN from scratch, on few real patients.

    python -m benchmarks.stage_one.transfer [--quick] [--keep=DIR] [--data=DIR] [--size=PIXELS]

The data are 8 real studies (`rsna_mini`), or those of --data in the competition's layout. Each of 4
folds of patients is predicted by CNNs that never saw them, 3 seeds. The settings of either start
are chosen from SETTINGS on a fold of the training patients, with seed 0. Printed: the weighted log
loss and the AUC with intervals over patients, both of the mean probability of the seeds, the means
over the seeds, and seconds. The bars: the mean loss of the seeds lower than from scratch and than
that of the training patients' prevalence, and an AUC of `any` of at least .75; exit 1 where one is
missed. --quick: one seed, 64 px, one setting each, no bars; --keep: predictions stay in DIR, and
are used again.
"""

import dataclasses
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.command_line import REAL_SLICES, RUN, flag_parser
from ct.evaluation.label_figures import auc_interval
from ct.evaluation.patient_draws import draw_patients, mean
from ct.labels import LABELS, WEIGHTS
from ct.metrics import auc, weighted_log_loss
from ct.storage.file_formats import write_yaml
from pipeline.run_context import Run
from pipeline.training.stage_one_inputs import StageOneInputs
from stage1_cnn.config import CnnConfig
from stage1_cnn.inference import predict
from stage1_cnn.train_loop import Hooks, train_cnn

FOLDS, SEEDS, SIZE = 4, 3, 224
SHOWN = ("any", "intraparenchymal", "subarachnoid")
RECIPE = {"name": "lite0", "backbone": "tf_efficientnet_lite0.in1k", "batch": 32, "threads": 1}
HELD = {"body_rate": 0.01, "freeze_norms": True, "epochs": 3}
SETTINGS = {  # start -> the settings that are chosen from, fixed beforehand
    "package": (
        {"body_rate": 0, "epochs": 10},
        {"body_rate": 0, "epochs": 10, "normalisation": "backbone"},
        {"body_rate": 0, "epochs": 40, "lr": 3e-3, "weight_decay": 10},
        {"body_rate": 0, "epochs": 20, "positive_share": 0.5},
        HELD,
        HELD | {"layer_decay": 0.8},
        {"body_rate": 0.1, "freeze_norms": True, "epochs": 3},
        {"body_rate": 1, "freeze_norms": False, "epochs": 4},
    ),
    False: (
        {"epochs": 3},
        {"epochs": 3, "lr": 3e-3},
        {"epochs": 8},
        {"epochs": 5, "lr": 3e-4},
        {"epochs": 8, "lr": 3e-4, "weight_decay": 1},
        {"epochs": 8, "positive_share": 0.5},
        {"epochs": 16},
        {"epochs": 1},
    ),
}


@dataclasses.dataclass(frozen=True)
class Slices:
    """The training slices of a run, and where the predictions of trainings are kept."""

    inputs: StageOneInputs
    size: int
    folder: Path

    @property
    def labels(self) -> NDArray[np.float32]:
        return self.inputs.slices[list(LABELS)].to_numpy(np.float32)

    def rows(self, folds: set[int]) -> NDArray[np.int64]:
        """Row numbers of the training slices of some folds."""
        in_train = (self.inputs.slices["split"] == "train").to_numpy() & self.inputs.readable
        return np.flatnonzero(in_train & np.isin(self.inputs.fold, list(folds)))


def main() -> int:
    options = flag_parser(__doc__, "one seed, 64 px, one setting")
    options.add_argument("--keep", type=Path)
    options.add_argument("--data", type=Path)
    options.add_argument("--size", type=int, default=SIZE)
    options = options.parse_args()
    if options.data is None and not REAL_SLICES.is_file():
        print("no real data: set ICH_REAL_DATA to their folder, or --data")
        return 0
    with tempfile.TemporaryDirectory(prefix="ich-transfer-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        size = 64 if options.quick else options.size
        slices = ingested(folder, options.data, size)
        means = {}
        for start, settings in SETTINGS.items():
            count = (1, 1) if options.quick else (SEEDS, len(settings))
            means[start] = compared(slices, start, *count)
    return 0 if options.quick else judged(slices, means)


def ingested(folder: Path, data: Path | None, size: int) -> Slices:
    """Ingest the data and make the folds, where an earlier call has not."""
    run = folder / f"run{size}"
    if not (run / "folds.parquet").exists():
        if data is None:
            data = folder / "rsna_mini"
            with tarfile.open(REAL_SLICES) as archive:
                archive.extractall(folder, filter="data")
        recipe = {
            "name": "transfer",
            "folds": {"k": FOLDS},
            "pixels": {"size": size},
            "stage1": {"models": [RECIPE | {"pretrained": "package"}]},
        }
        write_yaml(folder / "recipe.yaml", recipe)
        words = {"new": (f"--recipe={folder / 'recipe.yaml'}", f"--data={data}")}
        for verb in ("new", "ingest", "folds"):
            command([*RUN, verb, f"--run={run}", *words.get(verb, ())])
    return Slices(StageOneInputs(Run(run)), size, folder)


def command(words: list[str]) -> None:
    """Run a verb; its output is shown where it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-1000:] + done.stderr[-1000:])


def compared(slices: Slices, start: str | bool, seeds: int, settings: int) -> tuple[float, float]:
    """Predict every fold from one start, and print a table. Returns the means (loss, AUC)."""
    probs = np.full((seeds, len(slices.labels), len(LABELS)), np.nan)
    begun, chosen = time.perf_counter(), []
    for k in range(FOLDS):
        number = choice(slices, start, k, settings)
        chosen.append(number + 1)
        train, held_out = slices.rows({*range(FOLDS)} - {k}), slices.rows({k})
        for seed in range(seeds):
            probs[seed, held_out] = predicted(slices, start, number, seed, train, held_out)
    rows = slices.rows({*range(FOLDS)})
    y, p = slices.labels[rows], probs[:, rows]
    losses = [weighted_log_loss(y, each) for each in p]
    number = LABELS.index("any")
    aucs = [auc(y[:, number], each[:, number]) for each in p]
    title = "package" if start else "scratch"
    print(f"{title}: settings {chosen}, seeds {[round(loss, 4) for loss in losses]}")
    print_intervals(slices, rows, p.mean(axis=0), time.perf_counter() - begun)
    return float(np.mean(losses)), float(np.mean(aucs))


def choice(slices: Slices, start: str | bool, k: int, settings: int) -> int:
    """The number of the setting with the lowest loss on the next fold, without fold k."""
    if settings == 1:
        return 0
    inner = (k + 1) % FOLDS
    train, held_out = slices.rows({*range(FOLDS)} - {k, inner}), slices.rows({inner})
    losses = []
    for number in range(settings):
        probs = predicted(slices, start, number, 0, train, held_out)
        losses.append(weighted_log_loss(slices.labels[held_out], probs))
    return int(np.argmin(losses))


def predicted(
    slices: Slices,
    start: str | bool,
    number: int,
    seed: int,
    train: NDArray[np.int64],
    held_out: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Probabilities (m, 6) of the held-out rows by one training, or those that are kept."""
    folds = "".join(map(str, sorted(set(slices.inputs.fold[train]))))
    kept = slices.folder / f"{start}-{number}-{seed}-{folds}-{slices.size}-{held_out[0]}.npy"
    if not kept.exists():
        config = CnnConfig(**(RECIPE | {"pretrained": start} | SETTINGS[start][number]))
        inputs = slices.inputs
        none, quiet = held_out[:0], Hooks(log=lambda line: None)
        trained = train_cnn(inputs.slices, (train, none), inputs.cache.read, config, seed, quiet)
        rows, read = inputs.neighbours(0)[held_out], inputs.cache.read
        logits, _ = predict(trained.model, rows, inputs.readable[held_out], read, config)
        np.save(kept, 1 / (1 + np.exp(-logits.astype(np.float64))))
        seconds = sum(entry["seconds"] for entry in trained.curve)
        print(
            f"  {start} {SETTINGS[start][number]} seed {seed} folds {folds}: "
            f"{seconds / len(trained.curve):.1f} s an epoch",
            flush=True,
        )
    return np.load(kept)


def print_intervals(
    slices: Slices, rows: NDArray[np.int64], p: NDArray[np.float64], seconds: float
) -> None:
    """Print the figures of the mean over the seeds with intervals over patients."""
    patients = slices.inputs.slices["patient_id"].to_numpy()[rows]
    y, draws = slices.labels[rows], draw_patients(patients)
    clipped = np.clip(p, 1e-15, 1 - 1e-15)
    each = -(y * np.log(clipped) + (1 - y) * np.log1p(-clipped)) @ np.array(WEIGHTS)
    shown = {"weighted log loss": mean(each / sum(WEIGHTS), draws)}
    for label in SHOWN:
        number = LABELS.index(label)
        if interval := auc_interval(y[:, number], p[:, number], draws):
            shown[f"AUC {label}"] = interval
    for name, value in shown.items():
        ends = [value["low"], value["high"]]
        interval = "no interval" if None in ends else "[{:.3f}, {:.3f}]".format(*ends)
        print(f"  {name:22} {value['value']:.3f} {interval}")
    print(f"  {seconds:.0f} s in all")


def judged(slices: Slices, means: dict[str | bool, tuple[float, float]]) -> int:
    """Compare with the bars. Returns the exit status."""
    rows = slices.rows({*range(FOLDS)})
    prior = np.empty((len(slices.labels), len(LABELS)))
    for k in range(FOLDS):
        share = slices.labels[slices.rows({*range(FOLDS)} - {k})].mean(axis=0)
        prior[slices.rows({k})] = np.clip(share, 1e-4, 1 - 1e-4)
    bare = weighted_log_loss(slices.labels[rows], prior[rows])
    (loss, area), (scratch, _) = means["package"], means[False]
    print(
        f"package {loss:.4f}, scratch {scratch:.4f}, prevalence {bare:.4f}, AUC of any {area:.3f}"
    )
    met = loss < min(scratch, bare) and area >= 0.75
    print("every bar is met" if met else "missed: a bar")
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
