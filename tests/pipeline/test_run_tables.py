"""Fold routing of test predictions."""

import numpy as np

from pipeline.stage_data.run_tables import route


def test_route_takes_the_mean_but_a_known_patients_own_fold():
    per_fold = np.arange(3 * 4 * 6, dtype=float).reshape(3, 4, 6)
    final = route(per_fold, np.array([-1, 2, -1, 0]))
    np.testing.assert_array_equal(final[0], per_fold[:, 0].mean(axis=0))
    np.testing.assert_array_equal(final[1], per_fold[2, 1])
    np.testing.assert_array_equal(final[2], per_fold[:, 2].mean(axis=0))
    np.testing.assert_array_equal(final[3], per_fold[0, 3])
