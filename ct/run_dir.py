"""The layout of a run folder: the path of each file in it. No other module spells these paths.

    recipe.yaml                              the resolved recipe
    key                                      the key of the pseudonyms, never exported
    slices.parquet  quarantine.csv
    ingest.json  pixels/                     ingest
    series.csv                               ingest: of the user's own data, which series are read
    given_folds.parquet                      ingest: folds of a slice list with a fold column
    folds.parquet                            folds
    stage1/<model>/fold<k>/                  train; predict adds test.parquet
    stage1/<model>/oof.parquet               train
    stage1/<model>/all/                      train, with stage1.all_data; the distilled CNN
    stage1/<model>/explain/<study>.json
    stage1/<model>/explain/<study>.npy       explain
    imports/<name>/                          import-predictions
    imports/folds.parquet                    import-predictions: the folds of the first import
    stage2/probes/<model>-fold<k>.safetensors
    stage2/features/                         features
    stage2/configs.json, trials.parquet,
    stage2/tuning.json, stage2/tune/         tune
    stage2/binned/                           tune, stack: bins of the features, until stack is done
    stage2/fits/                             stack: components that are fitted, one or all labels
    stage2/boosters/, oof.parquet,
    stage2/test.parquet, scores.json         stack
    submission.csv                           submit
    report.html  studies/<study>.html        report, report --study
    search/<model>-fold<k>.journal           search
    receipts/<stage>.json                    what a stage read and wrote, and its part of the recipe
    locks/                                   locks and progress of units while they run
    ingest.part/                             unfinished work of an interrupted ingest

File formats are in ct/storage/file_formats.py; writes are atomic (ct/storage/atomic_write.py).
"""

from pathlib import Path

ALL_DATA = -1  # in place of a fold: the CNN that is trained on the slices of all folds
ALL_FOLDS = "of all folds"  # in place of a fold, in files of parameters: the fit on all of them
HELD_OUT_TABLE = "held_out.parquet"  # of one CNN and fold: its predictions of the slices without it
TEST_TABLE = "test.parquet"  # of one CNN and fold: its predictions of the test slices
MODEL_NAME = r"^[A-Za-z0-9_-]+$"  # a model's name is also the name of a folder


def fit_names(k_folds: int) -> list[str]:
    """Return the names of the K + 1 fits in the files of parameters: without a fold, of all."""
    return [*(f"without fold {k}" for k in range(k_folds)), ALL_FOLDS]


def seed_names(model: str, seeds: int) -> list[str]:
    """Return the names of a CNN's fits that differ in their seed; the first has the CNN's name."""
    return [model, *(f"{model}.seed{seed}" for seed in range(1, seeds))]


def fold_folder(k: int) -> str:
    """Return the name of a fold's folder, "fold<k>", or "all" for ALL_DATA."""
    return "all" if k == ALL_DATA else f"fold{k}"


def fold_title(k: int) -> str:
    """Return a fold in words, "fold <k>", or "all data" for ALL_DATA."""
    return "all data" if k == ALL_DATA else f"fold {k}"


class RunDir:
    """The paths of one run folder."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.recipe = self.root / "recipe.yaml"
        self.key = self.root / "key"
        self.slices = self.root / "slices.parquet"
        self.quarantine = self.root / "quarantine.csv"
        self.ingest = self.root / "ingest.json"
        self.series = self.root / "series.csv"
        self.pixels = self.root / "pixels"
        self.ingest_work = self.root / "ingest.part"
        self.folds = self.root / "folds.parquet"
        self.listed_folds = self.root / "given_folds.parquet"
        self.imports = self.root / "imports"
        self.imported_folds = self.imports / "folds.parquet"
        self.stage1 = self.root / "stage1"
        self.stage2 = self.root / "stage2"
        self.binned = self.stage2 / "binned"
        self.fits = self.stage2 / "fits"
        self.probes = self.stage2 / "features" / "probes.safetensors"
        self.markov_chains = self.stage2 / "features" / "chain.json"
        self.cnn_weights = self.stage2 / "features" / "cnn_weights.json"
        # (fold, part) of each training patient; older runs lack the file
        self.patient_parts = self.stage2 / "features" / "parts.parquet"
        self.submission = self.root / "submission.csv"
        self.stage_one_submission = self.root / "submission-stage-one.csv"
        self.report = self.root / "report.html"

    def receipt(self, stage: str) -> Path:
        """Return the path of a stage's receipt."""
        return self.root / "receipts" / f"{stage}.json"

    def fold(self, model: str, k: int) -> Path:
        """Return the folder of one CNN and fold, or of ALL_DATA."""
        return self.stage1 / model / fold_folder(k)

    def oof(self, model: str) -> Path:
        """Return the path of a CNN's out-of-fold logits, (n, 6) indexed by slice id."""
        return self.stage1 / model / "oof.parquet"

    def probe(self, model: str, k: int) -> Path:
        """Return the path of the linear probes of one CNN and fold, and of their logits."""
        return self.stage2 / "probes" / f"{model}-fold{k}.safetensors"

    def gradcam_folder(self, model: str) -> Path:
        """Return the folder of a CNN's Grad-CAM maps."""
        return self.stage1 / model / "explain"

    def gradcam_maps(self, model: str, study: str) -> tuple[Path, Path]:
        """Return the paths of a CNN's Grad-CAM maps of a study: description (.json), maps (.npy).

        The description is written last.
        """
        folder = self.gradcam_folder(model)
        return folder / f"{study}.json", folder / f"{study}.npy"

    def study_page(self, study: str) -> Path:
        """Return the path of the report page of one study."""
        return self.root / "studies" / f"{study}.html"

    def imported(self, name: str) -> Path:
        """Return the folder of an imported model."""
        return self.imports / name

    def imported_oof(self, name: str) -> Path:
        """Return the path of an imported model's out-of-fold probabilities, (n, 6) by slice id."""
        return self.imported(name) / "oof.parquet"

    def imported_test_paths(self, name: str, count: int) -> list[Path]:
        """Return the paths of an imported model's `count` tables of test probabilities.

        One table per fold, or, where `count` is 1, one table for all folds.
        """
        names = ["test.parquet"] if count == 1 else [f"test-fold{k}.parquet" for k in range(count)]
        return [self.imported(name) / file for file in names]

    def imported_test_path(self, name: str, k: int) -> Path:
        """Return the path of the imported test probabilities that fold `k`'s stacker reads."""
        shared = self.imported(name) / "test.parquet"
        return shared if shared.exists() else self.imported(name) / f"test-fold{k}.parquet"

    def imported_notes(self, name: str) -> Path:
        """Return the path of the notes on an imported model: its tables and their scores."""
        return self.imported(name) / "import.json"

    def search(self, model: str, k: int) -> Path:
        """Return the folder of the search for a CNN's settings without fold `k`.

        The search's journal is the file beside it that ends in .journal.
        """
        return self.root / "search" / f"{model}-fold{k}"
