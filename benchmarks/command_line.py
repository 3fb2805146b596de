"""What the benchmarks share: the repository's folder, the real data, the flags."""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REAL_DATA = Path(os.environ.get("ICH_REAL_DATA") or ROOT.parent / "shared/data")
REAL_SLICES = REAL_DATA / "rsna_mini.tar.xz"  # the mini competition: 350 real slices
RUN = (sys.executable, str(ROOT / "run.py"))  # the words that start the command line


def flag_parser(text, quick="a short run"):
    """Return an argparse parser that shows `text`, with the flag --quick."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def module_command(module, *words):
    """Return the words that start a module, such as `__spec__.name`, in a process of its own."""
    return [sys.executable, "-m", module, *map(str, words)]
