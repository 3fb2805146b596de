"""The stages `ingest` and `folds`: from DICOM files to the slice table, the pixel cache and the
folds.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from ct.checks.patient_overlap import ONE_PATIENT, SEVERAL_PATIENTS, UNCLEAR
from ct.checks.shared_uids import separate_patients
from ct.dicom.header_table import read_headers
from ct.errors import InputError
from ct.labels import LABELS, read_labels
from ct.patient_folds import check_folds, fold_groups
from ct.pixel_cache.writer import write_cache
from ct.privacy.pseudonyms import EXACT_LENGTHS, LegacyKey, pseudonym, public_paths
from ct.run_dir import resumable_folder
from ct.slices import PIXEL_COLUMNS, order_slices
from ct.storage.atomic_write import discard, flush, move_into_place, replacing
from ct.storage.file_formats import write_json, write_table
from ct.storage.ingest_work import check_key_digest, prepare_ingest_work
from ct.tables.slice_list import read_slice_list
from ct.tables.spreadsheet import write_sheet
from pipeline.freshness import stamp_files
from pipeline.receipt import versions
from pipeline.stage_data.ingest_counts import describe, summary
from pipeline.stage_data.sample_rows import first_reason, match_sample


def ingest(run, receipt):
    """Read headers, labels and pixels of the source into slices.parquet, quarantine.csv, pixels/
    and ingest.json.

    What is read stays in a work folder until all is done, so that an interrupted ingest goes on
    where it was.
    """
    if run.recipe.data.slices:
        ingest_list(run, receipt)
        return
    found, key, data = run.find_source(), run.pseudonym_key(), run.recipe.data
    found.source.quarantine_unreadable = run.quarantine_unreadable
    labels, duplicates = read_labels(found.labels_csv)  # first: its faults are known in seconds
    read = receipt.values["read"]
    files = {name: digest for name, digest in read.items() if name not in ("label csv", "key")}
    rule = identifier_rule(key)
    same = {"source": data.source, "files": files, "versions": versions()} | rule
    with resumable_folder(run.dir.ingest_work, same, run.log) as work:
        check_key_digest(work / "key.txt", read["key"])
        prepare_ingest_work(work, run.dir.pixels, run.log)
        slices, quarantine = read_sets(run, found, key, work)
        check_apart(slices)
        on_disk = train_ids(slices, quarantine)
        slices, people = own_series(slices, key, work / "quarantine.csv")
        slices, left_out = take_patients(slices, data.train_slices)
        slices, counts = join_labels(
            slices, labels, on_disk, found.labels_csv, key, data.allow_unlabelled
        )
        match_sample(
            found.sample_csv, key, slices.index[slices["split"] == "test"], quarantine, data.missing
        )
        slices = order_slices(slices)
        slices, quarantine = read_pixels(run, found.source, slices, quarantine, work)
        counts |= (
            summary(slices, quarantine)
            | {"duplicate_label_rows": duplicates}
            | left_out
            | people
            | rule
        )

        write_table(run.dir.slices, slices.assign(path=public_paths(slices["path"], slices.index)))
        with replacing(run.dir.quarantine) as part:
            write_sheet(part, quarantine.sort_values("path"), index=False, private=True)
        write_json(run.dir.ingest, counts)
        flush(work / "pixels")
        # not by `replacing`, which removes on an error what took hours to decode
        move_into_place(work / "pixels", run.dir.pixels)
        receipt.made = [run.dir.slices, run.dir.quarantine, run.dir.ingest, run.dir.pixels]
        # takes minutes: the work folder goes only afterwards
        stamp_files(run.dir.root, receipt.made)
    for line in describe(counts):
        run.log(f"  {line}")


def ingest_list(run, receipt):
    """Make the same of a slice list, which has no pixels: all slices count as readable, and what
    pixels tell is NaN.
    """
    key, data = run.pseudonym_key(), run.recipe.data
    slices, people = own_series(read_slice_list(data.slices, key), key)
    slices, counts = take_patients(slices, data.train_slices)
    known = slices[list(LABELS)].notna().all(axis=1)
    lacking = slices.index[(slices["split"] == "train") & ~known]
    if len(lacking) and not data.allow_unlabelled:
        raise InputError(
            f"{len(lacking)} slices have some labels and lack others, the first {lacking[0]}; complete {data.slices}, "
            "or leave such slices out of training with --allow-unlabelled"
        )
    slices.loc[lacking, list(LABELS)] = np.nan
    facts = dict.fromkeys(PIXEL_COLUMNS, np.float32("nan")) | {
        "readable": True,
        "repaired_intercept": False,
    }
    quarantine = pd.DataFrame(columns=["path", "slice_id", "split", "kind", "reason"], dtype=str)
    if data.sample:
        match_sample(
            Path(data.sample),
            key,
            slices.index[slices["split"] == "test"],
            quarantine,
            data.missing,
        )
    discard(run.dir.listed_folds)
    if "fold" in slices:
        fold = slices.pop("fold")
        check_folds(slices, fold.fillna(-1).to_numpy())
        write_table(
            run.dir.listed_folds,
            pd.DataFrame({"fold": fold[slices["split"] == "train"].astype(np.int8)}),
        )
        receipt.made.append(run.dir.listed_folds)
    slices = order_slices(slices).assign(**facts)
    counts |= (
        summary(slices, quarantine) | {"unlabelled": len(lacking)} | people | identifier_rule(key)
    )
    write_table(run.dir.slices, slices)
    with replacing(run.dir.quarantine) as part:
        write_sheet(part, quarantine, index=False, private=True)
    write_json(run.dir.ingest, counts)
    receipt.made += [run.dir.slices, run.dir.quarantine, run.dir.ingest]
    for line in describe(counts):
        run.log(f"  {line}")


def read_sets(run, found, key, work):
    """Read the headers of train and test. Returns (header table with `split`, quarantine), paths
    relative to the source.
    """
    tables, bad = [], []
    for split, folder in (("train", found.train_dir), ("test", found.test_dir)):
        files = found.source.files(folder.name)
        with run.bar(len(files), f"{split} headers", "file") as bar:
            table, quarantine = read_headers(
                found.source, files, key, run.workers, bar.reach, work / f"{split}-headers"
            )
        tables.append(table.assign(split=split))
        bad.append(quarantine.assign(split=split))
    return pd.concat(tables), pd.concat(bad, ignore_index=True)


def read_pixels(run, source, slices, quarantine, work):
    """Write the pixel cache to the work folder. Returns the slices with PIXEL_COLUMNS, and the
    quarantine with those that don't decode.
    """
    with run.bar(len(slices), "pixels", "slice") as bar:
        size, records = run.recipe.pixels.size, work / "shards"
        facts = write_cache(
            work / "pixels", source, slices, size, run.workers, bar.reach, records, run.log
        )
    slices = slices.join(facts[list(PIXEL_COLUMNS)])
    unreadable = slices[~slices["readable"]]
    pixels = unreadable[["path", "split"]].reset_index()
    pixels = pixels.assign(kind="pixels", reason=facts.loc[unreadable.index, "reason"].array)
    return slices, pd.concat([quarantine, pixels])[["path", "slice_id", "split", "kind", "reason"]]


def train_ids(slices, quarantine):
    """Return the slice ids of all files of train, those left out included. Raises InputError where
    no header reads.
    """
    train = slices.index[slices["split"] == "train"]
    if train.empty:
        raise InputError(
            f"no file of train has a header that reads; the first: {first_reason(quarantine)}"
        )
    return set(train) | set(quarantine.loc[quarantine["split"] == "train", "slice_id"])


def identifier_rule(key):
    """Return what an ingest notes of the rule by which identifiers are kept, {"identifiers":
    EXACT}; the earlier one: {}.
    """
    return {} if isinstance(key, LegacyKey) else {"identifiers": EXACT_LENGTHS}


def own_series(slices, key, note=None):
    """Give each PatientID series, and each person studies, of their own
    (`ct.checks.shared_uids.separate_patients`). Returns (slices, counts).

    Raises InputError where it is unclear whether the patients of a study are one person. note: path
    of a csv that then names the files of all such studies for the owner's eyes alone, since the
    line may not; None where there are no files
    """
    apart, verdict = separate_patients(slices, key)
    if len(unclear := apart[verdict == UNCLEAR]):
        if note:
            _name_unclear(unclear, note)
        study = unclear["study_id"].iloc[0]
        patients = sorted(set(unclear["patient_id"][unclear["study_id"] == study]))
        raise InputError(
            f"study {study} holds slices of {len(patients)} patients, {', '.join(patients[:3])}{' ...' * (len(patients) > 3)} "
            "(pseudonyms), which are neither whole series of several people nor one series together; give each person a "
            "StudyInstanceUID, or all slices of one person the same PatientID, or leave the study out"
            + (f"; {note} names its files" if note else "")
        )
    return apart, {
        "studies_split": slices["study_id"][verdict == SEVERAL_PATIENTS].nunique(),
        "people_of_split_studies": apart["study_id"][verdict == SEVERAL_PATIENTS].nunique(),
        "studies_joined": apart["study_id"][verdict == ONE_PATIENT].nunique(),
    }


def _name_unclear(unclear, note):
    """Write which files the slices of unclear studies are in, with their study's and patient's
    pseudonyms.
    """
    whose = (
        "study "
        + unclear["study_id"].astype(str)
        + ", patient "
        + unclear["patient_id"].astype(str)
    )
    rows = unclear.assign(
        kind="study", reason=whose + ": unclear how many people these are"
    ).reset_index()
    with replacing(note) as part:
        write_sheet(
            part, rows[["path", "slice_id", "split", "kind", "reason"]], index=False, private=True
        )


def take_patients(slices, train_slices):
    """Take `train_slices` train slices at most (all for None), as whole patients and groups, and
    all of test.

    The order of the groups (`ct.patient_folds.fold_groups`) is that of the blake2b digests of their names,
    so that a larger number takes the same and more. Returns (slices, counts). Raises InputError
    where nothing is left.
    """
    if train_slices is None:
        return slices, {"slices_not_taken": 0, "patients_not_taken": 0}
    train, groups = slices["split"] == "train", pd.Series(fold_groups(slices), index=slices.index)
    size = groups[train].value_counts()
    order = sorted(
        size.index, key=lambda group: hashlib.blake2b(group.encode(), digest_size=16).digest()
    )
    taken = size[order].cumsum() <= train_slices
    if not taken.any():
        raise InputError(
            f"data.train_slices = {train_slices} takes no patient whole, the first has {size[order[0]]} slices; "
            "raise it in recipe.yaml"
        )
    kept = ~train | groups.isin(taken.index[taken])
    patients = slices["patient_id"][~kept].nunique()
    return slices[kept], {"slices_not_taken": int((~kept).sum()), "patients_not_taken": patients}


def check_apart(slices):
    """Raise InputError where the same slice lies in train and test."""
    if (twice := slices.index.duplicated()).any():
        slice_id = slices.index[twice][0]
        shown = ", ".join(public_paths(slices["path"][slices.index == slice_id], slice_id))
        raise InputError(f"slice {slice_id} is in train and in test ({shown}); remove one of them")


def join_labels(slices, labels, on_disk, labels_csv, key, allow_unlabelled):
    """Give the train slices their labels.

    slices: header table indexed by slice_id; labels: read_labels' table; on_disk: set of the slice
    ids of all train files, the ones that were left out included; key: of the pseudonyms

    Returns (slices with the six LABELS, counts). Raises InputError where no label belongs to any
    file, or train slices lack labels and `allow_unlabelled` is false.
    """
    train = slices.index[slices["split"] == "train"]
    labels = labels.set_axis([pseudonym(name, key, "slice") for name in labels.index])
    of_file = labels.index.isin(on_disk)
    if not of_file.any():
        raise InputError(
            f"none of the {len(labels)} slices of {labels_csv} is among the train files (it has {labels.index[0]}, the files "
            f"{train[0]}); give the right file with `new --labels=FILE`"
        )
    slices = slices.join(labels.reindex(train))
    slices[list(LABELS)] = slices[list(LABELS)].astype(np.float32)
    known = slices[list(LABELS)].notna()
    lacking = slices.index[(slices["split"] == "train") & ~known.all(axis=1)]
    if len(lacking) and not allow_unlabelled:
        missing = [label for label in LABELS if not known.loc[lacking[0], label]]
        raise InputError(
            f"{len(lacking)} train slices lack labels, the first {lacking[0]} ({', '.join(missing)}); complete {labels_csv}, "
            "or leave such slices out of training with --allow-unlabelled"
        )
    slices.loc[lacking, list(LABELS)] = np.nan
    return slices, {"labels_without_file": int((~of_file).sum()), "unlabelled": len(lacking)}
