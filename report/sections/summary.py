"""The first screen: verdict on stage two, losses and gains with intervals, counts."""

from typing import Any

import pandas as pd
from markupsafe import Markup

from ct.labels import LABELS
from report.figures.dot_plot import Dot, dot_plot_panel
from report.run_artifacts import Artifacts

Gain = dict[str, Any]  # "gain", and its interval "low", "high", None of one patient


def summary(art: Artifacts) -> dict[str, Any]:
    """Return the counts of the first screen and, after stage two, verdict and drawings."""
    finished = [r["finished"] for r in art.receipts.values() if r.get("finished")]
    values: dict[str, Any] = {
        "train": _counts(art.slices[art.slices["split"] == "train"]),
        "test": _counts(art.slices[art.slices["split"] == "test"]),
        "folds": int(art.recipe.get("folds", {}).get("k", 0)),
        "faults": len(art.quarantine),
        "scored": art.scores is not None,
        "finished": max(finished, default=None),
    }
    if art.scores is None:
        return values
    gain = art.scores["gain"]["weighted"]
    final_loss = art.scores["stage_two"]["weighted"]["loss"]
    models = art.scores["models"].items()
    return values | {
        "gain": gain,
        "verdict": verdict(gain),
        "better_alone": [m for m, score in models if score["weighted"]["loss"] < final_loss],
        "losses": _losses_panel(art.scores),
        "gains": _gains_panel(art.scores),
    }


def verdict(gain: Gain) -> str:
    """Return "better" or "worse" where the interval excludes 0, else "unclear".

    "unknown" where there is no interval.
    """
    if gain["low"] is None:
        return "unknown"
    return "better" if gain["low"] > 0 else "worse" if gain["high"] < 0 else "unclear"


def _counts(slices: pd.DataFrame) -> dict[str, int]:
    return {
        "slices": len(slices),
        "studies": slices["study_id"].nunique(),
        "patients": slices["patient_id"].nunique(),
    }


def _whisker(score: dict[str, Any]) -> tuple[float, float] | None:
    """Return the interval of a loss or a gain; None where it has none."""
    low, high = score.get("low"), score.get("high")
    return None if low is None or high is None else (low, high)


def _losses_panel(scores: dict[str, Any]) -> Markup | None:
    """Draw the weighted loss of each CNN, of their calibrated mean and of stage two."""
    losses = [(f"{m} alone", score, "raw") for m, score in scores["models"].items()]
    losses.append(("calibrated mean", scores["calibrated"], "calibrated"))
    losses.append(("stage two", scores["stage_two"], "final"))
    rows, texts = [], []
    for name, score, kind in losses:
        weighted = score["weighted"]
        rows.append((name, [Dot(weighted["loss"], kind, _whisker(weighted))]))
        texts.append(f"{name} {weighted['loss']:.4f}")
    return dot_plot_panel(rows, "weighted log loss", f"Weighted log loss: {', '.join(texts)}")


def _gains_panel(scores: dict[str, Any]) -> Markup | None:
    """Draw stage two's gain over calibrated stage one of each label."""
    rows, texts = [], []
    for label in LABELS:
        gain = scores["gain"][label]
        whisker = _whisker(gain)
        rows.append((label, [Dot(gain["gain"], verdict(gain), whisker)]))
        interval = "({:+.4f} to {:+.4f})".format(*whisker) if whisker else "(no interval)"
        texts.append(f"{label} {gain['gain']:+.4f} {interval}")
    return dot_plot_panel(
        rows, "reduction of log loss", f"Gain of stage two: {', '.join(texts)}", zero=True
    )
