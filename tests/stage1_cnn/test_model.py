"""Backbones: outputs, initial weights, pretrained weights, and the messages of failures."""

import pickle

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from ct.errors import InputError
from ct.labels import LABELS
from stage1_cnn.backbones.timm_models import check_backbone
from stage1_cnn.config import CnnConfig
from stage1_cnn.model import build_model, load_model


def config(**values):
    """Return a small CnnConfig."""
    return CnnConfig(**({"name": "a", "backbone": "test_resnet", "threads": 1} | values))


@pytest.fixture(scope="module")
def weights():
    """Return the weights of a timm test_resnet of 1000 classes and 3 channels."""
    torch.manual_seed(7)
    return timm.create_model("test_resnet").state_dict()


FAMILIES = [
    "test_resnet",
    "test_efficientnet",
    "test_convnext",
    "test_vit",
    "mobilenetv3_small_050",
]


@pytest.mark.parametrize("backbone", FAMILIES)
def test_logits_are_those_of_the_whole_backbone_and_embed_them(backbone):
    model = build_model(config(backbone=backbone, neighbours=1, image_size=64), seed=1).eval()
    images = torch.randn(2, 9, 64, 64)
    with torch.inference_mode():
        logits, embedding = model(images)
        whole = model.backbone(images)
        again = model.backbone.get_classifier()(embedding)
    assert logits.shape == (2, len(LABELS))
    assert embedding.shape == (2, model.width)
    torch.testing.assert_close(logits, whole)
    torch.testing.assert_close(again, logits)


def test_the_seed_alone_decides_the_weights():
    first = build_model(config(), seed=1).state_dict()
    torch.randn(5)
    again = build_model(config(), seed=1).state_dict()
    other = build_model(config(), seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_building_keeps_the_state_of_torchs_global_generator():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    build_model(config(), seed=1)
    assert torch.equal(torch.rand(1), expected)


def test_the_last_bias_starts_at_the_prevalence():
    prevalence = np.array([0.144, 0.004, 0.05, 0.03, 0.05, 0.0])
    bias = build_model(config(), 1, prevalence).backbone.get_classifier().bias
    np.testing.assert_allclose(torch.sigmoid(bias).detach().numpy()[:5], prevalence[:5], rtol=1e-4)
    assert torch.isfinite(bias).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet10", "did you mean .*'resnet10t'"),
        ("qqqqqqqq", r"see timm\.list_models\(\)"),
        ("resnet10t.c4_in1k", "did you mean 'resnet10t.c3_in1k'"),
        ("hf-hub:someone/resnet", "no model"),
    ],
)
def test_an_unknown_backbone_is_refused_with_similar_names(name, message):
    with pytest.raises(InputError, match=message):
        check_backbone(name)
    with pytest.raises(InputError, match=message):
        build_model(config(backbone=name), seed=1)


def test_known_backbones_pass_with_and_without_a_tag():
    check_backbone("resnet10t")
    check_backbone("resnet10t.c3_in1k")


def test_a_backbone_of_fixed_size_needs_image_size():
    with pytest.raises(InputError, match="image_size"):
        build_model(config(backbone="test_vit"), seed=1)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_local_weights_are_adapted_to_the_channels(tmp_path, weights, suffix):
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": weights, "epoch": 3}, path)
    else:
        save_file(weights, path)
    model = build_model(config(pretrained=str(path), neighbours=1), seed=1)
    got = model.backbone.state_dict()
    changed = {name for name in weights if not torch.equal(got[name], weights[name])}
    assert changed == {"conv1.0.weight", "fc.weight", "fc.bias"}
    # the colours are repeated, and their sum stays
    stem = torch.cat([weights["conv1.0.weight"]] * 3, dim=1) / 3
    torch.testing.assert_close(got["conv1.0.weight"], stem)
    fresh = build_model(config(neighbours=1), seed=1).backbone
    assert got["fc.weight"].shape == (6, model.width)
    assert not torch.equal(
        got["layer1.0.conv1.weight"], fresh.state_dict()["layer1.0.conv1.weight"]
    )


def test_the_weights_of_a_fold_are_valid_local_weights(tmp_path):
    model = build_model(config(neighbours=1), seed=4)
    save_file(model.backbone.state_dict(), tmp_path / "w.safetensors")
    again = build_model(
        config(neighbours=1, pretrained=str(tmp_path / "w.safetensors")), seed=1
    ).backbone.state_dict()
    assert torch.equal(again["conv1.0.weight"], model.backbone.state_dict()["conv1.0.weight"])


class CodeInPickle:
    """Stands for code that a foreign .pth would run."""

    def __reduce__(self):
        return (pytest.fail, ("the file was unpickled",))


def test_files_that_do_not_fit_are_refused(tmp_path, weights):
    cases = {
        "absent.pth": "is not a file",
        "text.safetensors": "could not take",
        "other.safetensors": "could not take",
        "part.safetensors": "lack",
        "empty.pth": "it is empty",
        "code.pth": "Python objects other than arrays",
    }
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({name: torch.zeros(2) for name in weights}, tmp_path / "other.safetensors")
    save_file(
        {name: weights[name] for name in weights if "layer2" not in name},
        tmp_path / "part.safetensors",
    )
    torch.save({}, tmp_path / "empty.pth")
    torch.save({"fc.bias": CodeInPickle()}, tmp_path / "code.pth")
    for name, message in cases.items():
        with pytest.raises(InputError, match=message) as error:
            build_model(config(pretrained=str(tmp_path / name)), seed=1)
        assert "\n" not in str(error.value)
        assert name in str(error.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_is_not_executed(tmp_path):
    (tmp_path / "old.pth").write_bytes(pickle.dumps(CodeInPickle()))
    with pytest.raises(InputError, match="could not take"):
        build_model(config(pretrained=str(tmp_path / "old.pth")), seed=1)


FAILURES = [
    ConnectionError("no route to host\nsecond line"),
    OSError(),
    RuntimeError("No pretrained weights exist"),
]


@pytest.mark.parametrize("error", FAILURES)
def test_a_failed_download_names_the_remedy(monkeypatch, error):
    create = timm.create_model

    def offline(name, pretrained=False, **kwargs):
        if pretrained:
            raise error
        return create(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        InputError, match=r"pretrained: path/to/file\.safetensors.*pretrained: false"
    ) as caught:
        build_model(config(pretrained=True), seed=1)
    assert "\n" not in str(caught.value)


def test_load_model_downloads_nothing_and_is_strict(monkeypatch):
    state = build_model(config(), seed=5).backbone.state_dict()
    create = timm.create_model

    def watched(name, pretrained=False, **kwargs):
        assert not pretrained
        return create(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", watched)
    model = load_model(config(pretrained=True), state)
    assert not model.training
    assert all(
        torch.equal(value, state[name]) for name, value in model.backbone.state_dict().items()
    )
    with pytest.raises(RuntimeError, match="Missing key"):
        load_model(config(), {name: state[name] for name in state if name != "fc.bias"})
