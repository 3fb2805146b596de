"""Decide from slice positions whether several PatientIDs are several people or one person."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ct.checks.series_geometry import SPACING_TOLERANCE
from ct.slices import MIXED_DEG, POSITION, angles_deg, slice_normals

SEVERAL_PATIENTS, ONE_PATIENT, UNCLEAR = "several people", "one person", "unclear"
# Steps count as equal within this, or within the share SPACING_TOLERANCE: tags are rounded.
STEP_TOLERANCE_MM = 0.1
# In 6 % of the competition's series two stacks are interleaved, so that steps repeat after two or
# three slices.
LAGS = (1, 2, 3)
# Changes of the step that a regular series may have, whichever is larger; 98 % of the competition's
# series have no more.
CHANGES_PER_LAG, CHANGES_PER_SLICE = 2, 0.1
MAX_CHANGES = 2 / 3  # share of the steps of a short series; two slices have no steps to compare
MAX_POSITION_MM = 1e5  # no scanner has coordinates as large
HOLE_FACTOR = 1.5  # a step longer than the usual one by this factor: slices are missing
# One patient in this number may be irregular (one in 50 real series is) or lie apart.
OUTLIER_ONE_IN = 8

SliceRun = tuple[int, NDArray[np.intp]]  # a patient's number, and rows without a hole between them


def classify_slices(table: pd.DataFrame, patient: NDArray) -> str:
    """Return whether slices are of SEVERAL_PATIENTS, of ONE_PATIENT, or it is UNCLEAR.

    table: with POSITION (mm) and ORIENTATION, of one series or of one series of each patient;
    patient: (n,)

    SEVERAL_PATIENTS: the slices of each patient are a regular series (`is_regular`), and the ranges
    of their heights overlap, directly or through other patients. Together they do not make a series
    with fewer changes of the step, and no series continues where another ends: those would be of
    one person. One patient in OUTLIER_ONE_IN may be irregular or lie apart.

    ONE_PATIENT: all slices together are a regular series, and wherever the patient changes along
    the normal, the step in space equals the step before or after it.
    """
    position = table[list(POSITION)].to_numpy(np.float64)
    if not (np.abs(position) < MAX_POSITION_MM).all():
        return UNCLEAR
    normals = slice_normals(table)
    axis = normals.mean(axis=0)
    height = (position @ (axis / np.linalg.norm(axis))).round(3)
    order = np.argsort(height, kind="stable")
    position, normals, height = position[order], normals[order], height[order]
    patient = patient[order]
    parts = group_rows(patient, np.ones(len(patient), bool))
    one_series = is_regular(height) and _steps_fit(position, normals, patient)
    changes = sum(_step_changes(height[part]) for part in parts)
    better_as_one = one_series and _step_changes(height) < changes
    irregular = sum(not is_regular(height[part]) for part in parts)
    runs = _runs(height, parts)
    if (
        irregular <= len(parts) // OUTLIER_ONE_IN
        and not better_as_one
        and _all_overlap(height, runs)
        and not _one_continues(position, normals, runs)
    ):
        return SEVERAL_PATIENTS
    return ONE_PATIENT if one_series else UNCLEAR


def is_regular(height: NDArray[np.float64]) -> bool:
    """Return whether ascending heights (n,), mm, can be one series: nearly all steps are equal.

    Real series have gaps, half steps, slices at one position and interleaved stacks. So the step
    may change a few times, and may be taken over two or three slices.
    """
    for lag in LAGS:
        compared = len(height) - lag - 1
        allowed = max(CHANGES_PER_LAG * lag, CHANGES_PER_SLICE * len(height))
        if compared >= lag and _step_changes(height, lag) <= min(allowed, MAX_CHANGES * compared):
            return True
    return False


def group_rows(names: NDArray, mask: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Return the row numbers of each name among the rows of `mask`, in the order of the names."""
    rows = np.flatnonzero(mask)
    return [rows[group] for group in pd.Series(rows).groupby(names[rows]).indices.values()]


def _step_changes(height: NDArray[np.float64], lag: int = 1) -> int:
    """Return how many steps over `lag` slices differ from the one before."""
    step = height[lag:] - height[:-lag]
    return int((np.abs(np.diff(step)) > _tolerance(step[1:], step[:-1])).sum())


def _tolerance(one: ArrayLike, other: ArrayLike) -> NDArray[np.float64]:
    """Return the difference, mm, within which two steps count as equal."""
    return np.maximum(SPACING_TOLERANCE * np.maximum(one, other), STEP_TOLERANCE_MM)


def _runs(height: NDArray[np.float64], parts: list[NDArray[np.intp]]) -> list[SliceRun]:
    """Return each patient's rows, split where slices are missing."""
    runs: list[SliceRun] = []
    for number, part in enumerate(parts):
        step = np.diff(height[part])
        # a high quantile: of interleaved stacks, the longer of the two steps
        usual = np.quantile(step, 0.9, method="lower") if len(step) else 0.0
        holes = np.flatnonzero(step > HOLE_FACTOR * usual)
        runs += [(number, rows) for rows in np.split(part, holes + 1)]
    return runs


def _all_overlap(height: NDArray[np.float64], runs: list[SliceRun]) -> bool:
    """Return whether overlapping runs connect all patients, except one in OUTLIER_ONE_IN."""
    patient = np.array([number for number, _ in runs])
    low = np.array([height[rows[0]] for _, rows in runs])
    high = np.array([height[rows[-1]] for _, rows in runs])
    order = np.argsort(low, kind="stable")
    separate = low[order][1:] > np.maximum.accumulate(high[order])[:-1]
    cluster = np.concatenate([[0], np.cumsum(separate)])  # runs that overlap, one with the next
    # graph of patients and clusters: an edge for each run
    count = patient.max() + 1
    edges = coo_array(
        (np.ones(len(patient)), (patient[order], count + cluster)),
        shape=(count + cluster[-1] + 1,) * 2,
    )
    component = connected_components(edges, directed=False)[1][:count]
    return bool(count - np.bincount(component).max() <= count // OUTLIER_ONE_IN)


def _one_continues(
    position: NDArray[np.float64], normals: NDArray[np.float64], runs: list[SliceRun]
) -> bool:
    """Return whether one patient's run begins one step in space after another's ends.

    Both slices must have the same orientation.
    """
    patient = np.array([number for number, _ in runs])
    first = np.array([rows[0] for _, rows in runs])
    first_positions = cKDTree(position[first])
    for number, rows in runs:
        if len(rows) < 2:
            continue
        before, last = rows[-2:]
        step = position[last] - position[before]
        length = np.linalg.norm(step)
        radius = float(_tolerance(length, length))
        for run in first_positions.query_ball_point(position[last] + step, radius):
            turned = angles_deg(normals[first[run]], normals[last]) > MIXED_DEG
            if patient[run] != number and not turned:
                return True
    return False


def _steps_fit(
    position: NDArray[np.float64], normals: NDArray[np.float64], patient: NDArray
) -> bool:
    """Return whether each step from one patient to another equals the step before or after."""
    step = np.diff(position, axis=0)
    length = np.linalg.norm(step, axis=1)
    equal = np.linalg.norm(np.diff(step, axis=0), axis=1) <= _tolerance(length[1:], length[:-1])
    fits = np.append(False, equal) | np.append(equal, False)  # the step before, the step after
    turned = angles_deg(normals[1:], normals[:-1]) > MIXED_DEG
    change = patient[1:] != patient[:-1]
    return bool((fits & ~turned & (length > 2 * STEP_TOLERANCE_MM))[change].all())
