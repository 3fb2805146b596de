"""One module per kind of input that `benchmarks.fuzz` spoils, and what spoils it."""

import sys

from benchmarks.command_line import ROOT

sys.path.append(str(ROOT / "tests"))  # the tests' small DICOM files and kept runs are the seeds
