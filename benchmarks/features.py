"""Seconds and memory of the features of 752,803 slices and four CNNs, and the same by pandas.

    python -m benchmarks.features [--quick]      --quick: an eighth of the slices, the same ratios

Prints one table; exits with 1 where a bar is missed. The geometry and labels are those of real
studies, repeated under new names (stage_two/labelled_studies.csv.gz in ICH_REAL_DATA or
../shared/data; made-up series where it is missing). Predictions are the labels with noise. Each
figure comes from a process of its own (of two, if it is short), after a small build that loads the
libraries; its memory is that process's peak, with the matrix. Growth and the comparison with pandas
are in processor seconds, which other processes on a shared machine disturb less.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.command_line import REAL_DATA, flag_parser, module_command
from ct.ensemble import mean_logits, to_logits
from ct.labels import LABELS
from ct.slices import ORIENTATION, POSITION, SERIES, order_slices
from ct.system.engine import cores
from features.build import build_features
from features.config import FeatureConfig
from features.markov_fitting import cross_fit_chains

SLICES, MODELS, FOLDS = 752_803, ("resnet", "densenet", "vgg", "swin"), 5
SECONDS, MEMORY_GB, COLUMNS, TIMES_PANDAS, GROWTH = 90.0, 8.0, 800, 8.0, 1.3
SIXTEENTH = SLICES // 16  # rows for pandas, quick or not
ALL = FeatureConfig(
    reach=10,
    model_reach=10,
    difference_reach=10,
    smooth_mm=(2.5, 5, 10, 20),
    smooth_best=True,
    rolling=(1, 2, 4),
    cumulative=True,
    chain=True,
    other_studies=True,
    place=True,
    padding=True,
    scanner=True,
)
BY_PANDAS = FeatureConfig(  # the families that a groupby can compute
    reach=10,
    model_reach=10,
    difference_reach=10,
    smooth_mm=(),
    rolling=(1, 2, 4),
    cumulative=True,
    geometry=False,
)


def main():
    options = flag_parser(__doc__)
    options.add_argument(
        "--measure", nargs=3, metavar=("WHAT", "SLICES", "TABLE"), help=argparse.SUPPRESS
    )
    options = options.parse_args()
    if options.measure:
        what, count, path = options.measure
        print(
            json.dumps(
                {"all": measure_all, "pandas": measure_pandas}[what](
                    repeat(pd.read_parquet(path), int(count))
                )
            )
        )
        return 0
    whole, missed, cost = SLICES // 8 if options.quick else SLICES, [], []
    with tempfile.TemporaryDirectory(prefix="ich-features-") as folder:
        table, origin = real_studies()
        table.to_parquet(path := Path(folder) / "studies.parquet")
        print(f"{cores()} cores; geometry of {origin}; {len(MODELS)} CNNs, reach {ALL.reach}")
        print("slices   columns  seconds  (chain)  CPU seconds  CPU us a slice  memory")
        for count in (whole // 4, whole // 2, whole):
            tries = [measure("all", count, path) for _ in range(1 if count == SLICES else 2)]
            found = min(tries, key=lambda tried: tried["cpu"])
            cost.append(1e6 * found["cpu"] / found["slices"])
            print(
                f"{found['slices']:7,}  {found['columns']:7}  {found['seconds']:7.1f}  "
                f"{found['chain']:7.1f}  "
                f"{found['cpu']:11.1f}  {cost[-1]:14.1f}  {found['memory']:3.1f} GB",
                flush=True,
            )
        other = measure("pandas", SIXTEENTH, path)
    times = other["pandas"] / other["ours"]
    print(
        f"{other['columns']} of these columns for {other['slices']:,} slices: "
        f"{other['ours']:.2f} CPU s, "
        f"pandas {other['pandas']:.2f}, {times:.1f} times as long; the values agree"
    )
    for kind, seconds in other["kinds"].items():
        print(f"  pandas, {kind}: {seconds:.2f} CPU s")
    share = whole / SLICES
    missed += [
        text
        for bad, text in (
            (
                found["seconds"] > SECONDS * share,
                f"{found['seconds']:.1f} s, the bar is {SECONDS * share:g}",
            ),
            (found["memory"] > MEMORY_GB, f"{found['memory']:.1f} GB, the bar is {MEMORY_GB:g}"),
            (found["columns"] < COLUMNS, f"{found['columns']} columns, the bar is {COLUMNS}"),
            (
                times < TIMES_PANDAS,
                f"pandas takes {times:.1f} times as long, the bar is {TIMES_PANDAS:g}",
            ),
            (
                max(cost) > GROWTH * min(cost),
                f"{min(cost):.1f} to {max(cost):.1f} CPU us a slice, the bar is {GROWTH:g} times",
            ),
        )
        if bad
    ]
    print("\n".join(missed) if missed else "every bar is met")
    return 1 if missed else 0


def measure(what, count, path):
    """Measure in a process of its own, for a peak of memory of its own."""
    words = module_command(__spec__.name, "--measure", what, str(count), str(path))
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure_all(slices):
    """Build all of ALL; the chain is fitted six times, as it is in a run."""
    few = slices[: np.flatnonzero(slices["place"].to_numpy() == 0)[50]]
    for table in (few, slices):
        predictions, y, fold = make_predictions(table)
        start, cpu = time.perf_counter(), time.process_time()
        chain, _ = cross_fit_chains(table, mean_logits(predictions, ALL.clip), y, fold, FOLDS)
        chained = time.perf_counter() - start
        X, names = build_features(table, predictions, ALL, chain)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {
        "slices": len(X),
        "columns": len(set(names)),
        "seconds": seconds,
        "chain": chained,
        "cpu": cpu,
        "memory": memory,
    }


def measure_pandas(slices):
    """Build the matrix of BY_PANDAS both ways and compare them.

    Each way runs three times; its shortest time counts.
    """
    predictions, _, _ = make_predictions(slices)
    ours, theirs, kinds = [], [], {}
    for _ in range(3):
        start = time.process_time()
        X, names = build_features(slices, predictions, BY_PANDAS)
        ours.append(time.process_time() - start)
        start = time.process_time()
        table = by_pandas(slices, predictions, kinds)
        expected = table.to_numpy(np.float32)
        theirs.append(time.process_time() - start)
    if len(names) != table.shape[1]:
        raise AssertionError(f"columns differ: {sorted(set(names) ^ set(table.columns))[:5]}")
    for i, name in enumerate(table.columns):
        np.testing.assert_allclose(
            X[:, names.index(name)], expected[:, i], rtol=1e-3, atol=1e-3, err_msg=name
        )
    return {
        "slices": len(X),
        "columns": len(names),
        "ours": min(ours),
        "pandas": min(theirs),
        "kinds": kinds,
    }


def by_pandas(slices, predictions, kinds):
    """Return the columns of BY_PANDAS as one table, six per groupby call.

    The seconds of each kind go to `kinds`.
    """
    each = {model: to_logits(p, BY_PANDAS.clip) for model, p in predictions.items()}
    own = {
        f"{label}_by_{model}": p[:, j]
        for model, p in each.items()
        for j, label in enumerate(LABELS)
    }
    own = pd.DataFrame(own, index=slices.index)
    stacked = np.stack(list(each.values()))
    mean = pd.DataFrame(
        stacked.mean(axis=0, dtype=np.float32), index=slices.index, columns=list(LABELS)
    )
    spread = pd.DataFrame(
        stacked.std(axis=0, dtype=np.float32), index=slices.index, columns=list(LABELS)
    )
    number = slices.groupby(list(SERIES), sort=False, observed=True).ngroup().to_numpy()
    study = slices.groupby(["study_id", "split"], sort=False, observed=True).ngroup().to_numpy()
    parts = [mean, own, spread.add_suffix("_spread")]

    def timed(kind, made):
        before = time.process_time()
        parts.extend(made())
        kinds[kind] = min(kinds.get(kind, np.inf), time.process_time() - before)

    steps = [step for distance in range(1, BY_PANDAS.reach + 1) for step in (-distance, distance)]
    models = [
        own[[f"{label}_by_{model}" for label in LABELS]].set_axis(list(LABELS), axis=1)
        for model in each
    ]
    timed("shift", lambda: [mean.groupby(number).shift(-s).add_suffix(f"_z{s:+d}") for s in steps])
    timed(
        "shift of each CNN",
        lambda: [
            table.groupby(number).shift(-s).add_suffix(f"_z{s:+d}_by_{model}")
            for model, table in zip(each, models, strict=True)
            for s in steps
        ],
    )
    timed(
        "difference",
        lambda: [(mean - mean.groupby(number).shift(-s)).add_suffix(f"_dz{s:+d}") for s in steps],
    )
    timed(
        "rolling",
        lambda: [
            rolled(mean, number, kind, width)
            for width in BY_PANDAS.rolling
            for kind in ("min", "max")
        ],
    )
    timed(
        "expanding",
        lambda: [
            sided(mean, number, side, kind)
            for side in ("below", "above")
            for kind in ("mean", "std")
        ],
    )
    timed("study", lambda: by_study(mean, study, slices["position_mm"], number))
    return pd.concat(parts, axis=1)


def by_study(mean, study, position, number):
    """The summaries of each study, one table a kind."""
    groups = mean.groupby(study)
    largest, found = groups.transform("max"), {}
    found["study_max"], found["study_mean"], found["study_std"] = (
        largest,
        groups.transform("mean"),
        groups.transform("std", ddof=0),
    )
    found["study_top3"] = (
        mean.where(groups.rank(ascending=False, method="first") <= 3)
        .groupby(study)
        .transform("mean")
    )
    found["study_share"] = (
        (mean > 0).astype(np.float32).where(mean.notna()).groupby(study).transform("mean")
    )
    heights = position.groupby(number).transform("min"), position.groupby(number).transform("max")
    height = (position - heights[0]) / (heights[1] - heights[0])
    for name, of in {"peak_mm": position, "peak_rel": height}.items():
        at_peak = {
            label: of.where(mean[label] == largest[label]).groupby(study).transform("first")
            for label in LABELS
        }
        found[name] = pd.DataFrame(at_peak)
    found["peak_mm"] = -found["peak_mm"].sub(position, axis=0)
    found["peak_away_mm"] = found["peak_mm"].abs()
    return [table.add_suffix(f"_{kind}") for kind, table in found.items()]


def rolled(table, number, kind, width):
    """Smallest or largest within `width` rows on either side."""
    windows = table.groupby(number).rolling(2 * width + 1, center=True, min_periods=1)
    return getattr(windows, kind)().droplevel(0).add_suffix(f"_{kind}{width}")


def sided(table, number, side, kind):
    """Mean or spread of all rows before, or after, in the series."""
    turned, groups = (table, number) if side == "below" else (table[::-1], number[::-1])
    windows = turned.groupby(groups).expanding()
    found = windows.mean() if kind == "mean" else windows.std(ddof=0)
    found = found.droplevel(0).reindex(turned.index)
    return found.groupby(groups).shift(1).reindex(table.index).add_suffix(f"_{side}_{kind}")


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


if __name__ == "__main__":
    sys.exit(main())
