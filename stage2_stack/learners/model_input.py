"""The input of a model: rows, columns and the logits that it starts from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage2_stack.calibration import Platt
from stage2_stack.learners.binned_features import BinnedFeatures
from stage2_stack.learners.learner import Floats, Ints, Learner, TreeLearner, Values
from stage2_stack.patient_calibration import fit_calibration


class ModelInput(ABC):
    """The rows of c labels; a model starts from the calibrated CNN logits of each."""

    def __init__(self, cnn_logits: NDArray[Any], y: Floats | None, learner: Learner) -> None:
        """cnn_logits: (c, n) mean logits of the CNNs; y: (c, n) 0, 1, NaN; None to predict only."""
        self.cnn_logits, self.y, self.learner = cnn_logits, y, learner

    def calibrate(
        self, rows: Ints, patients: NDArray[Any] | None = None, clipped: bool = True
    ) -> list[Platt]:
        """Return the c calibrations of the CNN logits, fitted on some rows (m,).

        patients: (m,) of these rows, or None; clipped: as in `fit_calibration`
        """
        return [
            fit_calibration(logits[rows], y[rows], patients, clipped)
            for logits, y in zip(self.cnn_logits, self.labels(), strict=True)
        ]

    def labels(self) -> Floats:
        """Return the labels (c, n). Raises ValueError where there are none."""
        if self.y is None:
            raise ValueError("these rows have no labels: they can only be predicted")
        return self.y

    def starting_logits(self, platts: Sequence[Platt], rows: Ints) -> Floats:
        """Return the calibrated CNN logits (c, m) of some rows."""
        return np.stack(
            [
                platt.logit(logits[rows])
                for platt, logits in zip(platts, self.cnn_logits, strict=True)
            ]
        )

    @abstractmethod
    def training_data(self, platts: Sequence[Platt], rows: Ints) -> Any:
        """Return some labelled rows, rising, in the form that the learner fits or validates on."""

    @abstractmethod
    def predict(
        self, models: Sequence[Any], platts: Sequence[Platt], rows: Ints, rounds: int | None = None
    ) -> Floats:
        """Return the logits (c, m) of some rows, rising, mean over models.

        rounds: of each model; None: all
        """

    @abstractmethod
    def contributions(self, models: Sequence[Any], rows: Ints) -> Floats | None:
        """Return the mean absolute SHAP values of the mean model on some rows, (c, columns).

        None where the models have none.
        """


class TabularInput(ModelInput):
    """Columns of a matrix, the rows of c labels one label below the other."""

    learner: TreeLearner

    def __init__(
        self,
        features: BinnedFeatures,
        columns: Ints,
        cnn_logits: NDArray[Any],
        y: Floats | None,
        learner: TreeLearner,
    ) -> None:
        """features: c * n rows; columns: those that the model reads; the rest as in ModelInput."""
        super().__init__(cnn_logits, y, learner)
        self.features, self.columns = features, columns

    def training_data(self, platts: Sequence[Platt], rows: Ints) -> Any:
        """Return the learner's dataset of some labelled rows of every label."""
        y, base = self.labels()[:, rows].ravel(), self.starting_logits(platts, rows).ravel()
        return self.learner.dataset(self.features, self.columns, self._of_all_labels(rows), y, base)

    def predict(
        self, models: Sequence[Any], platts: Sequence[Platt], rows: Ints, rounds: int | None = None
    ) -> Floats:
        """Return the logits (c, m): the starting logits plus the models' mean added logits."""
        base, threads = self.starting_logits(platts, rows), self.features.threads

        def mean_of_models(values: Values) -> Floats:
            added = [self.learner.added_logits(each, values, threads, rounds) for each in models]
            return np.asarray(np.mean(added, axis=0))

        every = self._of_all_labels(rows)
        added = self.features.apply_by_block(mean_of_models, self.columns, every)
        return base + added.reshape(base.shape)

    def contributions(self, models: Sequence[Any], rows: Ints) -> Floats | None:
        """Return the mean absolute SHAP values (c, columns); None where a model has no tree."""
        values = self.features.values(self.columns, self._of_all_labels(rows))
        of_models = []
        for model in models:
            shap = self.learner.contributions(model, values, self.features.threads)
            if shap is None:
                return None
            of_models.append(shap)
        size = np.abs(np.mean(of_models, axis=0)).reshape(len(self.cnn_logits), len(rows), -1)
        return np.asarray(size.mean(axis=1))

    def _of_all_labels(self, rows: Ints) -> Ints:
        """Return the rows (c * m,) of all labels, one label below the other."""
        c, n = self.cnn_logits.shape
        return (rows + n * np.arange(c)[:, None]).ravel()
