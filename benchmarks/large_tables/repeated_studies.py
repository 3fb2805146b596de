"""Slice tables of any number of rows, from real or made-up studies repeated under new names."""

import numpy as np
import pandas as pd

from benchmarks.command_line import REAL_DATA
from ct.labels import LABELS
from ct.slices import ORIENTATION, POSITION, order_slices

MODELS, FOLDS = ("resnet", "densenet", "vgg", "swin"), 5


def real_studies():
    """Return a sorted slice table of real studies with their labels, and its name.

    Made-up studies if the real ones are missing.
    """
    path = REAL_DATA / "stage_two" / "labelled_studies.csv.gz"
    if not path.is_file():
        return made_up_studies(np.random.default_rng(0)), "made-up series"
    rows = pd.read_csv(path)
    rows = rows.rename(
        columns={
            "SOPInstanceUID": "slice_id",
            "PatientID": "patient_id",
            "StudyInstanceUID": "study_id",
            "SeriesInstanceUID": "series_id",
            "RescaleIntercept": "intercept",
            "BitsStored": "bits_stored",
            "PixelRepresentation": "pixel_representation",
        }
    ).set_index("slice_id")
    for text, names in (
        ("ImagePositionPatient", POSITION),
        ("ImageOrientationPatient", ORIENTATION),
    ):
        rows[list(names)] = rows[text].str.findall(r"-?\d+\.?\d*(?:e-?\d+)?").tolist()
        rows[list(names)] = rows[list(names)].astype(np.float64)
    rows["pixel_spacing_mm"] = (
        rows["PixelSpacing"].str.extract(r"([\d.]+)", expand=False).astype(np.float64)
    )
    for name in ("center", "width"):
        rows[f"window_{name}"] = pd.to_numeric(
            rows[f"Window{name.title()}"].astype(str).str.extract(r"(-?[\d.]+)", expand=False)
        )
    kept = [
        "patient_id",
        "study_id",
        "series_id",
        *POSITION,
        *ORIENTATION,
        "intercept",
        "bits_stored",
        "pixel_representation",
        "pixel_spacing_mm",
        "window_center",
        "window_width",
        *LABELS,
    ]
    return order_slices(
        rows[kept].assign(split="train")
    ), f"{rows['study_id'].nunique():,} real studies"


def made_up_studies(rng, studies=1500):
    """Return a slice table of series of 20 to 60 slices with a run of positives in every third.

    Slices are 5 or 2.5 mm apart.
    """
    counts = rng.integers(20, 61, studies)
    study, place = (
        np.repeat(np.arange(studies), counts),
        np.concatenate([np.arange(count) for count in counts]),
    )
    ids = pd.Series(study).map("ID_{:06x}".format).to_numpy(object)
    start = np.repeat(rng.integers(0, 20, studies), counts)
    bleeds = (
        (np.repeat(np.arange(studies) % 3 == 0, counts)) & (place >= start) & (place < start + 6)
    )
    table = pd.DataFrame(
        {
            "slice_id": [f"ID_{n:09x}" for n in range(len(study))],
            "patient_id": ids,
            "study_id": ids,
            "series_id": ids,
            "split": "train",
            **dict.fromkeys([*POSITION, *ORIENTATION], 0.0),
        }
    )
    table = table.assign(
        row_x=1.0,
        col_y=1.0,
        ipp_z=place * np.repeat(rng.choice([2.5, 5.0], studies, p=[0.2, 0.8]), counts),
    )
    scanner = {
        "intercept": -1024.0,
        "bits_stored": 12.0,
        "pixel_representation": 0.0,
        "pixel_spacing_mm": 0.488,
        "window_center": 40.0,
        "window_width": 80.0,
    }
    return order_slices(
        table.assign(**scanner, **{label: bleeds.astype(float) for label in LABELS}).set_index(
            "slice_id"
        )
    )


def repeat(studies, count):
    """Return a slice table of at least `count` rows: whole studies repeated under new names."""
    starts = np.flatnonzero(studies["place"].to_numpy() == 0)
    times, rest = divmod(count, len(studies))
    last = next((start for start in starts if start >= rest), len(studies))
    copies = [studies] * times + [studies.iloc[:last]]
    number = np.repeat(np.arange(len(copies)), [len(copy) for copy in copies])
    table = pd.concat(copies, ignore_index=True)
    names = pd.Series(number).map("{:02d}-".format).to_numpy(object)
    table[["patient_id", "study_id", "series_id"]] = table[
        ["patient_id", "study_id", "series_id"]
    ].add(names, axis=0)
    rng, n = np.random.default_rng(0), len(table)
    pixels = {
        "padding_hu": rng.choice([-1024.0, -2000.0], n),
        "brain_cm2": rng.uniform(0, 180, n),
        "rows": 512,
        "cols": 512,
        "skull_cm2": rng.uniform(0, 60, n),
        "brain_mean_hu": rng.normal(32, 4, n),
        "brain_std_hu": rng.normal(12, 2, n),
        "blood_share": rng.uniform(0, 0.1, n),
        "slope": 1.0,
        "repaired_intercept": False,
    }
    return table.assign(**pixels).set_index(
        pd.Index([f"ID_{row:09x}" for row in range(n)], name="slice_id")
    )


def make_predictions(slices):
    """Return predictions {model: (n, 6)}, labels (n, 6) and folds (n,) by patient.

    One slice in 500 is unreadable.
    """
    rng, y = np.random.default_rng(1), slices[list(LABELS)].to_numpy(np.float64)
    lost = rng.random(len(y)) < 0.002
    predictions = {}
    for model in MODELS:
        z = 4 * y - 4 + rng.normal(0, 1.5, y.shape)
        predictions[model] = 1 / (1 + np.exp(-z))
        predictions[model][lost] = np.nan
    return predictions, y, pd.factorize(slices["patient_id"])[0] % FOLDS
