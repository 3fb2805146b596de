"""Scores of each label: stage one against stage two, the ablation of components, each CNN."""

from collections.abc import Iterable
from typing import Any

from ct.labels import LABELS
from report.path_removal import without_folders
from report.run_artifacts import Artifacts


def label_scores(art: Artifacts) -> list[dict[str, Any]]:
    """Return a row a label, the weighted score first; [] before stage two.

    A row has losses and AUCs of both stages and of each CNN, the CNNs' weights in their mean (None
    where all are equal), the gain, and why a label is not stacked.
    """
    if art.scores is None:
        return []
    decisions = art.scores.get("blend") or art.configs or {}
    return [
        {
            "label": label,
            "stage_one": art.scores["calibrated"][label],
            "stage_two": art.scores["stage_two"][label],
            "models": {m: scores[label] for m, scores in art.scores["models"].items()},
            "weights": {m: art.cnn_weights.get(m, {}).get(label) for m in art.scores["models"]},
            "gain": art.scores["gain"][label],
            "not_stacked": _not_stacked(decisions.get(label, [])),
        }
        for label in ("weighted", *LABELS)
    ]


def ablation(art: Artifacts) -> list[dict[str, Any]]:
    """Return a step a component, from the mean of the CNNs to the blend; [] where there is none.

    scores.json names the list "ladder".
    """
    return [] if art.scores is None else art.scores.get("ladder", [])


def _not_stacked(folds: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return {"text": in how many folds a label is stacked, "reasons": [(fold numbers, reason)]}.

    None where it is stacked in all folds. folds: fold, stacked and why of each outer fold
    """
    dropped = [fold for fold in folds if not fold["stacked"]]
    if not dropped:
        return None
    stacked = len(folds) - len(dropped)
    text = f"stacked in {stacked} of {len(folds)} folds" if stacked else "not stacked"
    return {
        "text": text,
        "reasons": folds_by_reason((fold["fold"], fold["why"]) for fold in dropped),
    }


def folds_by_reason(pairs: Iterable[tuple[int | str, str]]) -> list[tuple[str, str]]:
    """Return (fold numbers, reason) for each reason of (fold, reason) pairs, without folders."""
    folds: dict[str, list[str]] = {}
    for fold, reason in pairs:
        folds.setdefault(without_folders(reason), []).append(str(fold))
    return [(", ".join(numbers), reason) for reason, numbers in folds.items()]
