"""What the study browser of the page shows: which studies, their slices, opinions, pictures and
Grad-CAM maps.
"""

import base64

import numpy as np
import pandas as pd

from ct.labels import LABELS, WEIGHTS
from ct.metrics import log_loss
from ct.storage.file_formats import read_array, read_json
from ct.windows import WINDOWS, window_bounds
from report.hu_png import HU, picture
from report.load import open_pixels, read_run
from report.series_strips import typical_series

BROWSER_SLICES = 600  # on the page in all, unless the recipe says otherwise: 15 MB at 256 px
WORST_STUDIES, WORST_SLICES = 8, 12  # rows of the tables of what costs most
HALF = 0.5  # a label is missed below, a false alarm from here on
OPINIONS = {"raw": "mean of the CNNs", "calibrated": "stage one, calibrated", "final": "stage two"}


def shown_studies(run, slices=BROWSER_SLICES):
    """Return the ids of the studies that the report of a ct.run_dir.RunDir shows in its browser."""
    return list(choose(read_run(run), slices))


def choose(art, slices):
    """Choose studies for the page, `slices` slices of them in all at most. Returns {study id: why
    it is there}.

    First the studies whose strips the page shows, then in turns the next of greatest loss and one
    drawn at random.
    """
    size = art.slices["study_id"].value_counts(sort=False)
    strips = {art.slices.at[ids[0], "study_id"]: reason for reason, ids in typical_series(art)}
    worst = list(
        losses(art)
        .groupby("study_id")["loss"]
        .mean()
        .sort_values(ascending=False, kind="stable")
        .index
    )
    drawn = np.random.default_rng(int(art.recipe.get("seed") or 0)).permutation(
        np.sort(size.index.to_numpy(str))
    )
    turns = [
        turn
        for pair in zip(worst[: len(drawn)], drawn, strict=False)
        for turn in zip(pair, REASONS, strict=True)
    ]
    chosen, left = {}, slices
    for study, reason in [*strips.items(), *turns, *((study, REASONS[1]) for study in drawn)]:
        if study not in chosen and size[study] <= left:
            chosen[study], left = reason, left - size[study]
    return chosen


REASONS = ("among the greatest losses", "drawn at random")


def losses(art):
    """Return the labelled slices with an opinion: study_id, the loss of each label, and `loss`, the
    weighted one.
    """
    shown = art.final if art.final is not None else art.raw
    if shown is None:
        return pd.DataFrame(columns=["study_id", *LABELS, "loss"])
    p = shown.reindex(art.labelled.index)[list(LABELS)].dropna()
    rows = art.labelled.loc[p.index]
    each = log_loss(rows[list(LABELS)].to_numpy(np.float64), p.to_numpy(np.float64))
    return pd.DataFrame(each, p.index, list(LABELS)).assign(
        study_id=rows["study_id"], loss=each @ WEIGHTS
    )


def costliest(art, shown):
    """Return the studies and slices with the greatest loss. shown: ids of the studies that the page
    has

    "studies": study, slices, mean loss, share of the whole loss, on the page or not; "slices":
    likewise slice, study, loss, the label that costs most. {} where nothing is scored.
    """
    table = losses(art)
    if table.empty:
        return {}
    whole, groups = table["loss"].sum() or 1, table.groupby("study_id")["loss"]
    found = pd.DataFrame(
        {"slices": groups.size(), "mean": groups.mean(), "share": groups.sum() / whole}
    )
    studies = found.sort_values("share", ascending=False, kind="stable").head(WORST_STUDIES)
    slices = table.sort_values("loss", ascending=False, kind="stable").head(WORST_SLICES)
    dearest = slices[list(LABELS)].idxmax(axis=1)
    return {
        "studies": [
            {"study": s, **row, "shown": s in shown} for s, row in studies.to_dict("index").items()
        ],
        "slices": [
            {
                "slice": s,
                "study": row["study_id"],
                "loss": row["loss"],
                "label": dearest[s],
                "shown": row["study_id"] in shown,
            }
            for s, row in slices.to_dict("index").items()
        ],
    }


def browser(art, run, chosen):
    """Return what the page's script reads, as plain values. run: ct.run_dir.RunDir; chosen: {study
    id: why}, as of `choose`.
    """
    cache = open_pixels(run)
    opinions = {kind: table for kind in art.compared if (table := _both(art, kind)) is not None}
    studies = [_study(art, run, cache, opinions, study, reason) for study, reason in chosen.items()]
    return contents(list(opinions), studies, labelled=bool(opinions), explained=True)


def contents(kinds, studies, labelled, explained):
    """Return what the script reads. kinds: of OPINIONS, the last is the final one; studies: of
    `study_facts`; labelled: whether errors can be listed; explained: whether there is a place for
    maps
    """
    return {
        "labels": list(LABELS),
        "windows": [[name, *window_bounds(name)] for name in WINDOWS],
        "hu": HU.tolist(),
        "half": HALF,
        "kinds": [[kind, OPINIONS[kind]] for kind in kinds],
        "labelled": labelled,
        "explained": explained,
        "studies": studies,
    }


def study_facts(study, reason, about, rows, opinions, read_hu=None, maps=()):
    """Return one study: its slices in order, a list a column; labels and opinions (n, 6), None
    where unknown.

    study, reason, about: its id, why it is there, and where it belongs, in words; rows: of the
    slice table, LABELS may lack; opinions: list of tables with LABELS; read_hu: a function from a
    place in rows to HU (S, S), if there are pictures
    """
    readable = rows["readable"].to_numpy(bool)
    return {
        "id": study,
        "reason": reason,
        "about": about,
        "slices": list(rows.index),
        "series": pd.factorize(rows["series_id"])[0].tolist(),
        "mm": _plain(rows["position_mm"].to_numpy(np.float64), 1),
        "truth": _plain(rows.reindex(columns=list(LABELS)).to_numpy(np.float64), 0),
        "p": [
            _plain(table.reindex(rows.index)[list(LABELS)].to_numpy(np.float64), 4)
            for table in opinions
        ],
        "pictures": read_hu
        and [picture(read_hu(place)) if readable[place] else None for place in range(len(rows))],
        "maps": list(maps),
    }


def _both(art, kind):
    """Return one kind of opinion on train and test together, or None."""
    tables = [t for t in (getattr(art, kind), getattr(art, f"{kind}_test")) if t is not None]
    return pd.concat(tables)[list(LABELS)] if tables else None


def _study(art, run, cache, opinions, study, reason):
    """Return study_facts of one study of a run."""
    rows = art.slices[art.slices["study_id"] == study]
    about = rows["split"].iloc[0]
    if about == "train" and rows["fold"].notna().iloc[0]:
        about += f", fold {rows['fold'].iloc[0]:.0f}"
    numbers = art.slices.index.get_indexer(rows.index)
    read_hu = cache and (lambda place: cache.read([numbers[place]])[0])
    maps = [found for model in art.models if (found := _maps(run, model, study, rows.index))]
    return study_facts(study, reason, about, rows, opinions.values(), read_hu, maps)


def _maps(run, model, study, slice_ids):
    """Return what `explain` left of one study and CNN: its layer and shape, and the bytes (n, 6, h,
    w), base64; or None.
    """
    facts, array = run.gradcam_maps(model, study)
    if not facts.exists():
        return None
    known = read_json(facts)
    if known["slices"] != list(slice_ids):
        raise ValueError(
            f"{array} holds maps of other slices than the study has; remove it and run explain"
        )
    maps = read_array(array)
    data = base64.b64encode(maps.tobytes()).decode()
    return {
        "model": model,
        "from": known["from"],
        "layer": known["layer"],
        "shape": list(maps.shape[2:]),
        "data": data,
    }


def _plain(values, digits):
    """Return numbers as nested lists, rounded; None where NaN."""
    if values.ndim > 1:
        return [_plain(row, digits) for row in values]
    return [round(float(v), digits) if np.isfinite(v) else None for v in values]
