"""A run folder with invented artifacts: all files that the report reads, without the stages."""

import shutil

import numpy as np
import pandas as pd

from ct import metrics
from ct.labels import LABELS, SUBTYPES
from ct.run_dir import RunDir, fit_names
from ct.slices import COLUMNS
from ct.storage.file_formats import read_table, write_json, write_table, write_yaml
from report.run_artifacts import STAGES

FOLDS = 3
MODELS = ("resnet", "vgg")
CHOSEN = {
    "scope": "context",
    "learning_rate": 0.05,
    "num_leaves": 7,
    "min_data_in_leaf": 20,
    "feature_fraction": 0.4,
    "bagging_fraction": 0.8,
    "lambda_l2": 10.0,
}
SHARES = dict(zip(CHOSEN, (0.4, 0.3, 0.1, 0.1, 0.05, 0.04, 0.01), strict=True))
ENVIRONMENTS = {  # of the receipts of some stages; those of an older version lack the values
    "train": {
        "engine": "ray",
        "units_at_once": 4,
        "device": ["cuda, RTX", "cpu"],
        "precision": "bf16",
    },
    "tune": {"engine": "local", "units_at_once": 1, "device": "cpu"},
}
SECRET = "/home/somebody/secret place"


def make_run(root, studies=15, slices=8, seed=0):
    """Write all artifacts of a run but the pixels, and return its RunDir."""
    rng = np.random.default_rng(seed)
    run = RunDir(root)
    table = make_slices(rng, studies, slices)
    train, test = (table[table["split"] == split] for split in ("train", "test"))
    number = table["patient_id"].str[3:].map(lambda text: int(text, 16))
    fold = (number % FOLDS).where(
        (table["split"] == "train") | number.isin(number[train.index]), -1
    )
    write_table(run.slices, table)
    write_table(run.folds, pd.DataFrame({"fold": fold.astype(np.int8)}))
    write_yaml(run.recipe, make_recipe())
    make_faults(run, table)
    make_stage_one(rng, run, train, test)
    make_stage_two(rng, run, train, test)
    for stage, seconds in zip(STAGES, (12.5, 0.2, 800, 90, 4, 130, 9, 0.4), strict=True):
        facts = {
            "stage": stage,
            "seconds": seconds,
            "peak_memory_mb": 512.25,
            "versions": {"numpy": "2.4.6", "torch": "2.9"},
        }
        facts |= {
            "commit": "0123abc+",
            "recipe": {},
            "read": {SECRET: "0a1b", "train files": f"{stage}0123"},
            "made": {
                f"{SECRET}/a": {"digest": "x", "size": 1_500_000_000, "mtime_ns": 1},
                "b": {"digest": "x", "size": 40_000, "mtime_ns": 1},
            },
            "finished": "2026-01-02T03:04:05+00:00",
        }
        write_json(run.receipt(stage), facts | ENVIRONMENTS.get(stage, {}))
    return run


def make_slices(rng, studies, slices):
    """A slice table with test studies, the first of a patient who is also in train."""
    rows = []
    for number in range(studies + studies // 3):
        split = "train" if number < studies else "test"
        patient = 0 if number == studies else number
        subtypes = {
            s
            for s, share in zip(SUBTYPES, (0, 0.4, 0.3, 0.3, 0.5), strict=True)
            if rng.random() < share
        }
        centre, width = rng.uniform(0.3, 0.8), rng.uniform(0.1, 0.3)
        for place in range(slices):
            hit = abs(place / slices - centre) < width
            of_slice = {s: float(hit and s in subtypes) for s in SUBTYPES}
            labels = (
                {"any": max(of_slice.values()), **of_slice}
                if split == "train"
                else dict.fromkeys(LABELS, np.nan)
            )
            row = dict.fromkeys(COLUMNS, 0.0) | {
                "slice_id": f"ID_{number:04x}{place:04x}",
                "split": split,
                "patient_id": f"ID_{patient:08x}",
                "study_id": f"ID_{number:06x}aa",
                "series_id": f"ID_{number:06x}bb",
                "path": f"{split}/ID_{number:04x}{place:04x}.dcm",
                "place": place,
                "position_mm": 5.0 * place,
                "series_slices": slices,
                "readable": True,
            }
            rows.append(row | {label: np.float32(value) for label, value in labels.items()})
    return pd.DataFrame(rows).set_index("slice_id")


def make_probabilities(rng, truth, skill):
    """Probabilities (n, 6) around the labels, the closer the greater `skill` is."""
    mean = np.nan_to_num(truth, nan=0.2)
    logit = skill * (mean - 0.6) * 4 + rng.normal(0, 1, truth.shape)
    return 1 / (1 + np.exp(-logit))


def make_recipe():
    """A recipe with absolute paths in it."""
    cnn = {
        "backbone": "resnet18",
        "windows": ["brain", "subdural"],
        "neighbours": True,
        "epochs": 4,
    }
    data = {
        "source": f"{SECRET}/rsna",
        "labels": f"{SECRET}/train.csv",
        "sample": None,
        "missing": "refuse",
    }
    return {
        "name": "demo",
        "seed": 1,
        "data": {**data, "allow_unlabelled": False},
        "folds": {"k": FOLDS},
        "pixels": {"size": 256},
        "stage1": {"models": [{"name": name, **cnn} for name in MODELS]},
        "stage2": {"trials": 20},
    }


def make_faults(run, table):
    """Write quarantine.csv and ingest.json."""
    faults = [
        (
            "stage_2_train/ID_6431af929.dcm",
            "ID_6431af929",
            "train",
            "header",
            '<script>alert(1)</script> & "no header"',
        ),
        (
            "test/x.dcm",
            table.index[-1],
            "test",
            "pixels",
            f"{SECRET.replace(' ', '_')}/rsna/test/x.dcm: 12 of 524288 bytes",
        ),
    ]
    columns = ["path", "slice_id", "split", "kind", "reason"]
    pd.DataFrame(faults, columns=columns).to_csv(run.quarantine, index=False)
    splits = table["split"].value_counts()
    facts = {
        "train_slices": int(splits["train"]),
        "test_slices": int(splits["test"]),
        "train_studies": 15,
        "test_studies": 5,
    }
    facts |= {"quarantined": 1, "unreadable": 1, "repaired_intercept": 3, "duplicate_label_rows": 4}
    facts |= {
        "labels_without_file": 0,
        "unlabelled": 0,
        "patients_in_both_sets": ["ID_00000000"],
        "their_test_studies": ["ID_s7"],
        "geometry": {"series": 20, "tilted": 13, "gaps": 0},
    }
    write_json(run.ingest, facts)


def make_stage_one(rng, run, train, test):
    """Write the learning curves and the predictions of the CNNs; one slice is unreadable."""
    for model, skill in zip(MODELS, (0.9, 1.0), strict=True):
        oof = pd.DataFrame(
            make_probabilities(rng, train[list(LABELS)].to_numpy(), skill),
            train.index,
            list(LABELS),
        )
        oof.iloc[3] = np.nan
        write_table(run.oof(model), oof.astype(np.float32))
        for k in range(FOLDS):
            epochs = np.arange(1, 5)
            falling = 0.1 + 0.4 / epochs + rng.normal(0, 0.01, 4)
            rows = zip(epochs, falling, falling + 0.02 * epochs, strict=True)
            curve = [
                {"epoch": e, "lr": 1e-3, "train_loss": t, "held_out_loss": h, "seconds": 9.0}
                for e, t, h in rows
            ]
            write_json(run.fold(model, k) / "curve.json", curve)
            p = make_probabilities(rng, test[list(LABELS)].to_numpy(), 1)
            write_table(
                run.fold(model, k) / "test.parquet", pd.DataFrame(p, test.index, list(LABELS))
            )


def make_stage_two(rng, run, train, test):
    """Write stage two: subdural is stacked in two of three folds, epidural has no positives."""
    y = train[list(LABELS)].to_numpy(float)
    tables = {}
    for name, skill in (("calibrated", 1.1), ("oof", 1.6)):
        tables[name] = make_probabilities(rng, y, skill)
        write_table(
            run.stage2 / f"{name}.parquet", pd.DataFrame(tables[name], train.index, list(LABELS))
        )
    for name in ("calibrated_test", "test"):
        p = make_probabilities(rng, test[list(LABELS)].to_numpy(), 1.2)
        write_table(run.stage2 / f"{name}.parquet", pd.DataFrame(p, test.index, list(LABELS)))
    patients = train["patient_id"].to_numpy()
    cnns = {
        m: metrics.score_table(y, read_table(run.oof(m)).fillna(0.2).to_numpy(), patients)
        for m in MODELS
    }
    scores = {"rows": len(y), "patients": len(set(patients)), "models": cnns}
    scores |= {"calibrated": metrics.score_table(y, tables["calibrated"], patients)}
    scores |= {"stage_two": metrics.score_table(y, tables["oof"], patients)}
    scores |= {"gain": metrics.gain_table(y, tables["calibrated"], tables["oof"], patients)}
    scores["ladder"] = [
        ablation_step(name, scores, part)
        for name, part in (("CNNs", "calibrated"), ("blend", "stage_two"))
    ]
    write_json(run.stage2 / "scores.json", scores)
    names = [
        f"{label}_{place}"
        for label in LABELS
        for place in ("z-2", "z-1", "z+0", "z+1", "z+2", "study_max")
    ]
    shares = pd.DataFrame(
        rng.dirichlet(np.full(len(names), 0.3), len(LABELS)).T, names, list(LABELS)
    ).rename_axis("feature")
    write_table(run.stage2 / "importances.parquet", shares.assign(epidural=0.0))
    write_table(
        run.stage2 / "contributions.parquet", shares.iloc[::-1].assign(any=shares["any"].to_numpy())
    )
    fits = zip(fit_names(FOLDS), (0.6, 0.8, 0.9, 0.75), strict=True)
    weights = {fit: dict(zip(MODELS, (first, 1 - first), strict=True)) for fit, first in fits}
    write_json(
        run.cnn_weights,
        {
            fit: {model: dict.fromkeys(LABELS, weight) for model, weight in of_fit.items()}
            for fit, of_fit in weights.items()
        },
    )
    write_json(run.stage2 / "features" / "names.json", {name: f"what {name} is" for name in names})
    make_tuning(rng, run)


def ablation_step(name, scores, part):
    """One step of the ablation; scores.json names their list "ladder"."""
    names = ("weighted", *LABELS)
    no_gain = dict.fromkeys(names, {"gain": 0.0, "low": 0.0, "high": 0.0})
    gain = no_gain if part == "calibrated" else scores["gain"]
    loss = {label: scores[part][label]["loss"] for label in names}
    return {
        "component": name.lower(),
        "name": name,
        "tuned_on": f"what {name} needs",
        "loss": loss,
        "gain": gain,
    }


def make_tuning(rng, run):
    """Write the chosen settings, and twelve trials a label and fold, every third one pruned.

    Epidural has none.
    """
    why = "fewer than 10 positives <b>in all</b>"
    rows = [
        {
            "label": label,
            "fold": k,
            "trial": n,
            "state": "pruned" if n % 3 == 2 else "complete",
            "loss": loss,
            "inner_folds": 2,
        }
        for label in LABELS
        for k in range(FOLDS)
        for n, loss in enumerate(rng.normal(-0.002, 0.002, 12))
        if label != "epidural"
    ]
    write_table(run.stage2 / "trials.parquet", pd.DataFrame(rows))
    importances = {label: {"importances": SHARES, "folds": FOLDS, "why": {}} for label in LABELS}
    importances["epidural"] = {
        "importances": {},
        "folds": 0,
        "why": dict.fromkeys(map(str, range(FOLDS)), why),
    }
    importances["any"]["why"] = {"1": "8 completed trials, fewer than 10"}
    write_json(run.stage2 / "tuning.json", importances)
    tuned = {"params": CHOSEN, "trials": 12, "inner_loss": 0.0471, "inner_calibrated": 0.0503}
    configs = {
        label: [
            {"fold": k, "stacked": True, "why": "", "rounds": 90, **tuned} for k in range(FOLDS)
        ]
        for label in LABELS
    }
    not_tuned = {"params": {}, "trials": 0, "inner_loss": None, "inner_calibrated": None}
    configs["epidural"] = [
        {"fold": k, "stacked": False, "why": why, "rounds": 0, **not_tuned} for k in range(FOLDS)
    ]
    configs["subdural"][1] |= {
        "stacked": False,
        "why": "calibrated stage one was as good on the inner folds",
    }
    write_json(run.stage2 / "configs.json", configs)


def with_pixels(fabricated, folder):
    """A copy of a fabricated run that has a folder for pixels."""
    shutil.copytree(fabricated.root, folder / "runs" / "demo")
    run = RunDir(folder / "runs" / "demo")
    run.pixels.mkdir()
    return run


class FakePixels:
    """Replaces ct.pixel_cache.reader.PixelCache: a slice's number is its brightness."""

    size = 32

    def __init__(self, folder):
        self.folder = folder

    def read(self, slice_numbers):
        """HU, int16 (n, 32, 32)."""
        return np.repeat(np.asarray(slice_numbers, np.int16) % 80, 32 * 32).reshape(-1, 32, 32)
