"""One label's inner cross-validation on one outer training set."""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ct.metrics import log_loss
from features.columns import scope_columns
from stage2_stack.config import StackConfig
from stage2_stack.learners.binned_features import BinnedFeatures
from stage2_stack.learners.lightgbm_booster import boosted_logit, fit_booster
from stage2_stack.patient_calibration import fit_calibration
from stage2_stack.tuning.search_space import split_scope

# most bytes of binned rows that one search holds, except where one split alone has more
MAX_BINNED_BYTES = 500_000_000
Datasets = dict[int, tuple[lgb.Dataset, lgb.Dataset]]  # number of a split -> (train, valid)


class InnerFolds:
    """The inner folds of one outer training set: evaluates configurations of a label's booster."""

    def __init__(
        self,
        features: BinnedFeatures,
        rows: NDArray[np.int_],
        y: NDArray[np.float64],
        inner: NDArray[Any],
        label: str,
        config: StackConfig,
        seed: int,
        clipped: bool = True,
        patients: NDArray[Any] | None = None,
    ) -> None:
        """features: of all rows.

        rows: int (n,), rising, the outer training set; y: (n,) 0 and 1; inner: (n,) folds;
        clipped: as in `fit_calibration`; patients: (n,) where config.calibrate_by is "patient"
        """
        self.features, self.rows, self.y, self.label = features, rows, y, label
        self.config, self.seed = config, seed
        # (rows that are fitted, held-out rows, starting logits of all rows) of each split
        self.splits: list[tuple[NDArray[np.int_], NDArray[np.int_], NDArray[np.float64]]] = []
        self.base = np.empty(len(y))  # calibrated stage one, out of fold
        self.datasets: dict[str, Datasets] = {}  # scope -> its Datasets
        raw = features.X[rows, features.names.index(label)]
        for j in np.unique(inner):
            fit, held_out = np.flatnonzero(inner != j), np.flatnonzero(inner == j)
            observed = None if patients is None else patients[fit]
            # cross-fitted, as the final one is
            base = fit_calibration(raw[fit], y[fit], observed, clipped).logit(raw)
            self.base[held_out] = base[held_out]
            self.splits.append((fit, held_out, base))

    def evaluate(
        self, params: dict[str, Any], report: Callable[[int, float], object] | None = None
    ) -> tuple[float, int]:
        """Return (loss, rounds): the smallest mean log loss over the rounds, and its round.

        report: called after each fold with its number from 1 and the loss so far minus that of the
        calibrated stage one
        """
        params, columns, datasets = self._open_scope(params)
        total, start, count = np.zeros(self.config.max_rounds), 0.0, 0
        for step, (_, held_out, _) in enumerate(self.splits, 1):
            train, valid = self._datasets_of_split(step - 1, columns, datasets)
            _, curves = fit_booster(
                train, params, self.config.max_rounds, self.seed, self.config.threads, [valid]
            )
            total, count = total + curves[0] * len(held_out), count + len(held_out)
            start += log_loss(self.y[held_out], expit(self.base[held_out])).sum()
            if report:
                report(step, float((total.min() - start) / count))
        return float(total.min() / count), int(np.argmin(total)) + 1

    def gain(self, params: dict[str, Any], rounds: int) -> NDArray[np.float64]:
        """Return each row's loss of the calibrated stage one minus that of the booster, (n,)."""
        params, columns, datasets = self._open_scope(params)
        boosted = np.empty(len(self.y))
        for number, (_, held_out, base) in enumerate(self.splits):
            train, _ = self._datasets_of_split(number, columns, datasets)
            booster, _ = fit_booster(train, params, rounds, self.seed, self.config.threads)
            boosted[held_out] = base[held_out] + self.features.apply_by_block(
                partial(boosted_logit, booster, base=0.0, threads=self.config.threads),
                columns,
                self.rows[held_out],
            )
        before, after = log_loss(self.y, expit(self.base)), log_loss(self.y, expit(boosted))
        return np.asarray(before - after)

    def _open_scope(
        self, params: dict[str, Any]
    ) -> tuple[dict[str, Any], NDArray[np.int_], Datasets]:
        """Return LightGBM's parameters, the columns in scope, and the Datasets made of them so far.

        Each split's Datasets are a copy of all binned rows. Those of other scopes are dropped where
        all together would exceed MAX_BINNED_BYTES, and with them the bins that they were copied
        from, where these are in files. With so many rows, making them again is quick compared with
        a fit.
        """
        params, scope = split_scope(params)
        columns = {
            each: scope_columns(self.features.names, self.label, each)
            for each in {*self.datasets, scope}
        }
        if self._bytes(*columns.values()) > MAX_BINNED_BYTES:
            self.datasets = {scope: self.datasets.get(scope, {})}
            if self.features.store:
                self.features.keep_only([columns[scope]])
        return params, columns[scope], self.datasets.setdefault(scope, {})

    def _bytes(self, *columns: NDArray[np.int_]) -> int:
        """Return the bytes of the Datasets of all splits, for some scopes' columns."""
        return len(self.splits) * len(self.rows) * sum(map(len, columns))

    def _datasets_of_split(
        self, number: int, columns: NDArray[np.int_], datasets: Datasets
    ) -> tuple[lgb.Dataset, lgb.Dataset]:
        """Return (train, valid) of one split, made where `datasets` has none yet.

        Those of other splits are dropped where one scope alone exceeds MAX_BINNED_BYTES.
        """
        if number not in datasets:
            if self._bytes(columns) > MAX_BINNED_BYTES:
                datasets.clear()
            fit, held_out, base = self.splits[number]
            train, valid = (
                self.features.dataset(columns, self.rows[part], self.y[part], base[part])
                for part in (fit, held_out)
            )
            datasets[number] = train, valid
        return datasets[number]
