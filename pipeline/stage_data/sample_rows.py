"""Match the rows of a sample submission with the test slices."""

import pandas as pd

from ct.errors import InputError
from ct.privacy.pseudonyms import pseudonym
from ct.submission import read_sample

# of the slices of sample or test files, whichever are fewer: those that are in both
LEAST_COMMON = 0.5


LEAST_PREDICTED = 0.5  # of the slices of a sample: those whose file is not in quarantine


def match_sample(sample_csv, key, predicted, quarantine, missing):
    """Match the rows of a sample submission with the test slices.

    key: bytes, of the pseudonyms; predicted: Index of the test slices; quarantine: table; missing:
    "refuse" or "prior"

    Returns (ids, slice_id, label, quarantined, fileless): the row ids as in the file, their slices'
    names in the tables and their labels, (n,) each, and the slices without a prediction, whose file
    is quarantined or not there at all. Raises InputError for slices without any file, and where
    most are in quarantine, unless the prior may stand in for them, and for a sample of other data.
    """
    ids, names, label = read_sample(sample_csv)
    alias = {name: pseudonym(name, key, "slice") for name in pd.unique(pd.Series(names))}
    out_of_test = quarantine[(quarantine["kind"] == "header") & (quarantine["split"] == "test")]
    left_out = set(out_of_test["slice_id"])
    lacking = pd.Index(list(alias.values())).difference(predicted, sort=False)
    fileless = [slice_id for slice_id in lacking if slice_id not in left_out]
    if fileless and missing != "prior":
        first = next(name for name, slice_id in alias.items() if slice_id == fileless[0])
        raise InputError(
            f"{len(fileless)} slices of the sample file {sample_csv} have no DICOM file, the first is {first}; give the "
            "sample that belongs to the data (`new --sample=FILE`), or let the training prior stand in (--missing=prior)"
        )
    sample = set(alias.values())
    _check_same_data(sample, {*predicted, *(left_out & sample)}, sample_csv)
    quarantined = [slice_id for slice_id in lacking if slice_id in left_out]
    if missing != "prior":
        _check_predicted(sample, out_of_test[out_of_test["slice_id"].isin(quarantined)], sample_csv)
    return ids, pd.Series(names).map(alias).to_numpy(object), label, quarantined, fileless


def _check_predicted(sample, quarantined, sample_csv):
    """Raise InputError where more than half of a sample's slices are in quarantine: their
    submission would be mere priors.

    sample: set of slices; quarantined: the rows of the quarantine that are of them
    """
    count = quarantined["slice_id"].nunique()
    if len(sample) - count < LEAST_PREDICTED * len(sample):
        raise InputError(
            f"{count} of the {len(sample)} slices of the sample file {sample_csv} have a test file that does not read, "
            f"the first is {first_reason(quarantined)}; give whole test files, or let the training prior stand in "
            "(--missing=prior)"
        )


def first_reason(quarantine):
    """Return "split/slice, reason" of the first row of a quarantine table, or that there is
    none.
    """
    if quarantine.empty:
        return "none is there"
    first = quarantine.iloc[0]
    # its path may be named after a person
    return f"{first['split']}/{first['slice_id']}, {first['reason']}"


def _check_same_data(sample, on_disk, sample_csv):
    """Raise InputError where sample and test files have less than half of the smaller one's slices
    in common.

    Either may be a part of the other: a few studies of the competition with its whole sample, or a
    sample of a few studies.
    """
    smaller, common = min(len(sample), len(on_disk)), len(sample & on_disk)
    if common < LEAST_COMMON * smaller:
        raise InputError(
            f"{common} of the {len(sample)} slices of the sample file {sample_csv} are among the {len(on_disk)} of the test "
            "files: it belongs to other data; give the sample that belongs to these (`new --sample=FILE`)"
        )
