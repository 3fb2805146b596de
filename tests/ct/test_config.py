"""Validated settings: what is refused, and the one line of the message."""

import pytest
from pydantic import Field, field_validator

from ct.config import Config, suggestion, validate
from ct.errors import InputError
from features.config import FeatureConfig
from stage2_stack.config import StackConfig


class Inner(Config):
    epochs: int = Field(5, ge=1)
    rate: float = 0.1


class Outer(Config):
    name: str
    inner: Inner = Inner()
    several: tuple[Inner, ...] = ()
    maybe: Inner | None = None

    @field_validator("name")
    @classmethod
    def _lower(cls, name):
        if name != name.lower():
            raise ValueError("Names are lower case")
        return name


def message(values, kind=Outer):
    with pytest.raises(InputError) as error:
        validate(kind, values, "r.yaml")
    text = str(error.value)
    assert "\n" not in text
    return text


def test_missing_settings_have_their_defaults():
    settings = validate(Outer, {"name": "a", "several": [{"epochs": 2}, {}]}, "r.yaml")
    assert settings == Outer(name="a", several=(Inner(epochs=2), Inner()))
    assert settings.inner.epochs == 5


def test_an_unknown_key_gets_a_suggestion():
    assert message({"name": "a", "nmae": "b"}) == "r.yaml: unknown key 'nmae', did you mean 'name'?"
    assert (
        message({"name": "a", "inner": {"ephocs": 1}})
        == "r.yaml: unknown key 'inner.ephocs', did you mean 'epochs'?"
    )
    assert "'several.1.rat', did you mean 'rate'?" in message(
        {"name": "a", "several": [{}, {"rat": 1}]}
    )
    assert "'maybe.epoch', did you mean 'epochs'?" in message({"name": "a", "maybe": {"epoch": 1}})
    assert message({"name": "a", "zzz": 1}).endswith(
        "unknown key 'zzz'; known names: inner, maybe, name, several"
    )


def test_missing_and_wrong_values_are_named():
    assert message({}) == "r.yaml: 'name' is missing"
    assert message({"name": "a", "inner": {"epochs": 0}}).startswith(
        "r.yaml: inner.epochs = 0: input should be greater"
    )
    assert message({"name": "a", "inner": {"epochs": "many"}}).startswith(
        "r.yaml: inner.epochs = 'many': "
    )
    assert message({"name": "a", "inner": {"epochs": 1.5}}).startswith(
        "r.yaml: inner.epochs = 1.5: "
    )
    assert message({"name": "A"}) == "r.yaml: name = 'A': names are lower case"


def test_the_message_is_short():
    assert message({"name": "a", "inner": list(range(500))}).startswith(
        "r.yaml: inner = [0, 1, 2, 3, "
    )
    assert len(message({"name": "a", "inner": list(range(500))})) < 200
    assert message({"name": None}) == "r.yaml: input should be a valid string"
    with pytest.raises(InputError, match="^r.yaml: name = None: input"):
        validate(Outer, {"name": None}, "r.yaml", strict=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(value):
    assert "inner.rate" in message({"name": "a", "inner": {"rate": value}})


def test_settings_are_frozen():
    config = Inner()
    with pytest.raises(ValueError, match="frozen"):
        config.epochs = 3


def test_a_misspelt_name_gets_the_nearest_as_a_suggestion():
    assert suggestion("trian", ["train", "tune"]) == ", did you mean 'train'?"
    assert suggestion("xyz", ["train", "tune"]) == "; known names: train, tune"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (FeatureConfig, {"reach": -1}),
        (FeatureConfig, {"smooth_mm": [0.0]}),  # would divide by it
        (FeatureConfig, {"smooth_mm": [5, -3]}),
        (FeatureConfig, {"clip": 0}),
        (FeatureConfig, {"clip": 0.5}),
        (StackConfig, {"trials": 0}),
        (StackConfig, {"max_rounds": 0}),
        (StackConfig, {"positive_patients": 0}),
        (StackConfig, {"threads": 0}),
    ],
)
def test_settings_outside_their_range_are_refused(kind, values):
    assert next(iter(values)) in message(values, kind)


def test_settings_of_stage_two_have_defaults():
    assert FeatureConfig().clip == 1e-5
    assert FeatureConfig(smooth_mm=(5,)).smooth_mm == (5.0,)
    assert StackConfig().positive_patients == 3
