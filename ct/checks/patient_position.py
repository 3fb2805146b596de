"""How the patient lay in the scanner, and how the slices of a series are stored."""

import pandas as pd

from ct.checks.head_ct import Remark

# PatientPosition (PS3.3 section C.7.3.1.1.2): the last letters -> how the patient lay
LYING = {
    "P": ("prone", "blood and fluid settle towards the face"),
    "DL": ("on the left side", "blood and fluid settle to the left"),
    "DR": ("on the right side", "blood and fluid settle to the right"),
}
TURNED = "they are turned as ImageOrientationPatient says; it must be right"


def position_remarks(acquisition: pd.DataFrame) -> list[Remark]:
    """Return the Remarks on a patient who lay in an unusual way, and on pixels that are turned.

    acquisition: the rows of one series as returned by read_acquisition

    They refuse nothing: ImageOrientationPatient says where left and back are, in any position.
    """
    remarks = []
    for position in sorted(set(acquisition["position"])):
        if position[2:] in LYING:
            words, means = LYING[position[2:]]
            what = f"the patient lay {words} (PatientPosition {position})"
            remarks.append(Remark(False, what, f"{means}; training patients lay on their backs"))
        if position.startswith("FF"):
            what = f"the patient lay feet first (PatientPosition {position})"
            means = "left and back are read from ImageOrientationPatient, which may be wrong there"
            remarks.append(Remark(False, what, means))
    for stored in sorted(set(acquisition["stored"]) - {""}):
        remarks.append(Remark(False, f"the pixels are stored {stored}", TURNED))
    return remarks
