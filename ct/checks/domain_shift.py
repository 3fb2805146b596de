"""Whether a study is like those that the models learnt from, and what it means where it is not."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from ct.checks.series_geometry import wide_gaps
from ct.privacy.defined_terms import HEADS, UNKNOWN

RARE = 0.005  # share of the training series beyond either end of a range
SLACK = 0.01  # of a range's ends: rounding of the tags
SIDEWAYS_DEG = 45.0  # slices that lie further from axial are coronal or sagittal
# facts that may lie below their range: slices that lie straight are seldom a fault
FREE_BELOW = ("tilt_deg",)
OTHER = 2.0  # times beyond the training range of an area: another part of the body
# of a series -> (how it is told, what it means where it lies outside the training range)
RANGES = {
    "pixel_spacing_mm": (
        "pixels of {} mm",
        "the head looks smaller or larger than those the CNNs know",
    ),
    "step_mm": (
        "slices {} mm apart",
        "neighbours tell less, or more, than what the stackers learnt to make of them",
    ),
    "thickness_mm": (
        "slices {} mm thick",
        "thinner slices are noisier, thicker ones blur small bleeds",
    ),
    "slices": (
        "{} slices",
        "what the stackers know of a whole study was learnt on longer or shorter ones",
    ),
    "tilt_deg": (
        "slices tilted by {} degrees",
        "the anatomy of a slice is cut in a way that the CNNs hardly saw",
    ),
    "brain_cm2": (
        "{} cm2 of brain-like pixels at most",
        "perhaps a part of a head, or more than a head",
    ),
    "skull_cm2": ("{} cm2 of bone at most", "perhaps a part of a head, or more than a head"),
}
FORMATS = {"slices": "{:.0f}", "tilt_deg": "{:.0f}", "brain_cm2": "{:.0f}", "skull_cm2": "{:.0f}"}


class Finding(NamedTuple):
    """Something in which a series is unlike the training data."""

    study_id: str
    series_id: str
    refuses: bool  # it is no series that the models may be asked about
    what: str
    means: str


def series_facts(slices):
    """Return what is compared of each series, a DataFrame indexed by (study_id, series_id); NaN
    where it is not known.

    slices: slice table, of one split. Areas are those of the slice that shows most; distances are
    medians.
    """
    known = slices.assign(step=slices["gap_below_mm"].where(slices["gap_below_mm"] > 0))
    areas = ["brain_cm2", "skull_cm2"]
    if set(areas) <= set(slices):
        # otherwise they are in pixels
        known[areas] = known[areas].where(slices["pixel_spacing_mm"].notna())
    else:
        known = known.assign(**dict.fromkeys(areas, np.nan))
    groups = known.groupby(["study_id", "series_id"], sort=False)
    return pd.DataFrame(
        {
            "pixel_spacing_mm": groups["pixel_spacing_mm"].median(),
            "step_mm": groups["step"].median(),
            "slices": groups["series_slices"].first(),
            "tilt_deg": groups["tilt_deg"].median(),
            "brain_cm2": groups["brain_cm2"].max(),
            "skull_cm2": groups["skull_cm2"].max(),
        }
    ).astype(float)


def training_ranges(slices):
    """Return what the training series are like, from their slice table: {fact: [low, high]},
    without facts nobody knows.

    The ends are values of series, all but RARE of them within; `series` is the largest number of
    series in a study.
    """
    facts, ranges = series_facts(slices), {}
    for name, values in facts.items():
        values = values.dropna().to_numpy()
        if len(values):
            low, high = (
                np.quantile(values, RARE, method="lower"),
                np.quantile(values, 1 - RARE, method="higher"),
            )
            ranges[name] = [float(low), float(high)]
    if "step_mm" in ranges:  # RSNA's files say no thickness; its slices lie side by side
        ranges["thickness_mm"] = ranges["step_mm"]
    return ranges | {"series": int(facts.groupby(level=0).size().max())}


def header_findings(slices, acquisition, ranges):
    """Return the Findings that need no pixels, in the order of the series.

    slices: slice table without PIXEL_COLUMNS; acquisition: as of read_acquisition, indexed like
    `slices`; ranges: as of training_ranges
    """
    facts, found = series_facts(slices), []
    keys = [slices["study_id"], slices["series_id"]]
    taken, tables = (
        dict(iter(acquisition.groupby(keys, sort=False))),
        dict(iter(slices.groupby(keys, sort=False))),
    )
    facts["thickness_mm"] = acquisition.groupby(keys, sort=False)["thickness_mm"].median()
    for key, row in facts.iterrows():
        said = [
            *_other_images(taken[key], row),
            *_other_files(tables[key], taken[key]),
            *_holes(tables[key]),
        ]
        if not any(refuses for refuses, _, _ in said):
            names = ("pixel_spacing_mm", "step_mm", "thickness_mm", "slices", "tilt_deg")
            said += _outside(
                row, ranges, [name for name in names if name != "slices" or row["slices"] > 1]
            )
        found += [Finding(*key, *finding) for finding in said]
    return found


def pixel_findings(slices, ranges):
    """Return the Findings that the pixels make, in the order of the series. slices: slice table;
    ranges: as above.
    """
    facts, found = series_facts(slices), []
    readable = slices.groupby(["study_id", "series_id"], sort=False)["readable"].agg(
        ["sum", "size"]
    )
    for key, row in facts.iterrows():
        good, count = readable.loc[key]
        said = []
        if good < count:
            what = f"{count - good} of {count} slices do not decode (quarantine.csv says why)"
            said.append(
                (
                    good == 0,
                    what,
                    "they are guessed from their neighbours"
                    if good
                    else "there is nothing to look at",
                )
            )
        for name in ("brain_cm2", "skull_cm2") if good else ():
            low, high = ranges.get(name, (-np.inf, np.inf))
            if row[name] < low / OTHER or row[name] > high * OTHER:
                what = f"{_told(name, row[name])}, in training {_range(name, low, high)}"
                said.append((True, what, "this does not look like a head"))
        if not any(refuses for refuses, _, _ in said):
            said += _outside(row, ranges, ["brain_cm2", "skull_cm2"])
        found += [Finding(*key, *finding) for finding in said]
    return found


def _other_images(taken, row):
    """Return (refuses, what, means) of what is no axial CT slice of a head. taken: rows of
    read_acquisition of one series.
    """
    found, modality, part = [], taken["modality"].iloc[0], taken["body_part"].iloc[0]
    if modality != "CT":
        means = "the CNNs read Hounsfield units, which only CT has"
        word = {"": "not said", UNKNOWN: "no known one"}.get(modality, modality)
        found.append((bool(modality), f"the modality is {word}, not CT", means))
    if taken["image_type"].str.upper().str.contains("LOCALIZER").any():
        found.append((True, "a localizer", "a projection through the body, no slice"))
    if part and not any(head in part for head in HEADS):
        word = "no known word" if part == UNKNOWN else part
        found.append((True, f"BodyPartExamined says {word}", "the CNNs know heads alone"))
    if row["tilt_deg"] > SIDEWAYS_DEG:
        what = f"the slices lie {row['tilt_deg']:.0f} degrees from axial"
        found.append((True, what, "the CNNs know axial slices alone, no coronal or sagittal ones"))
    return found


def _other_files(slices, taken):
    """Return (refuses, what, means) of what the files of one series say that may mislead the
    CNNs.
    """
    faults = {
        "a contrast agent was given": (
            taken["contrast"],
            "enhanced vessels and membranes can look like blood",
        ),
        "the pixels were compressed with loss": (
            taken["lossy"],
            "fine differences between tissues may be gone",
        ),
        "RescaleSlope or RescaleIntercept is missing": (
            slices[["slope", "intercept"]].isna().any(axis=1),
            "stored values are taken for Hounsfield units",
        ),
        "PixelSpacing is missing": (
            slices["pixel_spacing_mm"].isna(),
            "nobody knows how large the head is",
        ),
        "slices of differing orientation": (
            slices["mixed_orientation"],
            "the order of the slices is in doubt",
        ),
    }
    return [(False, what, means) for what, (faulty, means) in faults.items() if faulty.any()]


def _holes(slices):
    """Return (refuses, what, means) of a series whose slices lie at odd distances, or of which
    there is but one.
    """
    gaps = slices["gap_below_mm"].to_numpy(np.float64)[1:]
    if not len(gaps):
        return [(False, "one slice alone", "it has no neighbours, on which the stackers rely")]
    found, wide = [], wide_gaps(slices)[1:]
    if wide.any():
        what = f"{wide.sum()} gap{'s' if wide.sum() > 1 else ''} between slices, the largest {gaps[wide].max():.1f} mm"
        found.append((False, what, "slices seem to be missing, and with them what they show"))
    if (gaps == 0).any():
        found.append(
            (
                False,
                f"{(gaps == 0).sum() + 1} slices or more share a place",
                "perhaps two scans in one series",
            )
        )
    return found


def _outside(row, ranges, names):
    """Return (refuses, what, means) of the facts of one series that lie outside the training
    ranges.
    """
    found = []
    for name in names:
        low, high = ranges.get(name, (-np.inf, np.inf))
        below = row[name] < low * (1 - SLACK) and name not in FREE_BELOW
        if below or row[name] > high * (1 + SLACK):
            what = f"{_told(name, row[name])}, in training {_range(name, low, high)}"
            found.append((False, what, RANGES[name][1]))
    return found


def _told(name, value):
    return RANGES[name][0].format(_number(name, value))


def _range(name, low, high):
    low, high = _number(name, low), _number(name, high)
    return low if low == high else f"{low} to {high}"


def _number(name, value):
    return FORMATS.get(name, "{:.3g}").format(value)
