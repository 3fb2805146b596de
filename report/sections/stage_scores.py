"""How good, and how sure: the sections of the page that set the two stages beside each other."""

import numpy as np
from sklearn.metrics import average_precision_score

from ct.labels import LABELS, SUBTYPES
from ct.metrics import auc
from report import figures
from report.load import scrub
from report.viewer import HALF


def summary(art):
    """Return the verdict on stage two, the drawings of losses and gains, and the counts of the
    first screen.
    """
    train, test = (art.slices[art.slices["split"] == split] for split in ("train", "test"))
    found = {
        "train": {
            "slices": len(train),
            "studies": train["study_id"].nunique(),
            "patients": train["patient_id"].nunique(),
        },
        "test": {
            "slices": len(test),
            "studies": test["study_id"].nunique(),
            "patients": test["patient_id"].nunique(),
        },
        "folds": int(art.recipe.get("folds", {}).get("k", 0)),
        "faults": len(art.quarantine),
        "scored": art.scores is not None,
        "finished": max(
            (r["finished"] for r in art.receipts.values() if r.get("finished")), default=None
        ),
    }
    if art.scores is None:
        return found
    scores, gain = art.scores, art.scores["gain"]["weighted"]
    better = [
        m
        for m, s in scores["models"].items()
        if s["weighted"]["loss"] < scores["stage_two"]["weighted"]["loss"]
    ]
    found |= {"gain": gain, "verdict": _verdict(gain), "better_alone": better}
    return found | {"losses": _losses_drawn(scores), "gains": _gains_drawn(scores)}


def _verdict(gain):
    return "better" if gain["low"] > 0 else "worse" if gain["high"] < 0 else "unclear"


def _losses_drawn(scores):
    """Draw the weighted losses of each CNN, of their calibrated mean and of stage two, with their
    intervals.
    """
    rows = {f"{model} alone": (score, "raw") for model, score in scores["models"].items()}
    rows |= {
        "calibrated mean": (scores["calibrated"], "calibrated"),
        "stage two": (scores["stage_two"], "final"),
    }
    rows = [(name, score["weighted"], kind) for name, (score, kind) in rows.items()]
    drawn = [
        (name, [(s["loss"], kind, (s["low"], s["high"]) if "low" in s else None)])
        for name, s, kind in rows
    ]
    alt = "Weighted log loss: " + ", ".join(f"{name} {s['loss']:.4f}" for name, s, _ in rows)
    return figures.dots_panel(drawn, "weighted log loss", alt)


def _gains_drawn(scores):
    """Draw stage two's gain over calibrated stage one of each label, with its interval."""
    gains = [(label, scores["gain"][label]) for label in LABELS]
    drawn = [(label, [(g["gain"], _verdict(g), (g["low"], g["high"]))]) for label, g in gains]
    alt = "Gain of stage two: " + ", ".join(
        f"{n} {g['gain']:+.4f} ({g['low']:+.4f} to {g['high']:+.4f})" for n, g in gains
    )
    return figures.dots_panel(drawn, "log loss taken away", alt, zero=True)


def table(art):
    """Return a row per label, the weighted one first: losses, AUCs, gain, and why a label is not
    stacked.
    """
    if art.scores is None:
        return []
    decided = art.scores.get("blend") or art.configs or {}
    return [
        {
            "label": label,
            "before": art.scores["calibrated"][label],
            "after": art.scores["stage_two"][label],
            "models": {m: s[label] for m, s in art.scores["models"].items()},
            "gain": art.scores["gain"][label],
            "note": None if label == "weighted" else _stacking(decided.get(label, [])),
        }
        for label in ("weighted", *LABELS)
    ]


def ladder(art):
    """Return the rungs from the mean of the CNNs to the blend, as scores.json has them: one a
    component; [] without any.
    """
    return [] if art.scores is None else art.scores.get("ladder", [])


def _stacking(folds):
    """Return {"head": in how many folds a label is not stacked, "why": [(fold numbers, reason)]};
    None where it is in all.
    """
    dropped = [f for f in folds if not f["stacked"]]
    if not dropped:
        return None
    reasons = {}
    for found in dropped:
        reasons.setdefault(scrub(found["why"]), []).append(str(found["fold"]))
    head = (
        "not stacked"
        if len(dropped) == len(folds)
        else f"stacked in {len(folds) - len(dropped)} of {len(folds)} folds"
    )
    return {
        "head": head,
        "why": [(", ".join(numbers), reason) for reason, numbers in reasons.items()],
    }


def calibration(art):
    """Return (label, reliability panel) of each label."""
    truth, found = art.opinions(("raw", "calibrated", "final"))
    columns = [
        (label, truth[:, j], {kind: p[:, j] for kind, p in found.items()})
        for j, label in enumerate(LABELS)
    ]
    return [
        (label, figures.reliability_panel(label, y, opinions))
        for label, y, opinions in columns
        if found
    ]


def curves(art):
    """Return per label its ROC and precision-recall panels, and AUC and AP of each opinion; None
    where undefined.
    """
    truth, found = art.opinions(art.compared)
    rows = []
    for j, label in enumerate(LABELS):
        said = {kind: p[:, j] for kind, p in found.items()}
        row = {"roc": figures.roc_panel(label, truth[:, j], said), "AUC": None, "AP": None}
        row |= {
            "label": label,
            "precision": figures.precision_recall_panel(label, truth[:, j], said),
        }
        if row["roc"]:
            known = [(truth[at, j], p[at]) for p in said.values() for at in [np.isfinite(p)]]
            row |= {
                "AUC": [auc(y, p) for y, p in known],
                "AP": [average_precision_score(y, p) for y, p in known],
            }
        rows.append(row)
    return rows if found else []


def confusion(art):
    """Return what each opinion calls the slices of one subtype alone, of several and of none, as
    (opinion, rows).

    A row is (name, slices, [(share, width in %) of the columns]). Its columns: no bleed, where
    `any` is under HALF, else the subtype of greatest probability.
    """
    truth, found = art.opinions(art.compared)
    count = np.nansum(truth[:, 1:], axis=1)
    kind = np.where(
        count == 0, 0, np.where(count > 1, len(LABELS), 1 + truth[:, 1:].argmax(axis=1))
    )
    tables = []
    for opinion, p in found.items():
        known = np.isfinite(p).all(axis=1)
        said = np.where(p[:, 0] < HALF, 0, 1 + np.argmax(np.nan_to_num(p[:, 1:]), axis=1))
        rows = []
        for number, name in enumerate(("no bleed", *SUBTYPES, "several")):
            of = said[known & (kind == number)]
            shares = np.bincount(of, minlength=len(LABELS)) / max(len(of), 1)
            rows.append(
                (
                    name,
                    len(of),
                    [(float(share), 100 * float(share)) for share in shares] if len(of) else [],
                )
            )
        tables.append((opinion, rows))
    return tables
