"""Files of weights as trainers and downloads leave them: found, or refused in one line."""

import argparse

import pytest
import timm
import torch
from safetensors.torch import save_file

from ct.errors import InputError
from stage1_cnn.backbones.weight_files import read_weights, without_prefix
from stage1_cnn.config import CnnConfig
from stage1_cnn.model import build_model, check_trainable


def config(path, **values):
    return CnnConfig(name="a", backbone="test_resnet", pretrained=str(path), threads=1, **values)


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(7)
    return timm.create_model("test_resnet").state_dict()


def prefixed(prefix, weights):
    return {prefix + name: value for name, value in weights.items()}


CHECKPOINTS = {
    "plain": lambda w: w,
    "DataParallel": lambda w: prefixed("module.", w),
    "Lightning": lambda w: {"state_dict": prefixed("model.", w), "epoch": 3, "hyper": {"lr": 0.1}},
    "compiled": lambda w: {"model": prefixed("_orig_mod.module.", w), "optimizer": {"state": {}}},
    "timm": lambda w: {"state_dict": w, "args": argparse.Namespace(lr=0.1)},
    "nested twice": lambda w: {"model": {"state_dict": prefixed("net.backbone.", w)}},
    "another name": lambda w: {"network": w, "step": torch.tensor(5)},
    "averaged first": lambda w: {"state_dict": {}, "state_dict_ema": w},
    "beside a head": lambda w: prefixed("encoder.", w) | {"projector.weight": torch.zeros(3, 3)},
    "half": lambda w: {name: value.half() for name, value in w.items()},
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_weights_are_found_in_what_trainers_save(tmp_path, weights, kind):
    torch.save(CHECKPOINTS[kind](weights), tmp_path / "w.ckpt")
    got = build_model(config(tmp_path / "w.ckpt"), seed=1).backbone.state_dict()
    names = [name for name in weights if not name.startswith("fc.")]
    tolerance = 1e-3 if kind == "half" else 0
    for name in names:
        torch.testing.assert_close(got[name], weights[name], rtol=tolerance, atol=tolerance)


def test_safetensors_are_known_by_what_is_in_them(tmp_path, weights):
    save_file(prefixed("module.", weights), tmp_path / "w.bin")
    assert set(read_weights(tmp_path / "w.bin")) == set(prefixed("module.", weights))
    build_model(config(tmp_path / "w.bin"), seed=1)


def refused(tmp_path, weights):
    """Write files that are no weights of test_resnet. Returns {name: part of the message}."""
    (tmp_path / "page.pth").write_text("\n<!DOCTYPE html><html>404</html>")
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256")
    (tmp_path / "text.pth").write_text('{"error": "not found"}')
    (tmp_path / "nothing.pth").write_bytes(b"")
    torch.save(weights, tmp_path / "cut.pth")
    content = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    save_file(weights, tmp_path / "cut.safetensors")
    content = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    both = prefixed("student.", weights) | prefixed("teacher.", weights)
    torch.save(both, tmp_path / "two.pth")
    torch.save({"student": weights, "teacher": weights}, tmp_path / "inner.pth")
    torch.save(list(weights.values()), tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "plain.pth")
    save_file({}, tmp_path / "empty.safetensors")
    other = timm.create_model("test_efficientnet").state_dict()
    torch.save({"state_dict": other}, tmp_path / "other.pth")
    wide = weights | {"layer1.0.conv2.weight": torch.zeros(9, 9, 3, 3)}
    torch.save(wide, tmp_path / "wide.pth")
    broken = {"layer2.0.conv1.weight": float("nan"), "layer1.0.bn1.running_var": float("inf")}
    for name, value in broken.items():
        bad = weights[name].clone()
        bad.view(-1)[-1] = value
        save_file(weights | {name: bad}, tmp_path / f"{name}.safetensors")
    return {
        "page.pth": "it is a web page; download the file itself",
        "pointer.pth": "git lfs pull",
        "text.pth": "it is neither a .safetensors file nor one that torch.save wrote",
        "nothing.pth": "it is neither",
        "cut.pth": "it is damaged",
        "cut.safetensors": "could not take",
        "empty.safetensors": "it holds no arrays",
        "two.pth": "it holds several sets of weights, as 'student.' and 'teacher.'",
        "inner.pth": "it holds several sets of weights, as 'student' and 'teacher'",
        "list.pth": "it holds a list instead of arrays with names",
        "plain.pth": "it is empty: it holds no arrays",
        "other.pth": r"test_resnet",
        "wide.pth": r"its array layer1.0.conv2.weight is \(9, 9, 3, 3\), that of the backbone \(",
    } | {
        f"{name}.safetensors": f"hold NaN or infinite values, first in its array {name}"
        for name in broken
    }


def test_others_are_refused_before_anything_is_read_in_one_short_line(tmp_path, weights, capfd):
    for name, message in refused(tmp_path, weights).items():
        with pytest.raises(InputError, match=message) as error:
            check_trainable(config(tmp_path / name), 32)
        line = str(error.value).replace(str(tmp_path), "")
        assert name in line and "\n" not in line and len(line) < 400, line
        assert "weights_only" not in line
    printed = capfd.readouterr()  # timm would list every array
    assert printed.err == printed.out == ""


def test_values_of_arrays_that_are_not_loaded_do_not_count(tmp_path, weights):
    unused = {"fc.bias": torch.full_like(weights["fc.bias"], torch.nan)}
    save_file(weights | unused, tmp_path / "w.safetensors")
    build_model(config(tmp_path / "w.safetensors"), seed=1)


def test_a_prefix_is_removed_only_where_it_is_beyond_doubt():
    names = ["stem.weight", "stem.bias", "fc.weight", "fc.bias"]
    ones = {name: torch.ones(1) for name in names}
    assert set(without_prefix(prefixed("a.b.", ones), names)) == set(names)
    # as many without: the names are timm's already
    both = ones | prefixed("ema.", ones)
    assert without_prefix(both, names) == both
    few = {"x.fc.weight": ones["fc.weight"], "conv1.weight": ones["stem.weight"]}
    assert without_prefix(few, names) == few
