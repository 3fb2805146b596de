"""`score`'s mean of the CNNs is the one that stage two reads."""

from types import SimpleNamespace

import numpy as np
from scipy.special import expit
from tiny_tables import slice_table

from ct.labels import LABELS
from features.build import feature_names
from features.config import FeatureConfig
from pipeline.scoring import slice_scores

COLUMNS = list(LABELS)


def test_the_mean_of_the_cnns_has_the_weights_of_stage_two(monkeypatch):
    """A new patient has those of all folds, one of fold 1 those without fold 1.

    A stacker that returns the weighted mean of its features predicts the same.
    """
    slices = slice_table(("test", 0, [0, 5, 10]), ("test", 1, [0, 5]), competition=False)
    slices = slices.assign(fold=[-1] * 3 + [1] * 2, readable=True)
    rng = np.random.default_rng(0)
    per_fold = [
        ({name: rng.normal(-1, 2, (5, 6)).astype(np.float32) for name in "ab"}, {})
        for _ in range(2)
    ]
    weights = np.zeros((3, 2, 6))
    weights[:, 0] = [[0.2], [0.6], [0.9]]
    weights[:, 1] = 1 - weights[:, 0]
    config = FeatureConfig(reach=0)
    model = SimpleNamespace(
        recipe=SimpleNamespace(features=config),
        stage2={"names": feature_names(["a", "b"], config), "training": {}},
        cnn_weights=lambda: weights,
        stacker=lambda k: SimpleNamespace(predict=lambda X, names, starts: expit(X[:, :6])),
    )
    monkeypatch.setattr(slice_scores, "predict_per_fold", lambda *_: per_fold)
    final, stage_one = slice_scores.score_slices(model, slices, None, None, None)

    of_all = [expit(0.9 * logits["a"] + 0.1 * logits["b"]) for logits, _ in per_fold]
    own = expit(0.6 * per_fold[1][0]["a"] + 0.4 * per_fold[1][0]["b"])
    np.testing.assert_allclose(stage_one[COLUMNS][:3], np.mean(of_all, axis=0)[:3], rtol=1e-5)
    np.testing.assert_allclose(stage_one[COLUMNS][3:], own[3:], rtol=1e-5)
    np.testing.assert_allclose(stage_one[COLUMNS], final[COLUMNS], rtol=1e-5)
