"""The base class of all settings, their validation, and suggestions for misspelt names."""

import difflib
import json
import math
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ct.errors import InputError, printable

LONGEST = 240  # characters of a message about a value, or of a list of known names


class Config(BaseModel):
    """A frozen set of settings; an unknown key is an error, not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


AnyConfig = TypeVar("AnyConfig", bound=Config)


def suggestion(name: object, known: Iterable[object]) -> str:
    """Return ", did you mean 'x'?" with the nearest known name, or a list of all."""
    names = [str(k) for k in known]
    similar = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if similar:
        return f", did you mean {similar[0]!r}?"
    return f"; known names: {printable(', '.join(names), LONGEST)}"


def validate(kind: type[AnyConfig], values: Any, where: object, strict: bool = False) -> AnyConfig:
    """Return the settings `values`, a mapping, as an object of the Config class `kind`.

    where:  the file or verb that the values come from, for the message
    strict: refuse "3" or true for a number. True for files, where values have types; False for the
            command line, where they have none

    Raises InputError with one line about the first fault.
    """
    try:
        if strict:
            return kind.model_validate_json(json.dumps(values, default=str), strict=True)
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: {_first_fault(kind, error, strict)}") from None


def _first_fault(kind: type[Config], error: ValidationError, strict: bool) -> str:
    """Return one line about the first fault of a validation."""
    first = error.errors()[0]
    place, value = first["loc"], first["input"]
    key = printable(".".join(str(part) for part in place))
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}{suggestion(place[-1], _fields_at(kind, place[:-1]))}"
    if first["type"] == "missing":
        return f"{key!r} is missing"
    text = first["msg"].removeprefix("Value error, ") + _number_hint(value, strict)
    message = printable(text, LONGEST)
    message = message[0].lower() + message[1:]
    if value is None and not strict:  # a flag that is missing
        return message
    if place[-1:] == ("storage",):  # may hold a password
        return f"{key}: {message}"
    return f"{key} = {printable(repr(value))}: {message}"


def config_class_of(kind: type[Config], field: str) -> type[Config] | None:
    """Return the Config class that a field of `kind` holds, alone or in a list, or None."""
    return _config_in(kind.model_fields[field].annotation) if field in kind.model_fields else None


def _fields_at(kind: type[Config], place: tuple[int | str, ...]) -> list[str]:
    """Return the field names of the Config at `place` (field names, list positions) in `kind`."""
    for part in place:
        # list positions, dict keys and kinds of a union have no Config class of their own
        kind = config_class_of(kind, str(part)) or kind
    return sorted(kind.model_fields)


def _config_in(annotation: Any) -> type[Config] | None:
    """Return the Config class that an annotation is or contains, or None."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    return next(filter(None, map(_config_in, getattr(annotation, "__args__", ()))), None)


def _number_hint(value: Any, strict: bool) -> str:
    """Return a hint where YAML reads a number as text, such as 3e-3, which lacks a point; or ""."""
    try:
        number = float(value) if strict and isinstance(value, str) else math.inf
    except ValueError:
        return ""
    return f"; YAML takes it for text, write {number!r}" if math.isfinite(number) else ""
