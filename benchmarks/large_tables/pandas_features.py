"""The features that pandas can compute by groupby, for comparison with features/."""

import time

import numpy as np
import pandas as pd

from ct.labels import LABELS
from ct.slices import SERIES
from features.config import FeatureConfig

BY_PANDAS = FeatureConfig(  # the families that a groupby can compute
    reach=10,
    model_reach=10,
    difference_reach=10,
    smooth_mm=(),
    rolling=(1, 2, 4),
    cumulative=True,
    geometry=False,
)


def by_pandas(slices, each, kinds):
    """Return the columns of BY_PANDAS as one table, six per groupby call.

    each: {model: logits (n, 6)}. The seconds of each kind go to `kinds`.
    """
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
