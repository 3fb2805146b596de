"""Remove passwords in URLs, values of DICOM tags, and paths from messages.

A value that begins with a URL counts as a URL to its end: a password may contain any character,
spaces and @ included. Inside a line a URL ends at its closing quote or at the next space. The
values of a URL's query may be passwords under any name, and are masked, too.
"""

import re
from typing import Any

SCHEME = r"[a-z][a-z0-9+.-]*://"
# a URL in quotes, as Python prints a string
QUOTED_URL = re.compile(rf"(['\"])({SCHEME}(?:\\.|(?!\1).)*)\1", re.I | re.S)
BARE_URL = re.compile(rf"(?<!['\"\w])({SCHEME}\S*)", re.I)
USER_AND_PASSWORD = re.compile(r"://([^:/@\s]*):.*@", re.S)  # up to the last @
PASSWORD_WITHOUT_USER = re.compile(r"://[^:/@\s]*[/?#].*@", re.S)  # a password in a wrong place
DATABASE = "storage"  # the recipe's key of a database's URL
# of a database's address that is no URL, such as "host=db password=s3 cret": to the end
PASSWORD_TO_END = re.compile(r"((?:password|passwd|pwd)\s*=\s*).+", re.I | re.S)
QUERY_VALUE = re.compile(r"([?&][^=&\s'\"]+)=[^&'\"]*")

# where a message may begin to quote a value; names of elements, as in "(0028,0004) 'Photometric
# Interpretation'", are not values
QUOTED_VALUE = re.compile(
    r"(?<=\bvalue )(?=of\b|is\b|['\"\d])|(?<!\) )(?<!\w)['\"]|[^ -~]",
)


def mask_passwords(value: Any) -> Any:
    """Return a plain value with *** in place of each password in a URL, at any depth.

    value: text, a number, None, or lists, tuples and dicts of these; under the key DATABASE it is
    masked as in `mask_database`
    """
    if isinstance(value, dict):
        return {
            key: (mask_database if key == DATABASE else mask_passwords)(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(mask_passwords(inner) for inner in value)
    if not isinstance(value, str) or "://" not in value:
        return value
    if re.match(SCHEME, value, re.I):
        return _masked_url(value)
    value = QUOTED_URL.sub(lambda match: match[1] + _masked_url(match[2]) + match[1], value)
    return BARE_URL.sub(lambda match: _masked_url(match[1]), value)


def mask_database(address: Any) -> Any:
    """Return the address of a database without passwords, even where it is mistyped.

    What is no URL is masked up to its last @, and after "password=". What is no text is masked as
    in `mask_passwords`.
    """
    if not isinstance(address, str) or re.match(SCHEME, address, re.I):
        return mask_passwords(address)
    _, at, rest = address.rpartition("@")
    return PASSWORD_TO_END.sub(r"\1***", f"***@{rest}" if at else address)


def _masked_url(url: str) -> str:
    """Return a URL without its password and the values of its query."""
    url = USER_AND_PASSWORD.sub(r"://\1:***@", url)
    url = PASSWORD_WITHOUT_USER.sub("://***@", url)
    return QUERY_VALUE.sub(r"\1=***", url)


def without_quoted_values(message: str) -> str:
    """Return a library's message up to where it quotes a tag's value, with "(path)" for paths.

    Names of elements stay, as in "(0028,0004) 'Photometric Interpretation'".
    """
    unquoted = QUOTED_VALUE.split(message, maxsplit=1)[0]
    return re.sub(r"\S*[/\\]\S+", "(path)", unquoted).strip(" :,") or "damaged"
