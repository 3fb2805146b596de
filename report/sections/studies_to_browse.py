"""Studies of a run in the study browser: which are shown, and their data."""

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ct.labels import LABELS
from ct.pixel_cache.reader import PixelCache
from ct.run_dir import RunDir
from ct.storage.file_formats import read_array, read_json
from report.run_artifacts import Artifacts, open_pixels
from report.sections.example_studies import example_series
from report.sections.greatest_losses import slice_losses
from report.study_browser import browser_data, browser_study

GREATEST_LOSS, AT_RANDOM = "among the greatest losses", "drawn at random"


def choose_studies(art: Artifacts, slices: int) -> dict[str, str]:
    """Choose studies for the browser, with at most `slices` slices in all: {study id: reason}.

    First the example studies, then alternately the study of the next greatest loss and one drawn
    at random.
    """
    size = art.slices["study_id"].value_counts(sort=False)
    loss = slice_losses(art).groupby("study_id")["loss"].mean()
    worst = list(loss.sort_values(ascending=False, kind="stable").index)
    rng = np.random.default_rng(int(art.recipe.get("seed") or 0))
    drawn = rng.permutation(np.sort(size.index.to_numpy(str)))
    candidates = [
        (art.slices.at[ids[0], "study_id"], reason) for reason, ids in example_series(art)
    ]
    for high_loss, random in zip(worst[: len(drawn)], drawn, strict=False):
        candidates += [(high_loss, GREATEST_LOSS), (random, AT_RANDOM)]
    candidates += [(study, AT_RANDOM) for study in drawn]
    chosen: dict[str, str] = {}
    left = slices
    for study, reason in candidates:
        if study not in chosen and size[study] <= left:
            chosen[study] = reason
            left -= size[study]
    return chosen


def browser(art: Artifacts, run: RunDir, chosen: Mapping[str, str]) -> dict[str, Any]:
    """Return the browser's data of some studies of a run. chosen: {study id: reason}.

    Raises ValueError where Grad-CAM maps are of other slices than the study has.
    """
    cache = open_pixels(run)
    predictions = {}
    for kind in art.compared:
        table = _train_and_test(art, kind)
        if table is not None:
            predictions[kind] = table
    studies = [
        _study(art, run, cache, predictions.values(), study, reason)
        for study, reason in chosen.items()
    ]
    return browser_data(list(predictions), studies, labelled=bool(predictions), explained=True)


def _train_and_test(art: Artifacts, kind: str) -> pd.DataFrame | None:
    """Return one kind of prediction on train and test together, or None."""
    tables = [t for t in (getattr(art, kind), getattr(art, f"{kind}_test")) if t is not None]
    return pd.concat(tables)[list(LABELS)] if tables else None


def _study(
    art: Artifacts,
    run: RunDir,
    cache: PixelCache | None,
    predictions: Iterable[pd.DataFrame],
    study: str,
    reason: str,
) -> dict[str, Any]:
    """Return `browser_study` of one study of a run."""
    rows = art.slices[art.slices["study_id"] == study]
    about = rows["split"].iloc[0]
    if about == "train" and rows["fold"].notna().iloc[0]:
        about += f", fold {rows['fold'].iloc[0]:.0f}"
    numbers = art.slices.index.get_indexer(rows.index)
    read_hu = None if cache is None else lambda place: cache.read([numbers[place]])[0]
    maps = []
    for cnn in art.cnns:
        of_cnn = _gradcam_maps(run, cnn, study, list(rows.index))
        if of_cnn is not None:
            maps.append(of_cnn)
    return browser_study(rows, predictions, read_hu, reason, about, maps)


def _gradcam_maps(run: RunDir, cnn: str, study: str, slice_ids: list[str]) -> dict[str, Any] | None:
    """Return the Grad-CAM maps of one study and CNN, or None where there are none.

    "data": bytes (n, 6, h, w), base64; "shape": [h, w]; "layer": its name; "from": the fold's CNN
    """
    facts_path, array_path = run.gradcam_maps(cnn, study)
    if not facts_path.exists():
        return None
    facts = read_json(facts_path)
    if facts["slices"] != slice_ids:
        raise ValueError(
            f"{array_path} holds maps of other slices than the study has; remove it and run explain"
        )
    maps = read_array(array_path)
    return {
        "model": cnn,
        "from": facts["from"],
        "layer": facts["layer"],
        "shape": list(maps.shape[2:]),
        "data": base64.b64encode(maps.tobytes()).decode(),
    }
