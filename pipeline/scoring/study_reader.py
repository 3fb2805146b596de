"""DICOM files that nobody laid out for a competition: which studies they are, under what names, and
which may be scored.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ct.checks.domain_shift import Finding, header_findings, pixel_findings
from ct.checks.shared_uids import ONE_PATIENT, SEVERAL_PATIENTS, UNCLEAR, separate_patients
from ct.dicom.acquisition import read_acquisition
from ct.dicom.header_table import read_headers
from ct.errors import InputError
from ct.patient_folds import fold_groups
from ct.pixel_cache.reader import PixelCache
from ct.pixel_cache.writer import write_cache
from ct.privacy.pseudonyms import competition_id_pattern
from ct.slices import PIXEL_COLUMNS, order_slices
from ct.sources.folder import Folder
from ct.sources.zip_archive import open_zip

NAMED = {"patient_id": "patient", "study_id": "study", "series_id": "series", "slice_id": "slice"}
NO_PART = 127  # no probe without this part: features.linear_probe.held_out_probe_logits gives NaN
KNOWN = (
    "a patient of the training data, scored by the models of one fold alone",
    "the other folds' models have learnt from this patient",
)


SHARED = {  # of ct.checks.shared_uids -> (refuses, what, what it means)
    SEVERAL_PATIENTS: (
        False,
        "its StudyInstanceUID stands on slices of other PatientIDs, too, at the same heights",
        "the PatientIDs are taken for several people, and each has a study and series",
    ),
    ONE_PATIENT: (
        False,
        "slices of several PatientIDs that make one series together",
        "they are taken for one person's study, in which each PatientID is a series: slices of two are never neighbours",
    ),
    UNCLEAR: (
        True,
        "slices of several PatientIDs, neither whole series each nor one series together",
        "nobody knows how many people these are; give each person a StudyInstanceUID, or one PatientID",
    ),
}
TWO_FOLDS = (
    True,
    "PatientIDs of one study that were trained on in two folds",
    "every fold's models have learnt from this person",
)


@dataclass
class Incoming:
    """Studies on their way to a model."""

    found: pd.DataFrame  # slice table of all that was found, without pixel facts
    acquisition: pd.DataFrame  # of the same rows, with the `path`
    quarantine: pd.DataFrame  # path, kind, reason
    findings: list  # of ct.checks.domain_shift.Finding
    # slice table with pixel facts of what is to be scored, with `fold`, -1 for strangers, and
    # `part`
    slices: pd.DataFrame
    read_hu: object  # of the rows of `slices`, as PixelCache.read


def open_data(data):
    """Return the source that a folder or zip archive is, and the names of all files in it. Raises
    InputError without any.
    """
    path = Path(data)
    if not path.exists():
        raise InputError(
            f"--data={data} does not exist; it names a folder or zip that holds DICOM files"
        )
    source = Folder(path) if path.is_dir() else open_zip(path)
    files = source.all_files()
    if not files:
        raise InputError(
            f"--data={data} holds no files; it names a folder or zip that holds DICOM files"
        )
    return source, files


def take_in(source, files, model, key, work, anyway, workers, bar):
    """Read the headers of all files, then the pixels of the series that may be scored.

    source, files: as of `open_data`; model: pipeline.scoring.scoring_model.Model; key: bytes, of
    the pseudonyms under which the model knows its patients; work: folder for the pixel cache;
    anyway: whether nothing is refused; bar: as of pipeline.run_context.Run

    Returns Incoming.
    """
    training = model.stage2["training"]
    with bar(len(files), "headers", "file") as shown:
        found, acquisition, quarantine = read_studies(
            source, files, key, model.patients, workers, shown.reach
        )
    findings = [
        *about_people(found),
        *about_studies(found, training),
        *header_findings(found, acquisition, training),
    ]
    slices = found if anyway else without_refused(found, findings)
    with bar(len(slices), "pixels", "slice") as shown:
        facts = write_cache(work, source, slices, model.recipe.pixels.size, workers, shown.reach)
    cache, slices, bad = (
        PixelCache(work),
        slices.join(facts[list(PIXEL_COLUMNS)]),
        facts["reason"] != "",
    )
    pixels = pd.DataFrame(
        {"path": slices["path"][bad], "kind": "pixels", "reason": facts["reason"][bad]}
    )
    findings += pixel_findings(slices, training)
    if anyway:
        findings = [finding._replace(refuses=False) for finding in findings]
    slices = without_refused(slices, findings)
    rows = pd.Index(cache.slice_ids).get_indexer(slices.index)
    return Incoming(
        found,
        acquisition,
        pd.concat([quarantine, pixels]).sort_values("path"),
        findings,
        slices,
        lambda numbers, out=None: cache.read(rows[numbers], out),
    )


def read_studies(source, files, key, patients=None, workers=None, progress=None):
    """Read the headers of all files.

    patients: `fold` and `part` of each patient that the models were trained on, by pseudonym, or
    None; progress: as of read_headers; the others as of `take_in`

    Returns (slices, acquisition, quarantine) as of Incoming; slices with `people`, what
    `ct.checks.shared_uids.separate_patients` says of it.
    """
    table, quarantine = read_headers(
        source, files, key, workers, progress, patient_id_optional=True
    )
    table, people = separate_patients(table, key)
    table = table.assign(split="test", people=people, **folds_of_groups(table, patients))
    slices = order_slices(public_names(table, key))
    acquisition = (
        read_acquisition(source, slices["path"].tolist()).reset_index().set_index(slices.index)
    )
    return slices, acquisition, quarantine[["path", "kind", "reason"]]


def folds_of_groups(table, patients):
    """Return the columns `fold` and `part`, int8 (n,): the training patient's, for all of a group;
    -1 for strangers.

    table: header table; patients: as in `read_studies`. A third column, `two_folds`, tells where a
    group's patients are of several folds. Where they are of several parts, each part's probe
    learned from one of them: the group has NO_PART.
    """
    known = pd.DataFrame(columns=["fold", "part"]) if patients is None else patients
    columns = {
        name: table["patient_id"].map(known[name]).fillna(-1).astype(np.int8)
        for name in ("fold", "part")
    }
    groups = pd.Series(fold_groups(table), index=table.index)
    several = {
        name: values.where(values >= 0).groupby(groups).transform("nunique") > 1
        for name, values in columns.items()
    }
    columns = {name: values.groupby(groups).transform("max") for name, values in columns.items()}
    part = columns["part"].mask(several["part"], NO_PART).astype(np.int8)
    return {"fold": columns["fold"], "part": part, "two_folds": several["fold"]}


def public_names(table, key):
    """Return a header table under names that tell nothing: the competition's own are kept, others
    numbered as they come.

    key: of the pseudonyms, which decides what the competition's own are
    (`ct.privacy.pseudonyms.competition_form`)

    So a second call, whose pseudonyms are others, gives the same names, the same order and the same
    probabilities.
    """
    table = table.reset_index()
    for column, word in NAMED.items():
        names = table[column]
        own = names.str.fullmatch(competition_id_pattern(word, key)).to_numpy(bool)
        number, distinct = pd.factorize(names.where(~own))
        width = len(str(len(distinct)))
        numbered = [f"{word}-{place + 1:0{width}}" for place in range(len(distinct))]
        table[column] = np.where(
            own, names.to_numpy(object), np.array([*numbered, ""], object)[number]
        )
    return table.set_index("slice_id")


def about_people(found):
    """Return the Findings on studies whose UID stands on the slices of several PatientIDs."""
    findings = []
    for (study, series), rows in found.groupby(["study_id", "series_id"], sort=True):
        known = SHARED.get(rows["people"].iloc[0])
        for refuses, what, means in ([known] if known else []) + [TWO_FOLDS] * bool(
            rows["two_folds"].any()
        ):
            findings.append(Finding(study, series if refuses else "", refuses, what, means))
    return list(dict.fromkeys(findings))


def about_studies(found, training):
    """Return the Findings on whole studies: more series than the training studies have, patients
    that the models know.
    """
    findings, groups = [], found.groupby("study_id", sort=True)
    for study, series in groups["series_id"].nunique().items():
        if series > training["series"]:
            what = f"{series} series, where training studies have {training['series']} at most"
            means = "they are read as one study; put a series into a folder of its own to have it read by itself"
            findings.append(Finding(study, "", False, what, means))
    return findings + [
        Finding(study, "", False, *KNOWN)
        for study, fold in groups["fold"].max().items()
        if fold >= 0
    ]


def without_refused(slices, findings):
    """Return the rows of a slice table whose series no Finding refuses."""
    refused = {(f.study_id, f.series_id) for f in findings if f.refuses}
    keys = zip(slices["study_id"], slices["series_id"], strict=True)
    return slices[np.array([key not in refused for key in keys], bool)]
