"""The registry: its names and order are part of recipes, stored models and blends."""

import importlib.util

import pytest

from ct.errors import InputError
from ct.labels import LABELS, SUBTYPES
from stage2_stack.components import COMPONENTS, DEFAULT, PACKAGES, REGISTRY, TUNED
from stage2_stack.components.component import load_component
from stage2_stack.components.label_booster import LabelBooster
from stage2_stack.config import StackConfig, check_installed

INSTALLED = [
    name for name in COMPONENTS if name not in PACKAGES or importlib.util.find_spec(PACKAGES[name])
]


def test_the_order_of_the_registry():
    """The order of a blend's components decides the last bits of its weights."""
    in_blends = "raw smooth chain lightgbm xgboost catboost gru pooled subtypes"
    assert [entry.name for entry in REGISTRY] == in_blends.split()
    assert DEFAULT == ("raw", "smooth", "chain", "lightgbm", "pooled", "subtypes")
    assert (*DEFAULT, "xgboost", "catboost", "gru") == COMPONENTS and TUNED == ("lightgbm",)
    assert StackConfig().components == DEFAULT


@pytest.mark.parametrize("name", INSTALLED)
def test_every_component_can_be_loaded(name):
    component = load_component(name)
    assert component.name == name and component.title and component.tuned_on
    files = component.file_names("subdural", 1, 2)
    assert len(files) == (2 if component.learner else 0)
    assert all(file.startswith(f"{name}-") and "-fold1-seed" in file for file in files)
    # a foreign file is tried in a child process, which needs the number of its columns
    assert component.foreign == (name in PACKAGES)
    assert isinstance(component, LabelBooster) or not component.foreign


def test_the_names_of_files():
    assert load_component("lightgbm").file_names("any", 0, 1) == ["lightgbm-any-fold0-seed0.txt"]
    assert load_component("pooled").file_names("subdural", 2, 1) == ["pooled-fold2-seed0.txt"]
    assert load_component("gru").file_names("any", 1, 1) == ["gru-fold1-seed0.safetensors"]
    assert load_component("raw").file_names("any", 0, 3) == []


def test_the_labels_that_a_component_can_predict():
    names = [*LABELS, "any_chain"]
    for name, labels in {
        "raw": LABELS,
        "lightgbm": LABELS,
        "gru": LABELS,
        "pooled": SUBTYPES,
        "subtypes": ("any",),
        "chain": ("any",),  # the others have no such feature
        "smooth": (),
    }.items():
        component = load_component(name)
        assert tuple(label for label in LABELS if component.can_predict(label, names)) == labels


def test_an_unknown_component_is_refused():
    with pytest.raises(ValueError, match="'oracle' is no component; the registry has raw, smooth"):
        load_component("oracle")


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("stage2_stack.config.find_spec", lambda name: None)
    assert StackConfig().components == DEFAULT and not {*DEFAULT} & {*PACKAGES, "gru"}
    check_installed(DEFAULT)
    for name in PACKAGES:
        with pytest.raises(
            InputError,
            match=rf"^stage2\.components: {name} is not installed: pip install -e '\.\[{name}\]'",
        ):
            check_installed((*DEFAULT, name))
