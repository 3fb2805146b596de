"""Component `gru`: a recurrent network that reads whole series, for all labels together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from ct.errors import printable
from ct.labels import LABELS
from ct.seeds import derive_seed
from features.columns import slice_columns
from stage2_stack.calibration import Platt
from stage2_stack.components.component import Component, InferenceContext
from stage2_stack.learners.gru_network import GRU, Series, weight_shapes
from stage2_stack.learners.learner import Floats, Ints, Values
from stage2_stack.learners.model_input import ModelInput
from stage2_stack.learners.nested_fit import FitSettings, fit_nested
from stage2_stack.nested_cv import FittedComponent
from stage2_stack.stack_context import StackContext

PARAMS = {  # not tuned: small enough for some hundred positive patients
    "hidden": 32,
    "dropout": 0.2,
    "learning_rate": 3e-3,
    "weight_decay": 0.01,
    "batch": 16,  # series a step
    "average": 0.98,  # of the weights, from step to step
}
EPOCHS = 12  # the most that are tried; their number is chosen on the nested rows


class SeriesInput(ModelInput):
    """The slices of whole series, in their order, for all LABELS."""

    learner: GRU

    def __init__(
        self,
        X: Values,
        names: Sequence[str],
        starts: Ints,
        cnn_logits: NDArray[Any],
        y: Floats | None,
        threads: int,
    ) -> None:
        """X: (n, f) float32, columns `names`; starts: int (s,), rising, first row of each series.

        cnn_logits, y: (6, n) as in ModelInput; threads: of torch
        """
        super().__init__(cnn_logits, y, GRU())
        of_labels, place = slice_columns(names)
        self.x, self.kinds = X[:, [*of_labels.ravel(), *place]], of_labels.shape[1]
        self.starts, self.lengths = starts, np.diff(np.append(starts, len(X)))
        self.threads = threads

    def training_data(self, platts: Sequence[Platt], rows: Ints) -> Series:
        """Return the Series of some labelled rows, rising.

        Their other slices are read, but the loss leaves them out.
        """
        return self.series(rows, self.labels()[:, rows].T, self.starting_logits(platts, rows).T)

    def predict(
        self, models: Sequence[Any], platts: Sequence[Platt], rows: Ints, rounds: int | None = None
    ) -> Floats:
        """Return the logits (6, m) of some rows, rising, mean over models.

        rounds: epochs; None: all
        """
        base = self.starting_logits(platts, rows)
        series = self.series(rows, None, base.T)
        added = [self.learner.added_logits(model, series, self.threads, rounds) for model in models]
        return base + np.mean(added, axis=0).T

    def contributions(self, models: Sequence[Any], rows: Ints) -> None:
        """Return None: a network's contributions take many passes."""

    def series(self, rows: Ints, y: Floats | None, base: Floats | None) -> Series:
        """Return the Series of some rows, rising, with their labels and starting logits (m, 6)."""
        chosen = np.unique(np.searchsorted(self.starts, rows, side="right") - 1)
        step = np.arange(self.lengths[chosen].max(initial=0))
        inside = step < self.lengths[chosen, None]
        at = np.where(inside, self.starts[chosen, None] + step, -1)
        use = np.zeros(len(self.x) + 1, bool)  # the last entry is for -1
        use[rows] = True
        return Series(self.x, self.kinds, at, use[at], y, base)


class SeriesGRU(Component):
    """The recurrent network with fixed settings; the epochs are chosen on the nested rows."""

    title = "GRU over the series"
    tuned_on = "epochs on the other folds' nested predictions"
    labels, joint = LABELS, True
    learner = GRU()

    def fit(self, context: StackContext, labels: Sequence[str]) -> dict[str, FittedComponent]:
        """Fit the networks of all labels. Raises ValueError without the series' starts."""
        data = context.data
        if data.starts is None or data.test_starts is None:
            raise ValueError(
                "the component gru reads series: give StackData their starts and test_starts"
            )
        usable = context.usable_folds(labels)
        if not any(usable):
            return {}
        y = np.stack([context.targets(label) for label in labels])
        cnn_logits, threads = context.cnn_logits(labels), context.config.threads
        source = SeriesInput(data.X, data.names, data.starts, cnn_logits, y, threads)
        settings = FitSettings(PARAMS, max_rounds=EPOCHS)
        fitted = fit_nested(
            context.folds,
            [source] * len(usable),
            [settings if use else None for use in usable],
            context.config,
            derive_seed(context.seed, self.name),
            context.side_by_side,
        )
        return dict(zip(labels, fitted, strict=True))

    def predict(
        self, rows: InferenceContext, models: Sequence[Any], labels: Sequence[str]
    ) -> Floats:
        """Return the logits of all labels, (6, n). Raises ValueError without the series' starts."""
        if rows.starts is None:
            raise ValueError("the component gru reads series: give the rows' starts")
        cnn_logits = rows.cnn_logits(labels)
        source = SeriesInput(rows.X, rows.names, rows.starts, cnn_logits, None, rows.threads)
        platts = [rows.calibrations[label] for label in labels]
        return source.predict(models, platts, np.arange(len(rows.X)))

    def check_file(self, raw: bytes, names: list[str]) -> None:
        """Raise ValueError where bytes are no weights of the network on these features."""
        try:
            arrays = load_arrays(raw)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"it is no safetensors file ({printable(error)})") from None
        of_labels, place = slice_columns(names)
        hidden = arrays["enter.bias"].size if "enter.bias" in arrays else 0
        shapes = weight_shapes(of_labels.shape[1], len(place), hidden)
        if {name: array.shape for name, array in arrays.items()} != shapes:
            raise ValueError(
                "its arrays have other names or shapes than those of the network on these features"
            )
        if not all(
            array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values()
        ):
            raise ValueError("its weights are not all finite float32 numbers")
