"""Whose slices are whose, where one study or series UID stands on the slices of several PatientIDs.

Anonymisers that write one fixed UID make one study of many people. Inconsistent ones write two
PatientIDs into one person's study. Which of the two it is shows in how the slices lie: two heads
overlap, one head that was torn fits together again.
"""

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ct.checks.series_geometry import EVEN
from ct.privacy.pseudonyms import pseudonym
from ct.slices import MIXED_DEG, POSITION, angles_deg, slice_normals

SEVERAL_PATIENTS, ONE_PATIENT, UNCLEAR = "several people", "one person", "unclear"
# steps may differ by that much, or by the share EVEN, and count as alike: tags are rounded
STEP_MM = 0.1
# 6 % of the competition's series are two stacks in one, whose steps repeat after two or three
# slices
LAGS = (1, 2, 3)
# a regular series changes its step so often at most; 98 % of the real series do
CHANGES_A_LAG, CHANGES_A_SLICE = 2, 0.1
MOST_CHANGES = 2 / 3  # of the steps of a short series; one of two slices has none to compare
FAR_MM = 1e5  # no scanner's frame is as large
HOLE = 1.5  # times the usual step: slices are missing there
# where so many people share a UID, one in so many may be irregular (one in 50 is), or lie off from
# the others
ODD = 8


def separate_patients(table, key):
    """Give every PatientID a series of its own, and every person a study.

    table: header table indexed by slice_id, with patient_id, study_id, series_id, POSITION and
    ORIENTATION; key: of the pseudonyms, as in `ct.privacy.pseudonyms.pseudonym`

    Afterwards no series holds two patients, so that neighbouring slices are always one patient's.
    What becomes of a study that holds several is for `study_relation` to decide:
    - PEOPLE get a study each;
    - ONE person's study stays one, which makes the patients one group of the folds
    (`ct.patient_folds.fold_groups`);
    - UNCLEAR stays one, too, and the caller should refuse it. Studies that share one person's torn
    series become one, under the smallest of their ids. Where they share a series in any other way,
    study and PatientID both say that they are apart, and they stay so.

    New ids are pseudonyms of the old id and the patient's: the same again under the same key, and
    in the form of all pseudonyms, which tables and pages take, never in the competition's.

    Returns (table, verdict): in the order of `table`; verdict: object array (n,) of PEOPLE, ONE,
    UNCLEAR, and "" where one patient has the study.
    """
    verdict = np.full(len(table), "", object)
    shared = {name: _of_several_patients(table, name) for name in ("study_id", "series_id")}
    if not any(mask.any() for mask in shared.values()):
        return table, verdict
    patient, study, series = (
        table[name].to_numpy(object).copy() for name in ("patient_id", "study_id", "series_id")
    )
    for rows in _groups(series, shared["series_id"]):
        if (
            len(studies := set(study[rows])) > 1
            and relation(table.iloc[rows], patient[rows]) == ONE_PATIENT
        ):
            study[np.isin(study, list(studies))] = min(studies)
    table = table.assign(study_id=_like(study, table["study_id"]))
    for rows in _groups(study, _of_several_patients(table, "study_id")):
        verdict[rows] = study_relation(table.iloc[rows])
    apart = verdict == SEVERAL_PATIENTS
    study[apart] = _names_apart(study[apart], patient[apart], key)
    apart = shared["series_id"]
    series[apart] = _names_apart(series[apart], patient[apart], key)
    return table.assign(
        study_id=_like(study, table["study_id"]), series_id=_like(series, table["series_id"])
    ), verdict


def study_relation(table):
    """Return PEOPLE, ONE or UNCLEAR of the patients of one study. table: its rows of a header
    table.

    Each series that holds several patients is judged by itself, and all must agree. Where some
    patients have series of their own, so must the longest series of each patient, taken together.
    """
    torn = _of_several_patients(table, "series_id")
    patient = table["patient_id"].to_numpy(object)
    parts = _groups(table["series_id"].to_numpy(object), torn)
    if set(patient[torn]) != set(patient):
        longest = (
            table.groupby(["patient_id", "series_id"])
            .size()
            .sort_values(kind="stable")
            .reset_index()
        )
        longest = longest.drop_duplicates("patient_id", keep="last").set_index("patient_id")[
            "series_id"
        ]
        parts.append(
            np.flatnonzero(
                table["series_id"].to_numpy(object)
                == table["patient_id"].map(longest).to_numpy(object)
            )
        )
    verdicts = {relation(table.iloc[rows], patient[rows]) for rows in parts}
    return verdicts.pop() if len(verdicts) == 1 else UNCLEAR


def relation(table, patient):
    """Return whether the slices of several patients are PEOPLE's, ONE person's, or it is UNCLEAR.

    table: with POSITION (mm) and ORIENTATION, of one series or of one series of each patient;
    patient: (n,)

    PEOPLE: each patient's slices are a regular series by themselves (`is_regular`), their heights
    overlap, and they do not make one series in which the step changes less often. Of three and
    more, each overlaps with another, and all hang together so; no series goes on where another
    ends, since that would be one person's. Of eight and more, one in eight need not be regular or
    overlap. ONE: wherever one patient's slice follows another's along the normal, the step is that
    of the slices beside, in space, and all together are a regular series.
    """
    position = table[list(POSITION)].to_numpy(np.float64)
    if not (np.abs(position) < FAR_MM).all():
        return UNCLEAR
    normals = slice_normals(table)
    axis = normals.mean(axis=0)
    height = (position @ (axis / np.linalg.norm(axis))).round(3)
    order = np.argsort(height, kind="stable")
    position, normals, height, patient = (
        position[order],
        normals[order],
        height[order],
        patient[order],
    )
    parts = _groups(patient, np.ones(len(patient), bool))
    regular = sum(not is_regular(height[part]) for part in parts) <= len(parts) // ODD
    runs, whole = _runs(height, parts), is_regular(height) and _fits(position, normals, patient)
    better = whole and _changes(height) < sum(_changes(height[part]) for part in parts)
    if (
        regular
        and not better
        and _all_overlap(height, runs)
        and not _one_goes_on(position, normals, runs)
    ):
        return SEVERAL_PATIENTS
    return ONE_PATIENT if whole else UNCLEAR


def is_regular(height):
    """Tell whether rising heights (n,), mm, are those of one series: all but a few steps are like
    the one before.

    Real series have gaps, half steps, slices that share a place, and two stacks in one: the step
    may change a few times, and may be that of two or three slices.
    """
    for lag in LAGS:
        compared = len(height) - lag - 1
        allowed = max(CHANGES_A_LAG * lag, CHANGES_A_SLICE * len(height))
        if compared >= lag and _changes(height, lag) <= min(allowed, MOST_CHANGES * compared):
            return True
    return False


def _changes(height, lag=1):
    """Count the steps over `lag` slices that are not like the one before."""
    step = height[lag:] - height[:-lag]
    return int((np.abs(np.diff(step)) > _slack(step[1:], step[:-1])).sum())


def _slack(one, other):
    return np.maximum(EVEN * np.maximum(one, other), STEP_MM)


def _runs(height, parts):
    """Return the rows of each run without a hole, with the number of its part: [(part, rows),
    ...].
    """
    runs = []
    for number, part in enumerate(parts):
        step = np.diff(height[part])
        # of two stacks in one: the longer of two steps
        usual = np.quantile(step, 0.9, method="lower") if len(step) else 0.0
        runs += [(number, rows) for rows in np.split(part, np.flatnonzero(step > HOLE * usual) + 1)]
    return runs


def _all_overlap(height, runs):
    """Tell whether the parts hang together by runs that overlap, all but one in ODD."""
    part = np.array([number for number, _ in runs])
    low, high = (np.array([height[rows[end]] for _, rows in runs]) for end in (0, -1))
    order = np.argsort(low, kind="stable")
    above = low[order][1:] > np.maximum.accumulate(high[order])[:-1]
    heap = np.concatenate([[0], np.cumsum(above)])  # runs that overlap, one with the next
    count = part.max() + 1
    edges = coo_array(
        (np.ones(len(part)), (part[order], count + heap)), shape=(count + heap[-1] + 1,) * 2
    )
    together = connected_components(edges, directed=False)[1][:count]
    return count - np.bincount(together).max() <= count // ODD


def _one_goes_on(position, normals, runs):
    """Tell whether a run begins where another part's ends: one step on in space, with slices of the
    same orientation.
    """
    part = np.array([number for number, _ in runs])
    first, ends = (
        np.array([rows[0] for _, rows in runs]),
        [(number, rows[-2:]) for number, rows in runs if len(rows) > 1],
    )
    tree = cKDTree(position[first])
    for number, (before, last) in ends:
        step = position[last] - position[before]
        for run in tree.query_ball_point(
            position[last] + step, float(_slack(length := np.linalg.norm(step), length))
        ):
            if part[run] != number and angles_deg(normals[first[run]], normals[last]) <= MIXED_DEG:
                return True
    return False


def _fits(position, normals, patient):
    """Tell whether each step from one patient's slice to another's is like the step before or
    after, in space.
    """
    step = np.diff(position, axis=0)
    length = np.linalg.norm(step, axis=1)
    alike = np.linalg.norm(np.diff(step, axis=0), axis=1) <= _slack(length[1:], length[:-1])
    beside = np.append(False, alike) | np.append(alike, False)  # the step before, the step after
    turned = angles_deg(normals[1:], normals[:-1]) > MIXED_DEG
    border = patient[1:] != patient[:-1]
    return bool((beside & ~turned & (length > 2 * STEP_MM))[border].all())


def _of_several_patients(table, name):
    """Tell of each row whether its `name`, a study or series, holds several patients. Returns bool
    (n,).
    """
    pairs = table[[name, "patient_id"]].drop_duplicates()
    several = pairs[name][pairs[name].duplicated()].unique()
    return table[name].isin(several).to_numpy(bool) if len(several) else np.zeros(len(table), bool)


def _groups(names, mask):
    """Return the row numbers of each name among the rows of `mask`, a list of arrays in the order
    of the names.
    """
    rows = np.flatnonzero(mask)
    return [rows[group] for group in pd.Series(rows).groupby(names[rows]).indices.values()]


def _names_apart(names, patient, key):
    """Return a name (n,) for each pair of name and patient."""
    pairs = pd.MultiIndex.from_arrays([names, patient])
    code, known = pairs.factorize()
    return np.array([pseudonym(" of ".join(pair), key, "study") for pair in known] or [""], object)[
        code
    ]


def _like(values, column):
    return pd.array(values, dtype=column.dtype)
