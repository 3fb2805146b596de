"""HU windows."""

import numpy as np
import pytest

from ct.errors import InputError
from ct.windows import WINDOWS, apply_window, window_bounds


@pytest.mark.parametrize(
    ("spec", "bounds"),
    [
        ("brain", (0, 80)),
        ("subdural", (-20, 180)),
        ("soft", (-150, 230)),
        ("bone", (-800, 2000)),
        ("40/80", (0, 80)),
        ("-30.5/5", (-33, -28)),
    ],
)
def test_bounds_of_a_window(spec, bounds):
    assert window_bounds(spec) == bounds


@pytest.mark.parametrize(
    "spec", ["brian", "40", "40/", "/80", "a/b", "40/0", "40/-80", "nan/80", "40/inf", "1/2/3", ""]
)
def test_other_text_than_a_window_is_refused(spec):
    with pytest.raises(InputError) as error:
        window_bounds(spec)
    assert repr(spec) in str(error.value) and "\n" not in str(error.value)


def test_a_misspelt_name_gets_the_nearest_as_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'brain'"):
        window_bounds("brian")


def test_windowed_values_by_hand():
    hu = np.array([-1000, -20, 80, 130, 180, 3071])
    np.testing.assert_allclose(
        apply_window(hu, *window_bounds("subdural")), [0, 0, 0.5, 0.75, 1, 1]
    )


def test_floats_keep_their_type():
    assert apply_window(np.zeros(3, np.float32), -20, 180).dtype == np.float32


def test_torch_and_numpy_agree():
    torch = pytest.importorskip("torch")
    hu = np.arange(-1100, 3000, 7, dtype=np.float32)
    for spec in WINDOWS:
        bounds = window_bounds(spec)
        tensor = apply_window(torch.from_numpy(hu), *bounds)
        assert tensor.dtype == torch.float32
        np.testing.assert_allclose(tensor.numpy(), apply_window(hu, *bounds), atol=1e-7)
    assert apply_window(torch.zeros(2, dtype=torch.int16), -40, 40).tolist() == [0.5, 0.5]
