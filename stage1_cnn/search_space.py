"""What may be searched of a CNN's settings: a field's choices or its range, checked against
CnnConfig. Without torch.
"""

import json
from typing import Any

import yaml
from pydantic import Field, create_model, field_validator, model_serializer

from ct.config import Config, validate
from ct.errors import InputError
from stage1_cnn.config import CnnConfig

_HOW = "it decides how a CNN is computed, not what it learns"
NOT_SEARCHED = {  # and why
    "name": "it is only what the CNN is called",
    "pretrained": "weights belong to one backbone; give each its own entry in stage1.models",
    "threads": _HOW,
    "deterministic": _HOW,
    "precision": _HOW,
    "compile": _HOW,
}


class Range(Config):
    """All numbers between two, both included; whole ones where `low` is an int."""

    low: int | float
    high: int | float
    log: bool = False  # the search sees the logarithm: 0.001 to 0.01 is as wide as 0.01 to 0.1

    @field_validator("high")
    @classmethod
    def _above(cls, high, info):
        if "low" in info.data and high <= info.data["low"]:
            raise ValueError(f"it must lie above low = {info.data['low']}")
        return high

    @field_validator("log")
    @classmethod
    def _positive(cls, log, info):
        if log and info.data.get("low", 1) <= 0:
            raise ValueError(f"there is no logarithm of low = {info.data['low']}; begin above 0")
        return log

    def __contains__(self, value):
        return value is not None and self.low <= value <= self.high


def check_where(field, where):
    """Return the choices (list) or range (dict) of a field of CnnConfig as it is kept: a tuple of
    plain values, or a Range.

    Raises InputError for a field that is not searched, with the reason, and for a value that
    CnnConfig refuses.
    """
    if field in NOT_SEARCHED:
        raise InputError(f"{field} is not searched: {NOT_SEARCHED[field]}")
    if isinstance(where, dict):
        where = validate(Range, where, "its range", strict=True)
    if isinstance(where, Range):
        return Range(
            low=_plain(field, where.low, "low"),
            high=_plain(field, where.high, "high"),
            log=where.log,
        )
    if not isinstance(where, list | tuple) or not where:
        raise InputError(
            "give a list of choices, or {low: 1, high: 2}, with log: true where its order of magnitude counts"
        )
    choices = tuple(
        _plain(field, choice, f"choice {number}") for number, choice in enumerate(where, 1)
    )
    if twice := [choice for number, choice in enumerate(choices) if choice in choices[:number]]:
        raise InputError(f"the choice {twice[0]!r} is there twice")
    return choices


def _plain(field, value, where):
    """Return a value of a field as plain JSON, as CnnConfig has it. Raises InputError where it
    refuses it.
    """
    fit = validate(CnnConfig, {"name": "any", "backbone": "any", field: value}, where, strict=True)
    return json.loads(fit.model_dump_json(include={field}))[field]


class _Space(Config):
    """Each field of CnnConfig: a Range, a tuple of choices as plain values, or None where the
    recipe's own value stays.
    """

    @field_validator("*", mode="before")
    @classmethod
    def _fits(cls, where, info):
        try:
            return check_where(info.field_name, where)
        except InputError as error:
            raise ValueError(error) from None  # pydantic adds where it stands

    @model_serializer(mode="wrap")
    def _given(self, handler):
        return {name: where for name, where in handler(self).items() if where is not None}


Space = create_model(
    "Space",
    __base__=_Space,
    __doc__=_Space.__doc__,
    **dict.fromkeys(CnnConfig.model_fields, (Any, None)),
)
DEFAULT = Space(
    windows=[
        ["brain", "subdural", "bone"],
        ["brain", "subdural", "soft"],
        ["40/40", "80/120", "bone"],
    ],
    lr={"low": 1e-4, "high": 1e-2, "log": True},
    weight_decay={"low": 1e-3, "high": 0.2, "log": True},
    dropout={"low": 0.0, "high": 0.5},
    mixup={"low": 0.0, "high": 0.5},
    rotate={"low": 0.0, "high": 30.0},
    scale={"low": 0.0, "high": 0.3},
    erase={"low": 0.0, "high": 0.5},
)


class SearchConfig(Config):
    """What `search` varies. No stage depends on it."""

    space: Space = Field(
        Space()
    )  # field of a CNN -> choices, or {low, high, log}; empty: DEFAULT of stage1_cnn/search_space.py


def searched(config):
    """Return {field: Range or tuple of choices} of a SearchConfig, in the order of CnnConfig;
    DEFAULT where it has none.
    """
    given = {field: where for field, where in config.space if where is not None}
    return given or {field: where for field, where in DEFAULT if where is not None}


def rounded(where, value):
    """Return a number drawn from a Range with three digits, which are plenty, inside it; a whole
    one as it is.
    """
    if isinstance(where.low, int):
        return value
    return min(max(float(f"{value:.3g}"), where.low), where.high)


def with_values(config, values):
    """Return the CnnConfig with other values of some fields, checked."""
    return validate(CnnConfig, {**config.model_dump(mode="json"), **values}, "search", strict=True)


def changes(config, values):
    """Return those of the plain `values` {field: value} that are not the CnnConfig's own."""
    own = config.model_dump(mode="json")
    return {field: value for field, value in values.items() if value != own[field]}


def yaml_lines(values):
    """Return one line of YAML a field, as it stands in a recipe: "windows: [brain, bone]"."""
    # dumped within a list, which is then taken off again: a number alone would end in "..."
    flow = {"default_flow_style": True, "width": float("inf")}
    return [
        f"{field}: {yaml.safe_dump([value], **flow).strip()[1:-1]}"
        for field, value in values.items()
    ]
