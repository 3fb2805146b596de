"""Checked settings: every table of options of the program is one of these."""

import difflib
import json
import math

from pydantic import BaseModel, ConfigDict, ValidationError

from ct.errors import InputError, printable

MESSAGE = 240  # characters of what is said about a value, or of a list of known words


class Config(BaseModel):
    """A frozen set of options; a key it does not know is an error, not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def suggestion(word, known):
    """Return ", did you mean 'x'?" for the known word nearest to `word`, or a list of the known
    ones.
    """
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.6)
    return (
        f", did you mean {close[0]!r}?"
        if close
        else f"; known are {printable(', '.join(map(str, known)), MESSAGE)}"
    )


def validate(kind, values, where, strict=False):
    """Build the Config class `kind` from the mapping `values`, or raise InputError with one line
    about the first fault.

    where: the file or verb that the values come from, for the message. strict: no "3" or true for a
    number; for files, whose values have types, unlike the command line's.
    """
    try:
        if strict:
            return kind.model_validate_json(json.dumps(values, default=str), strict=True)
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = printable(".".join(str(part) for part in first["loc"]))
        if first["type"] == "extra_forbidden":
            known = _fields_at(kind, first["loc"][:-1])
            raise InputError(
                f"{where}: unknown key {path!r}{suggestion(first['loc'][-1], known)}"
            ) from None
        if first["type"] == "missing":
            raise InputError(f"{where}: {path!r} is missing") from None
        message = printable(
            first["msg"].removeprefix("Value error, ") + _hint(first["input"], strict), MESSAGE
        )
        # a password
        at = (
            f"{path} = {printable(repr(first['input']))}: "
            if first["loc"][-1:] != ("storage",)
            else f"{path}: "
        )
        if first["input"] is None and not strict:  # a flag that was not given
            at = ""
        raise InputError(f"{where}: {at}{message[0].lower() + message[1:]}") from None


def config_class_of(kind: type[Config], field: str) -> type[Config] | None:
    """Return the Config class that a field of `kind` holds, one or several of them; None where it
    holds none.
    """
    return _config_in(kind.model_fields[field].annotation) if field in kind.model_fields else None


def _fields_at(kind, loc):
    """Return the field names of the Config that lies at `loc` (field names and list positions)
    below `kind`.
    """
    for part in loc:
        # others are places in a list, keys of a dict, kinds of a union
        kind = config_class_of(kind, part) or kind
    return sorted(kind.model_fields)


def _config_in(annotation):
    """Return the Config class that an annotation is, or holds, None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    return next(filter(None, map(_config_in, getattr(annotation, "__args__", ()))), None)


def _hint(value, strict):
    """Return what to write instead of a number that YAML takes for text, such as 3e-3 (it wants a
    point and a sign).
    """
    try:
        number = float(value) if strict and isinstance(value, str) else math.inf
    except ValueError:
        return ""
    return f"; YAML takes it for text, write {number!r}" if math.isfinite(number) else ""
