"""Match the rows of a sample submission with the test slices."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from numpy.typing import NDArray

from ct.errors import InputError, number_of
from ct.privacy.pseudonyms import pseudonym
from ct.sources.zip_archive import ZipMember
from ct.submission import read_sample

# of the slices of sample or test files, whichever has fewer, the share that both must have: below
# it they are different data
LEAST_COMMON = 0.5
LEAST_PREDICTED = 0.5  # share of a sample's slices that must not be in quarantine


class SampleRows(NamedTuple):
    """The rows of a sample submission, and its slices without a prediction."""

    ids: NDArray  # (n,) row ids, as in the file
    slice_id: NDArray  # (n,) slice of each row, as in the tables
    label: NDArray  # (n,) label of each row
    quarantined: list[str]  # slices whose file is in quarantine
    without_file: list[str]  # slices that have no file


def match_sample(
    sample_csv: Path | ZipMember,
    key: bytes,
    predicted: pd.Index,
    quarantine: pd.DataFrame,
    missing: str,
) -> SampleRows:
    """Match the rows of a sample submission with the test slices.

    key: of the pseudonyms; predicted: ids of the test slices; quarantine: its table; missing: what
    to do about slices without a file: "refuse" or "prior"

    Raises InputError for a sample of other data. Unless missing is "prior", also for slices without
    a file, and where most slices are in quarantine.
    """
    ids, names, label = read_sample(sample_csv)
    alias = {name: pseudonym(name, key, "slice") for name in pd.unique(pd.Series(names))}
    bad_headers = quarantine[(quarantine["kind"] == "header") & (quarantine["split"] == "test")]
    in_quarantine = set(bad_headers["slice_id"])
    lacking = pd.Index(list(alias.values())).difference(predicted, sort=False)
    without_file = [slice_id for slice_id in lacking if slice_id not in in_quarantine]
    if without_file and missing != "prior":
        first = next(name for name, slice_id in alias.items() if slice_id == without_file[0])
        raise InputError(
            f"{number_of(len(without_file), 'slice')} of the sample file {sample_csv} without a "
            f"DICOM file, the first is {first}; give the sample that belongs to the data "
            "(`new --sample=FILE`), or use the training prior for them (--missing=prior)"
        )
    sample = set(alias.values())
    _check_same_data(sample, {*predicted, *(in_quarantine & sample)}, sample_csv)
    quarantined = [slice_id for slice_id in lacking if slice_id in in_quarantine]
    if missing != "prior":
        of_sample = bad_headers[bad_headers["slice_id"].isin(quarantined)]
        _check_predicted(sample, of_sample, sample_csv)
    slice_ids = pd.Series(names).map(alias).to_numpy(object)
    return SampleRows(ids, slice_ids, label, quarantined, without_file)


def _check_predicted(
    sample: Collection[str], quarantined: pd.DataFrame, sample_csv: Path | ZipMember
) -> None:
    """Raise InputError where most slices of a sample are in quarantine and would get the prior.

    sample: slices; quarantined: rows of the quarantine with these slices
    """
    count = quarantined["slice_id"].nunique()
    if len(sample) - count < LEAST_PREDICTED * len(sample):
        raise InputError(
            f"{count} of the {len(sample)} slices of the sample file {sample_csv} have a test file "
            f"that does not read, the first is {first_reason(quarantined)}; give whole test files, "
            "or use the training prior for them (--missing=prior)"
        )


def first_reason(quarantine: pd.DataFrame) -> str:
    """Return "split/slice, reason" of the first row of a quarantine table."""
    if quarantine.empty:
        return "none is there"
    first = quarantine.iloc[0]
    # by its slice, since its path may carry a person's name
    return f"{first['split']}/{first['slice_id']}, {first['reason']}"


def _check_same_data(
    sample: Collection[str], on_disk: Collection[str], sample_csv: Path | ZipMember
) -> None:
    """Raise InputError where sample and test files have too few slices in common.

    Either may be a part of the other: a few studies of the competition with its whole sample, or a
    sample of a few studies.
    """
    smaller, common = min(len(sample), len(on_disk)), len({*sample} & {*on_disk})
    if common < LEAST_COMMON * smaller:
        raise InputError(
            f"{common} of the {len(sample)} slices of the sample file {sample_csv} are among the "
            f"{len(on_disk)} of the test files: it belongs to other data; give the sample that "
            "belongs to these (`new --sample=FILE`)"
        )
