"""The verb `synth`: write an example competition."""

import time

from pipeline.checked_options import SynthOptions
from pipeline.progress import progress_bar


def synth(options: SynthOptions) -> None:
    """Write an example competition, and print how many slices it has, and how many positives."""
    from ct.synthetic.example_competition import write_competition

    start = time.perf_counter()
    with progress_bar(options.studies, "studies", "study") as bar:
        counts = write_competition(options.out, options.studies, options.seed, progress=bar.reach)
    train, test = counts["train_slices"], counts["test_slices"]
    positives = ", ".join(f"{label} {count}" for label, count in counts["positive_slices"].items())
    print(f"synth: {train} train and {test} test slices in {options.out}")
    print(f"  positive train slices: {positives}")
    print(f"  made in {time.perf_counter() - start:.1f} s")
