"""Select the slices of a run from all headers: one patient per study, whole patients, labels."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from ct.checks.patient_overlap import ONE_PATIENT, SEVERAL_PATIENTS, UNCLEAR
from ct.checks.shared_uids import separate_patients
from ct.errors import InputError, number_of
from ct.labels import LABELS
from ct.patient_folds import fold_groups
from ct.privacy.pseudonyms import pseudonym, public_paths
from ct.sources.zip_archive import ZipMember
from ct.storage.atomic_write import replacing
from ct.storage.digests import new_digest
from ct.tables.spreadsheet import write_sheet
from pipeline.stage_data.sample_rows import first_reason

QUARANTINE_COLUMNS = ["path", "slice_id", "split", "kind", "reason"]
Counts = dict[str, int]


def train_ids(slices: pd.DataFrame, quarantine: pd.DataFrame) -> set[str]:
    """Return the slice ids of all train files, quarantined ones included.

    Raises InputError where no train file has a header that reads.
    """
    train = slices.index[slices["split"] == "train"]
    if train.empty:
        raise InputError(
            f"no file of train has a header that reads; the first: {first_reason(quarantine)}"
        )
    return set(train) | set(quarantine.loc[quarantine["split"] == "train", "slice_id"])


def check_sets_disjoint(slices: pd.DataFrame) -> None:
    """Raise InputError where the same slice is in train and in test."""
    if (twice := slices.index.duplicated()).any():
        slice_id = slices.index[twice][0]
        paths = ", ".join(public_paths(slices["path"][slices.index == slice_id], slice_id))
        raise InputError(f"slice {slice_id} is in train and in test ({paths}); remove one of them")


def separate_studies(
    slices: pd.DataFrame, key: bytes, note: Path | None = None
) -> tuple[pd.DataFrame, Counts]:
    """Give each PatientID its own series, and each person their own studies.

    note: a csv to write where it is unclear whether the patients of a study are one person; it
    names the files of such studies and is readable by its owner alone. None where there are no
    files.

    Returns (slices, counts); see ct.checks.shared_uids. Raises InputError for an unclear study.
    """
    separated, kind = separate_patients(slices, key)
    if len(unclear := separated[kind == UNCLEAR]):
        if note:
            _write_unclear_files(unclear, note)
        _refuse_unclear(unclear, note)
    return separated, {
        "studies_split": slices["study_id"][kind == SEVERAL_PATIENTS].nunique(),
        "people_of_split_studies": separated["study_id"][kind == SEVERAL_PATIENTS].nunique(),
        "studies_joined": separated["study_id"][kind == ONE_PATIENT].nunique(),
    }


def _refuse_unclear(unclear: pd.DataFrame, note: Path | None) -> None:
    study = unclear["study_id"].iloc[0]
    patients = sorted(set(unclear["patient_id"][unclear["study_id"] == study]))
    first = ", ".join(patients[:3]) + " ..." * (len(patients) > 3)
    raise InputError(
        f"study {study} holds slices of {len(patients)} patients, {first} (pseudonyms), which are "
        "neither whole series of several people nor one series together; give each person a "
        "StudyInstanceUID, or all slices of one person the same PatientID, or leave the study out"
        + (f"; {note} names its files" if note else "")
    )


def _write_unclear_files(unclear: pd.DataFrame, note: Path) -> None:
    """Write the files of unclear studies, with the pseudonyms of study and patient."""
    study, patient = unclear["study_id"].astype(str), unclear["patient_id"].astype(str)
    reason = "study " + study + ", patient " + patient + ": unclear how many people these are"
    rows = unclear.assign(kind="study", reason=reason).reset_index()
    with replacing(note) as part:
        write_sheet(part, rows[QUARANTINE_COLUMNS], index=False, private=True)


def take_patients(slices: pd.DataFrame, train_slices: int | None) -> tuple[pd.DataFrame, Counts]:
    """Take at most `train_slices` train slices, as whole patients and groups, and all of test.

    train_slices: None takes all. Groups (`ct.patient_folds.fold_groups`) are taken in the order of
    the blake2b digests of their names, so that a larger number takes the same ones and more.

    Returns (slices, counts). Raises InputError where the first group is too large.
    """
    if train_slices is None:
        return slices, {"slices_not_taken": 0, "patients_not_taken": 0}
    train = slices["split"] == "train"
    groups = pd.Series(fold_groups(slices), index=slices.index)
    size = groups[train].value_counts()
    order = sorted(size.index, key=_name_digest)
    taken = size[order].cumsum() <= train_slices
    if not taken.any():
        raise InputError(
            f"data.train_slices = {train_slices} takes no whole patient, the first has "
            f"{number_of(size[order[0]], 'slice')}; raise it in recipe.yaml"
        )
    kept = ~train | groups.isin(taken.index[taken])
    patients = slices["patient_id"][~kept].nunique()
    return slices[kept], {"slices_not_taken": int((~kept).sum()), "patients_not_taken": patients}


def _name_digest(name: str) -> bytes:
    return new_digest(name.encode()).digest()


def join_labels(
    slices: pd.DataFrame,
    labels: pd.DataFrame,
    on_disk: Collection[str],
    labels_csv: Path | ZipMember,
    key: bytes,
    allow_unlabelled: bool,
) -> tuple[pd.DataFrame, Counts]:
    """Join the labels to the train slices.

    slices: header table indexed by slice_id; labels: as read_labels returns them; on_disk: slice
    ids of all train files, quarantined ones included; key: of the pseudonyms

    Returns (slices with the columns LABELS, counts). Raises InputError where no label belongs to a
    file, or train slices lack labels and `allow_unlabelled` is false.
    """
    labels = labels.set_axis([pseudonym(name, key, "slice") for name in labels.index])
    return join_matched_labels(slices, labels, on_disk, labels_csv, allow_unlabelled)


def join_matched_labels(
    slices: pd.DataFrame,
    labels: pd.DataFrame,
    on_disk: Collection[str],
    labels_csv: Path | ZipMember,
    allow_unlabelled: bool,
) -> tuple[pd.DataFrame, Counts]:
    """Join labels to the train slices, as `join_labels` does. labels: indexed by slice_id."""
    train = slices.index[slices["split"] == "train"]
    has_file = labels.index.isin(on_disk)
    if not has_file.any():
        raise InputError(
            f"none of the {len(labels)} slices of {labels_csv} is among the train files (it has "
            f"{labels.index[0]}, the files {train[0]}); give the right file with "
            "`new --labels=FILE`"
        )
    slices = slices.join(labels.reindex(train))
    slices[list(LABELS)] = slices[list(LABELS)].astype(np.float32)
    slices, unlabelled = clear_partial_labels(slices, labels_csv, allow_unlabelled)
    return slices, {"labels_without_file": int((~has_file).sum()), "unlabelled": unlabelled}


def clear_partial_labels(
    slices: pd.DataFrame, where: Path | ZipMember | str, allow_unlabelled: bool
) -> tuple[pd.DataFrame, int]:
    """Clear the labels of train slices that have only some. Returns (slices, unlabelled slices).

    where: what to complete, for the message. Raises InputError where train slices lack labels and
    `allow_unlabelled` is false.
    """
    known = slices[list(LABELS)].notna()
    unlabelled = slices.index[(slices["split"] == "train") & ~known.all(axis=1)]
    if len(unlabelled) and not allow_unlabelled:
        missing = [label for label in LABELS if not known.loc[unlabelled[0], label]]
        raise InputError(
            f"{number_of(len(unlabelled), 'train slice')} without all labels, the first "
            f"{unlabelled[0]} ({', '.join(missing)}); complete {where}, or leave such slices "
            "out of training with --allow-unlabelled"
        )
    slices.loc[unlabelled, list(LABELS)] = np.nan
    return slices, len(unlabelled)
