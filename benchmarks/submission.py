"""The competition's submission file: seconds to write and validate it, ten defects found.

python -m benchmarks.submission [--quick]      --quick: an eighth of the slices, the same bar
                                               per row
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.command_line import flag_parser
from ct.errors import InputError
from ct.labels import KAGGLE_ORDER, LABELS
from ct.submission import check_submission, fill_submission, read_sample, write_submission

SLICES, SECONDS = 121_232, 20.0


def main():
    options = flag_parser(__doc__)
    share = 1 / 8 if options.parse_args().quick else 1
    with tempfile.TemporaryDirectory(prefix="ich-submission-") as folder:
        missed = measure(Path(folder), int(SLICES * share), SECONDS * share)
    print("\n".join(missed) if missed else "every bar is met")
    return 1 if missed else 0


def measure(folder, slices, bar):
    """Print the table. Returns a line for each bar that is missed."""
    rng = np.random.default_rng(0)
    names = np.array(
        [f"ID_{number:09x}" for number in rng.choice(16**9, slices, replace=False).tolist()], object
    )
    rows = [f"{name}_{label}" for name in names for label in KAGGLE_ORDER]
    (folder / "sample.csv").write_text("ID,Label\n" + "".join(f"{row},0.5\n" for row in rows))
    probs = pd.DataFrame(
        rng.random((slices, len(LABELS))), index=rng.permutation(names), columns=list(LABELS)
    )
    print("step                                   seconds  message")
    seconds, written = {}, folder / "submission.csv"
    ids, slice_id, label = timed(
        seconds, "read the sample", lambda: read_sample(folder / "sample.csv")
    )
    values = timed(
        seconds, "fill in the probabilities", lambda: fill_submission(slice_id, label, probs)
    )
    timed(seconds, "write", lambda: write_submission(written, ids, values))
    timed(seconds, "read back and check", lambda: check_submission(written, ids))
    total = sum(seconds.values())
    print(f"{len(ids):,} rows{'':26} {total:8.2f}  the bar is {bar:g}", flush=True)
    missed = [f"{total:.1f} s, the bar is {bar:g}"] if total > bar else []
    text = written.read_bytes()
    for defect, (damage, named) in defects(rows).items():
        damaged = folder / "damaged.csv"
        damaged.write_bytes(damage(text))
        start, message = time.perf_counter(), "nothing"
        try:
            check_submission(damaged, ids)
        except InputError as error:
            message = str(error).replace(f"{folder}/", "")
        found = named in message
        print(f"  {defect:36} {time.perf_counter() - start:7.2f}  {message[:110]}", flush=True)
        missed += [] if found else [f"{defect}: {named!r} is not in {message!r}"]
    return missed


def timed(seconds, what, work):
    start = time.perf_counter()
    made = work()
    seconds[what] = time.perf_counter() - start
    print(f"  {what:36} {seconds[what]:7.2f}", flush=True)
    return made


def defects(rows):
    """Return {name: (function from the file's bytes to damaged bytes, text of the message)}.

    Each defect is somewhere in the middle.
    """
    at = len(rows) // 2 // 6 * 6 + 2  # of a slice's six rows the third
    row, after, stranger = rows[at], rows[at + 1], "ID_0123456789a_any"

    def lines(change):
        def damage(text):
            parts = text.splitlines(keepends=True)
            change(parts)
            return b"".join(parts)

        return damage

    def put(value):
        return lines(lambda parts: parts.__setitem__(at + 1, f"{row},{value}\n".encode()))

    def swap(parts):
        parts[at + 1], parts[at + 2] = parts[at + 2], parts[at + 1]

    wrong_id = f"{rows[at].rpartition('_')[0]}0_{row.rpartition('_')[2]}"
    return {
        "missing row": (
            lines(lambda parts: parts.pop(at + 1)),
            f"row {at + 1} is {after}, the sample has {row}",
        ),
        "duplicate row": (
            lines(lambda parts: parts.insert(at + 1, parts[at + 1])),
            f"row {at + 2} is {row}",
        ),
        "extra row at the end": (lambda text: text + f"{stranger},0.5\n".encode(), stranger),
        "swapped labels": (lines(swap), f"row {at + 1} is {after}, the sample has {row}"),
        "wrong order of the slices": (
            lines(lambda parts: parts.append(parts.pop(1))),
            f"row 1 is {rows[1]}",
        ),
        "wrong id": (
            lines(lambda parts: parts.__setitem__(at + 1, f"{wrong_id},0.5\n".encode())),
            wrong_id,
        ),
        "NaN": (put("nan"), f"{row} is 'nan'"),
        "exactly 0": (put("0.00000000"), f"{row} is '0.00000000'"),
        "above 1": (put("1.00000001"), f"{row} is '1.00000001'"),
        "no number": (put("half"), f"{row} is 'half'"),
        "a comma in a number": (put("0,5"), f"line {at + 2}, saw 3"),
        "wrong header": (
            lines(lambda parts: parts.__setitem__(0, b"ID,Probability\n")),
            "lacks the column Label",
        ),
        "cut off in the middle of a number": (
            lambda text: text[: text.index(f"{row},".encode()) + len(row) + 3],
            "rows, the sample",
        ),
        "cut off in the middle of an id": (
            lambda text: text[: text.index(f"{row},".encode()) + 8],
            f"the sample has {row}",
        ),
    }


if __name__ == "__main__":
    sys.exit(main())
