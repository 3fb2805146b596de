"""Passwords in URLs, which no line, page or receipt repeats.

A value that begins with a URL is taken for a URL to its end: a password may hold any sign, blanks
and @ included. Within a line a URL ends with its quotes, or with the next blank. Values of its
query may hold passwords under any name, and are masked, too.
"""

import re

SCHEME = r"[a-z][a-z0-9+.-]*://"
QUOTED = re.compile(rf"(['\"])({SCHEME}(?:\\.|(?!\1).)*)\1", re.I | re.S)  # as Python writes a text
BARE = re.compile(rf"(?<!['\"\w])({SCHEME}\S*)", re.I)
USER = re.compile(r"://([^:/@\s]*):.*@", re.S)  # up to the last @
NO_COLON = re.compile(r"://[^:/@\s]*[/?#].*@", re.S)  # a password that is not where one belongs
QUERY = re.compile(r"([?&][^=&\s'\"]+)=[^&'\"]*")


def mask_passwords(value: object) -> object:
    """Return plain values with *** in place of every password of a URL, at any depth; others are as
    they were.
    """
    if isinstance(value, dict):
        return {key: mask_passwords(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mask_passwords(inner) for inner in value)
    if not isinstance(value, str) or "://" not in value:
        return value
    if re.match(SCHEME, value, re.I):
        return _masked(value)
    value = QUOTED.sub(lambda match: match[1] + _masked(match[2]) + match[1], value)
    return BARE.sub(lambda match: _masked(match[1]), value)


def _masked(url):
    """Return a URL without its password and the values of its query."""
    return QUERY.sub(r"\1=***", NO_COLON.sub("://***@", USER.sub(r"://\1:***@", url)))


# where a message may begin to quote a value; not the names of elements, which follow "(0028,0004) "
QUOTED = re.compile(r"(?<=\bvalue )(?=of\b|is\b|['\"\d])|(?<!\) )(?<!\w)['\"]|[^ -~]")


def without_quoted_values(message: str) -> str:
    """Return a library's message up to where it quotes a tag's value or a path; names of elements,
    as in "(0028,0004) 'Photometric Interpretation'", stay.
    """
    bare = QUOTED.split(message, maxsplit=1)[0]
    return re.sub(r"\S*[/\\]\S+", "(path)", bare).strip(" :,") or "damaged"
