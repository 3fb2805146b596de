"""The settings of a CNN."""

import subprocess
import sys

import pytest

from ct.config import validate
from ct.errors import InputError
from stage1_cnn.config import CnnConfig

SMALL = {"name": "a", "backbone": "test_resnet"}


def test_the_config_needs_no_torch():
    code = (
        "import sys, stage1_cnn.config; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"windows": ["brian"]}, "did you mean 'brain'"),
        ({"windows": []}, "windows"),
        ({"windows": ["40/0"]}, "width above 0"),
        ({"name": "../a"}, "name"),
        ({"pretrained": 1}, "pretrained"),
        ({"batch": 1}, "batch"),
        ({"neighbors": 1}, "did you mean 'neighbours'"),
        ({"lr": float("nan")}, "lr"),
    ],
)
def test_wrong_values_are_refused_by_name(values, message):
    with pytest.raises(InputError, match=message):
        validate(CnnConfig, SMALL | values, "recipe.yaml")


def test_in_channels_counts_each_window_of_each_slice():
    assert CnnConfig(**SMALL).in_channels == 3
    assert CnnConfig(**SMALL, windows=("brain", "80/120"), neighbours=2).in_channels == 10


def test_pretrained_is_a_switch_or_a_path():
    assert CnnConfig(**SMALL, pretrained=True).pretrained is True
    assert CnnConfig(**SMALL, pretrained="w.pth").pretrained == "w.pth"
