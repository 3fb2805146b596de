"""Small runs of synthetic slices for the checks of a GPU."""

import contextlib
import io
import json
from pathlib import Path

import run as command_line
from ct.synthetic.example_competition import write_competition
from pipeline.progress import no_bar
from pipeline.run_context import Run
from pipeline.training.stage_one_inputs import StageOneInputs

SIZE = 64  # px of the slices and of the pixel cache
BACKBONE = "test_resnet"  # of timm: tiny, with batch norm
# one CNN that is repeatable to the bit on CUDA, after one that is not
MIXED = f"""name: gpu
folds: {{k: 2}}
pixels: {{size: {SIZE}}}
stage1:
  models:
    - &small
      name: free
      backbone: {BACKBONE}
      epochs: 4
      batch: 8
      lr: 0.003
      threads: 1
      deterministic: false
    - {{<<: *small, name: strict, deterministic: true, ema: 0.9, hu_noise: 3, neighbours: 1,
       mixup: 0.2, tta: [flip]}}
features: {{reach: 1, smooth_mm: [5]}}
stage2: {{components: [raw, lightgbm], trials: 2, max_rounds: 10, positive_patients: 2,
  confidence: 0}}
"""


def verb(*words: object) -> str:
    """Run a verb in this process. Returns what it printed; raises AssertionError where it fails."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = command_line.main([str(word) for word in words])
    text = printed.getvalue()
    assert status == 0, f"{words[0]} ended with {status}: {(text.splitlines() or [''])[-1]}"
    return text


def new_run(folder: Path, recipe: str = MIXED) -> Path:
    """Make data and a run of them before its first training. Returns the run folder."""
    data, run = folder / "data", folder / "run"
    write_competition(data, studies=12, seed=6, size=SIZE, slices=(6, 8))
    (folder / "gpu.yaml").write_text(recipe, encoding="utf-8")
    verb("new", f"--run={run}", f"--recipe={folder / 'gpu.yaml'}", f"--data={data}")
    verb("ingest", f"--run={run}", "--workers=1")
    verb("folds", f"--run={run}")
    return run


def inputs_of(run: Path) -> StageOneInputs:
    """Return what trainings read."""
    return StageOneInputs(Run(run, log=lambda line: None, bar=no_bar))


def fold_folder(run: Path, name: str, fold: int = 0) -> Path:
    """Return the folder of one CNN and fold."""
    return Run(run).dir.fold(name, fold)


def receipt(run: Path, name: str, fold: int = 0) -> dict:
    """Return the receipt of the training of one CNN and fold."""
    path = fold_folder(run, name, fold) / "train.json"
    return json.loads(path.read_text(encoding="utf-8"))
