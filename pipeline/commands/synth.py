"""The verb `synth`: write an example competition."""

import time

from pipeline.progress import progress_bar


def synth(options):
    """Write an example competition."""
    from ct.synthetic.example_competition import write_competition

    start = time.perf_counter()
    with progress_bar(options.studies, "studies", "study") as bar:
        made = write_competition(options.out, options.studies, options.seed, progress=bar.reach)
    positives = ", ".join(f"{label} {count}" for label, count in made["positive_slices"].items())
    print(
        f"synth: {made['train_slices']} train and {made['test_slices']} test slices in {options.out}"
    )
    print(f"  positive train slices: {positives}")
    print(f"  made in {time.perf_counter() - start:.1f} s")
