"""Slices, labels, folds, scores and the run folder. Imports neither torch nor lightgbm."""

import sys

# Python 2 modules that gdcm tries to import; a user's folder of that name would be imported instead
for _name in ("dl", "DLFCN"):
    sys.modules.setdefault(_name, None)  # type: ignore[arg-type]  # None blocks the import
