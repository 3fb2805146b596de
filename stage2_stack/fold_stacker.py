"""The stacker of one outer fold as it is stored: blends, calibrations and model files.

It predicts the test slices of a run, and slices that are scored later, by the same code.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ct.labels import LABELS, SUBTYPES
from stage2_stack.blending import Blend
from stage2_stack.calibration import Platt
from stage2_stack.components.component import Component, InferenceContext, load_component
from stage2_stack.config import StackConfig


class FoldStacker(NamedTuple):
    """The blends, calibrations and models of fold k's stacker."""

    fold: int
    blends: Mapping[str, Blend]  # label -> its blend
    calibrations: Mapping[str, Platt]  # label -> calibration of the CNNs' logit; models start there
    files: Mapping[str, bytes]  # name of a model's file -> its bytes; of all folds or this one
    config: StackConfig

    def predict(
        self, X: NDArray[np.float32], names: list[str], starts: NDArray[np.int_] | None = None
    ) -> NDArray[np.float64]:
        """Return the final probabilities (n, 6), columns LABELS.

        X: (n, f), the features from fold k's CNNs; names: f, of its columns; starts: (s,) first row
        of each series, for `gru`

        Raises KeyError where the file of a component with a weight is missing, and ValueError where
        one of its features is.
        """
        rows = InferenceContext(X, names, starts, self.calibrations, self.config.threads)
        joint_logits: dict[str, NDArray[np.float64]] = {}  # joint component -> (c, n), once
        for label in (*SUBTYPES, "any"):  # a component of `any` reads the finished subtypes
            blend, logits = self.blends[label], {}
            for name in blend.weights:
                component = load_component(name)
                if not component.joint:
                    logits[name] = self._predict(component, rows, label)[0]
                    continue
                if name not in joint_logits:
                    joint_logits[name] = self._predict(component, rows, label)
                logits[name] = joint_logits[name][component.labels.index(label)]
            rows.finished[label] = expit(blend.logit(logits))
        final = np.column_stack([rows.finished[label] for label in LABELS])
        if self.config.any_at_least_largest:
            final[:, 0] = final.max(axis=1)
        return final

    def _predict(
        self, component: Component, rows: InferenceContext, label: str
    ) -> NDArray[np.float64]:
        """Return the logits (c, n) of a label, or of all labels of a joint component."""
        files = component.file_names(label, self.fold, self.config.seeds)
        models = [component.load(self.files[name]) for name in files]
        return component.predict(rows, models, component.labels if component.joint else [label])
