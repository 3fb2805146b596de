"""Sums and products of matrices have the same last bits whatever the number of threads."""

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from ct.system.blas_threads import one_blas_thread


def blas_threads():
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


def test_one_thread_in_the_block_and_as_many_as_before_after_it():
    with threadpool_limits(2, "blas"):
        assert blas_threads() == {2}
        with one_blas_thread():
            assert blas_threads() == {1}
            with one_blas_thread():
                assert blas_threads() == {1}
            assert blas_threads() == {1}
        assert blas_threads() == {2}


def test_the_last_bits_do_not_depend_on_the_threads_outside():
    x = np.random.default_rng(0).normal(size=(3000, 300)).astype(np.float32)

    def product(threads):
        with threadpool_limits(threads, "blas"), one_blas_thread():
            return x.T @ x

    np.testing.assert_array_equal(product(1), product(2))
