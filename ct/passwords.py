"""Passwords in URLs, which no line, page or receipt repeats."""

import re

IN_URL = re.compile(r"(://[^:/@\s]*):[^@\s]*@")  # as SQLAlchemy reads a URL: user, then all up to the @
WHOLE_URL = re.compile(r"(['\"]?[a-z]\w*(?:\+\w+)?://[^:/@\s]*):(?:(?!: )[^@\n])*@", re.I)  # a value that is nothing but one
IN_QUERY = re.compile(r"(?i)([?&][a-z_]*(?:pass|pwd|secret|token)[a-z_]*)=[^&\s'\"]*")


def without_passwords(value: object) -> object:
    """Return plain values with *** in place of every password of a URL, at any depth; others are as they were."""
    if isinstance(value, dict):
        return {key: without_passwords(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(without_passwords(inner) for inner in value)
    if not isinstance(value, str) or "://" not in value:
        return value
    value = WHOLE_URL.sub(r"\1:***@", value, count=1) if WHOLE_URL.match(value) else value
    return IN_QUERY.sub(r"\1=***", IN_URL.sub(r"\1:***@", value))
