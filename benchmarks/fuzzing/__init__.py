"""One module per kind of input of `benchmarks.fuzz`, and the damage that they share."""

import sys

from benchmarks.command_line import ROOT

sys.path.append(str(ROOT / "tests"))  # the tests' small DICOM files and kept runs are the seeds
