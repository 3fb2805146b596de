"""Runs of any size: the slices of a small example competition, repeated under new names."""

import contextlib
import io

import run as command_line
from ct.synthetic.example_competition import write_competition


def example_run(folder, recipe, damage=None, **competition):
    """Write an example competition to folder/"data", ingest it into folder/"base", return that.

    recipe: YAML; damage: called with the data's folder before ingest, if given; competition:
    the other arguments of `write_competition`
    """
    write_competition(folder / "data", seed=0, **competition)
    if damage:
        damage(folder / "data")
    (folder / "recipe.yaml").write_text(recipe)
    with contextlib.redirect_stdout(io.StringIO()):
        for words in (
            [
                "new",
                f"--run={folder / 'base'}",
                f"--recipe={folder / 'recipe.yaml'}",
                f"--data={folder / 'data'}",
            ],
            ["ingest", f"--run={folder / 'base'}", "--workers=1"],
        ):
            if command_line.main(words):
                raise SystemExit(f"{' '.join(words)} failed")
    return folder / "base"


def repeated(slices, index, rows, copy, first=0):
    """Return the slice table and the index of the pixel cache with rows of theirs repeated.

    rows: (n,) the row of each new slice; copy: (n,) which copy of its patient, study and series it
    belongs to; first: number of the first new slice, whose name it becomes. All copies of a slice
    point to the same pixels.
    """
    slices, index = slices.iloc[rows].copy(), index.iloc[rows].copy()
    for name in ("patient_id", "study_id", "series_id"):
        slices[name] = slices[name] + [f"{number:04x}" for number in copy]
    slices.index = index.index = [f"ID_{number:09x}" for number in range(first, first + len(rows))]
    slices.index.name = index.index.name = "slice_id"
    return slices, index
