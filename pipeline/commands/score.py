"""The verb `score`: what a model thinks of studies that no run knows."""

import secrets
import time
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import load_file
from scipy.special import expit

from ct.checks.domain_shift import Finding
from ct.ensemble import combine_folds, mean_logits
from ct.errors import InputError
from ct.labels import LABELS
from ct.run_dir import discard, replacing, write_json, write_table
from ct.tables.spreadsheet import write_sheet
from features.build import build_features
from features.linear_probe import held_out_probe_logits
from features.markov import held_out_posterior_logits
from pipeline.progress import log, progress_bar
from pipeline.receipt import versions
from pipeline.run_lock import check_fresh, opened
from pipeline.scoring.packed_model import model_of_folder
from pipeline.scoring.scoring_model import STAGES, model_of_run, other_versions
from pipeline.scoring.study_reader import open_data, take_in
from report.scored_page import write_page
from stage1_cnn.dataset import neighbour_rows
from stage1_cnn.device import pick_device
from stage1_cnn.inference import predict
from stage1_cnn.model import load_model
from stage2_stack.apply import apply_stacker
from stage2_stack.study_level import study_probabilities

SHOWN = 20  # remarks that the command line prints; the rest is in the tables
COLUMNS = list(LABELS)


def score(options):
    """Score the studies of a folder or zip by the models of a run, or of a packed folder."""

    if options.model:
        print(f"score: by the model {options.model}")
        score_studies(model_of_folder(options.model), options, log, progress_bar)
        return
    with opened(options) as run:
        check_fresh(run, "score", STAGES)
        print(f"score: by the models of {options.run}")
        score_studies(model_of_run(run), options, run.log, run.bar)


def score_studies(model, options, log, bar):
    """Score all studies in a folder or zip archive and write the new folder `options.to`.

    model: pipeline.scoring.scoring_model.Model; options: ScoreOptions; say, bar: as of
    pipeline.run_context.Run

    Raises InputError where that folder is there already, there are no files, or no study can be
    scored: its tables say why.
    """
    start, to, device = time.perf_counter(), Path(options.to), pick_device(options.device)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"--to={to} is there already; name a new folder")
    if Path(options.data).resolve() in to.resolve().parents:
        raise InputError(
            f"--to={to} lies in --data={options.data}, among the files to be scored; name a folder elsewhere"
        )
    source, files = open_data(options.data)
    source.quarantine_unreadable = options.quarantine_unreadable
    if note := other_versions(model):
        log(f"  {note}")
    with replacing(to, among_users=True) as part:
        part.mkdir()
        key = model.key or secrets.token_bytes(32)
        incoming = take_in(
            source, files, model, key, part / "pixels", options.anyway, options.workers, bar
        )
        probs, stage_one = scored_slices(model, incoming.slices, incoming.read_hu, device, bar)
        studies, remarks = study_table(incoming, probs, model), remark_table(incoming.findings)
        write_tables(part, incoming, probs, studies, remarks)
        write_json(
            part / "score.json",
            {
                "recipe": model.recipe.name,
                "device": device.type,
                "studies": studies["status"].value_counts().to_dict(),
                "slices": len(probs),
                "quarantined": len(incoming.quarantine),
                "made_with": model.versions,
                "scored_with": versions(),
            },
        )
        write_page(
            part / "page.html",
            model.recipe.name,
            studies,
            probs,
            stage_one,
            remarks,
            incoming.read_hu,
        )
        discard(part / "pixels")
    _tell(log, studies, probs, remarks, incoming.quarantine)
    log(
        f"  made {to} in {time.perf_counter() - start:.1f} s; names.csv in it says whose the studies are: keep it to yourself"
    )
    if probs.empty:
        raise InputError(
            f"no study could be scored; {to / 'studies.csv'} and {to / 'quarantine.csv'} say why"
        )


def scored_slices(model, slices, read_hu, device, bar):
    """Return the slices' place and final probabilities, a table (n rows) with LABELS, float64,
    indexed like `slices`, and a table of the CNNs' mean, NaN where a slice is not readable.

    slices: slice table with pixel facts, `fold` and `part`; read_hu(numbers, out=None): of its
    rows, as of PixelCache.read
    """
    columns = slices[["study_id", "series_id", "place", "position_mm", "readable"]]
    if slices.empty:
        return (columns.assign(**dict.fromkeys(COLUMNS, np.empty(0))),) * 2
    config, starts, per_fold, means = (
        model.recipe.features,
        np.flatnonzero(slices["place"] == 0),
        [],
        [],
    )
    fold, part = slices["fold"].to_numpy(), slices["part"].to_numpy()
    for k, (said, embeddings) in enumerate(opinions_of_folds(model, slices, read_hu, device, bar)):
        fitted, mean = {}, mean_logits(said, config.clip)
        means.append(expit(mean))
        if config.chain:
            fitted["markov_logits"] = held_out_posterior_logits(slices, mean, fold, model.chains())
        if config.probe:
            own = np.where(fold == k, part, -1)
            fitted["probe_logits"] = {
                name: held_out_probe_logits(*model.probe(name, k), seen, own)
                for name, seen in embeddings.items()
            }
        X, names = build_features(slices, said, config, **fitted)
        if names != model.stage2["names"]:
            raise InputError(
                "the model was made with other features than this version builds; make it anew with its run"
            )
        per_fold.append(apply_stacker(model.stacker(k), X, names, starts))
    final, mean = (
        combine_folds(np.stack(found), slices["fold"].to_numpy()) for found in (per_fold, means)
    )
    return tuple(
        columns.join(pd.DataFrame(found, index=slices.index, columns=COLUMNS))
        for found in (final, mean)
    )


def opinions_of_folds(model, slices, read_hu, device, bar):
    """Return for each fold ({CNN: probabilities (n, 6)}, {CNN: embeddings (n, d)}), NaN where a
    slice is not readable.
    """
    found = [({}, {}) for _ in range(model.recipe.folds.k)]
    readable = slices["readable"].to_numpy(bool)
    with bar(int(readable.sum()) * len(model.weights), "CNNs", "slice") as shown:
        for config in model.recipe.stage1.models:
            rows = neighbour_rows(slices, config.neighbours)
            for k, (probs, embeddings) in enumerate(found):
                cnn = load_model(config, load_file(model.weights[config.name, k]))
                said = predict(cnn, rows, readable, read_hu, config, shown.update, device)
                probs[config.name], embeddings[config.name] = said
    return found


def study_table(incoming, probs, model):
    """Return a row a study: how much of it there was, its status, LABELS where it is scored, and
    what there is to remark.
    """
    groups = incoming.found.groupby("study_id", sort=True)
    table = pd.DataFrame(
        {
            "patient_id": groups["patient_id"].first(),
            "series": groups["series_id"].nunique(),
            "slices": groups.size(),
            "scored_slices": probs.groupby("study_id").size(),
        }
    )
    table["scored_slices"] = table["scored_slices"].fillna(0).astype(int)
    table["status"] = np.where(table["scored_slices"] > 0, "scored", "refused")
    clip, of_slice = model.recipe.features.clip, probs[COLUMNS].to_numpy(np.float64)
    table = table.join(
        study_probabilities(probs["study_id"].to_numpy(object), of_slice, model.studies(), clip)
    )
    remarks = remark_table(incoming.findings)
    text = (
        (remarks["what"] + " (" + remarks["means"] + ")")
        .groupby(remarks["study_id"])
        .agg("; ".join)
    )
    return table.assign(remarks=text.reindex(table.index).fillna(""))


def remark_table(findings):
    """Return Findings as a table, those that refuse first within a study."""
    table = pd.DataFrame(findings, columns=Finding._fields)
    return table.sort_values(
        ["study_id", "refuses"], ascending=[True, False], kind="stable"
    ).reset_index(drop=True)


def write_tables(part, incoming, probs, studies, remarks):
    """Write the tables to the folder `part`. Only names.csv and quarantine.csv name files, and only
    their owner reads them.
    """
    for name, table in (("slices", probs), ("studies", studies)):
        write_table(part / f"{name}.parquet", table)
        write_sheet(part / f"{name}.csv", table)
    names = incoming.found[["study_id", "series_id"]].join(
        incoming.acquisition[["path", "sop_uid", "study_uid"]]
    )
    write_sheet(part / "names.csv", names, private=True)
    write_sheet(part / "remarks.csv", remarks, index=False)
    write_sheet(part / "quarantine.csv", incoming.quarantine, index=False, private=True)


def _tell(log, studies, probs, remarks, quarantine):
    """Say what came of the studies, and what there is to remark, a line each."""
    status = studies["status"].value_counts()
    log(
        f"  {status.get('scored', 0)} studies scored, {len(probs)} slices; {status.get('refused', 0)} studies refused"
    )
    if len(quarantine):
        log(f"  {len(quarantine)} files in quarantine.csv, each with its reason")
    for remark in remarks.to_dict("records")[:SHOWN]:
        where = f"{remark['study_id']} {remark['series_id']}".strip()
        log(f"  {where}: {'refused, ' * remark['refuses']}{remark['what']}: {remark['means']}")
    if len(remarks) > SHOWN:
        log(f"  and {len(remarks) - SHOWN} more remarks, in remarks.csv")
