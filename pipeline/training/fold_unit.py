"""What the units of one CNN and fold share: name, receipt, resources, whether they are done."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ct.run_dir import fold_folder
from pipeline.run_context import Run
from pipeline.training.unit_resources import cnn_resources, count_slices
from pipeline.units.unit import Resources, Unit


@dataclass(frozen=True)
class FoldUnit(Unit):
    """A unit of one CNN and fold, with its receipt in the folder of the fold."""

    stage: ClassVar[str]

    model: str
    fold: int
    read: dict[str, str]  # digests of files, by name

    @property
    def name(self) -> str:
        """Return "<stage>/<model>/fold<k>", or "<stage>/<model>/all"."""
        return f"{self.stage}/{self.model}/{fold_folder(self.fold)}"

    def takes(self) -> Resources:
        """Return a GPU, and on the CPU the threads that the recipe gives the CNN."""
        run = Run(self.root)
        config, size = run.recipe.stage1.model(self.model), run.recipe.pixels.size
        return cnn_resources(config, size, count_slices(run.dir))

    def why_not_done(self, verify: bool = False) -> str:
        """Return why the unit must run, or ""."""
        run = Run(self.root)
        return run.why_unit_is_stale(self.receipt(run), self.part(run), self.own_inputs(), verify)

    def receipt(self, run: Run) -> Path:
        """Return the path of the unit's receipt."""
        return run.dir.fold(self.model, self.fold) / f"{self.stage}.json"

    @abstractmethod
    def part(self, run: Run) -> dict[str, Any]:
        """Return the unit's part of the recipe."""

    @abstractmethod
    def own_inputs(self) -> dict[str, str]:
        """Return the digests of what this unit reads."""
