"""The search space of a CNN's settings: choices or a range for each field. Needs no torch."""

import json
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    create_model,
    field_validator,
    model_serializer,
)

from ct.config import Config, validate
from ct.errors import InputError
from stage1_cnn.config import CnnConfig

_SOFT_LABELS = "a search trains on labelled slices alone"
_COMPUTATION = "it decides how a CNN is computed, not what it learns"
NOT_SEARCHED = {  # field -> reason
    "name": "it is only the CNN's name",
    "pretrained": "weights fit one backbone; give each its own entry in stage1.models",
    "seeds": "a trial trains one fit",
    "pseudo_from": _SOFT_LABELS,
    "pseudo_weight": _SOFT_LABELS,
    "threads": _COMPUTATION,
    "deterministic": _COMPUTATION,
    "precision": _COMPUTATION,
    "grad_checkpointing": _COMPUTATION,
    "compile": _COMPUTATION,
}


class Range(Config):
    """All numbers from `low` to `high`, both included; whole numbers where `low` is an int."""

    low: int | float
    high: int | float
    log: bool = False  # search the logarithm: 0.001 to 0.01 is as wide as 0.01 to 0.1

    @field_validator("high")
    @classmethod
    def _above_low(cls, high: int | float, info: ValidationInfo) -> int | float:
        if "low" in info.data and high <= info.data["low"]:
            raise ValueError(f"it must lie above low = {info.data['low']}")
        return high

    @field_validator("log")
    @classmethod
    def _positive_low(cls, log: bool, info: ValidationInfo) -> bool:
        if log and info.data.get("low", 1) <= 0:
            raise ValueError(f"there is no logarithm of low = {info.data['low']}; begin above 0")
        return log

    def __contains__(self, value: float | None) -> bool:
        return value is not None and self.low <= value <= self.high


Choices = tuple[Any, ...]  # plain values of a field


def check_domain(field: str, domain: Any) -> Range | Choices:
    """Return the domain of a field of CnnConfig: a Range, or a tuple of choices as plain values.

    domain: a list of choices, or a range as a dict. Raises InputError for a field that is not
    searched, with the reason, and for a value that CnnConfig refuses.
    """
    if field in NOT_SEARCHED:
        raise InputError(f"{field} is not searched: {NOT_SEARCHED[field]}")
    if isinstance(domain, dict):
        domain = validate(Range, domain, "its range", strict=True)
    if isinstance(domain, Range):
        low, high = _plain(field, domain.low, "low"), _plain(field, domain.high, "high")
        return Range(low=low, high=high, log=domain.log)
    if not isinstance(domain, list | tuple) or not domain:
        raise InputError(
            "give a list of choices, or {low: 1, high: 2}, with log: true where its order of "
            "magnitude counts"
        )
    choices: list[Any] = []
    for number, value in enumerate(domain, 1):
        choice = _plain(field, value, f"choice {number}")
        if choice in choices:
            raise InputError(f"the choice {choice!r} is there twice")
        choices.append(choice)
    return tuple(choices)


def _plain(field: str, value: Any, place: str) -> Any:
    """Return a value of a field as plain JSON. Raises InputError where CnnConfig refuses it.

    place: of the value in the domain, for the message
    """
    config = validate(
        CnnConfig, {"name": "any", "backbone": "any", field: value}, place, strict=True
    )
    return json.loads(config.model_dump_json(include={field}))[field]


class _Space(Config):
    """For each field of CnnConfig a Range, choices, or None: the recipe's value stays."""

    @field_validator("*", mode="before")
    @classmethod
    def _check_domain(cls, domain: Any, info: ValidationInfo) -> Range | Choices:
        try:
            return check_domain(str(info.field_name), domain)
        except InputError as error:
            raise ValueError(error) from None  # pydantic adds the place

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: domain for name, domain in handler(self).items() if domain is not None}


_FIELDS: dict[str, Any] = dict.fromkeys(CnnConfig.model_fields, (Any, None))
Space = create_model("Space", __base__=_Space, __doc__=_Space.__doc__, **_FIELDS)
DEFAULT = Space.model_validate(
    {
        "windows": [
            ["brain", "subdural", "bone"],
            ["brain", "subdural", "soft"],
            ["40/40", "80/120", "bone"],
        ],
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-3, "high": 0.2, "log": True},
        "dropout": {"low": 0.0, "high": 0.5},
        "mixup": {"low": 0.0, "high": 0.5},
        "rotate": {"low": 0.0, "high": 30.0},
        "scale": {"low": 0.0, "high": 0.3},
        "erase": {"low": 0.0, "high": 0.5},
    }
)


class SearchConfig(Config):
    """The search space of `search`. No stage depends on it."""

    # field of a CNN -> choices, or {low, high, log}; empty: DEFAULT of stage1_cnn/search_space.py
    space: Space = Field(Space())


def searched(config: SearchConfig) -> dict[str, Range | Choices]:
    """Return {field: its domain} of a SearchConfig, or of DEFAULT where it has none.

    The fields are in the order of CnnConfig.
    """
    own = {field: domain for field, domain in config.space if domain is not None}
    return own or {field: domain for field, domain in DEFAULT if domain is not None}


def rounded(domain: Range, value: float) -> float:
    """Round a number drawn from a Range to three digits inside it; whole numbers stay as is."""
    if isinstance(domain.low, int):
        return value
    return min(max(float(f"{value:.3g}"), domain.low), domain.high)


def with_values(config: CnnConfig, values: Mapping[str, Any]) -> CnnConfig:
    """Return the CnnConfig with other values of some fields. Raises InputError for invalid ones."""
    return validate(CnnConfig, {**config.model_dump(mode="json"), **values}, "search", strict=True)


def changes(config: CnnConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain `values` {field: value} that differ from those of the CnnConfig."""
    own = config.model_dump(mode="json")
    return {field: value for field, value in values.items() if value != own[field]}


def yaml_lines(values: Mapping[str, Any]) -> list[str]:
    """Return one line of YAML for each field, as in a recipe: "windows: [brain, bone]"."""
    # dumped in a list, whose brackets are cut off: a number alone would end in "..."
    flow: dict[str, Any] = {"default_flow_style": True, "width": float("inf")}
    return [
        f"{field}: {yaml.safe_dump([value], **flow).strip()[1:-1]}"
        for field, value in values.items()
    ]
