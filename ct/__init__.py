"""What a slice, a label, a fold, a score and a run folder are. Knows neither torch nor lightgbm."""

import sys

# Python 2's: gdcm asks for them, and would take any folder of that name on the path for one
for _name in ("dl", "DLFCN"):
    sys.modules.setdefault(_name, None)
