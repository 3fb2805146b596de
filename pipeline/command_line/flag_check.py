"""Check verbs and flags before python-fire runs; an unknown one stops with a suggestion."""

import inspect
from collections.abc import Callable, Mapping, Sequence

from ct.config import suggestion
from ct.errors import InputError

QUIET = "--quiet"  # of every verb: print only errors, and the output of `status --json`
SWITCHES = (  # flags that need no value
    "--allow-unlabelled",
    "--anyway",
    "--dicom-sr",
    "--fast",
    "--json",
    "--known-patients",
    "--quarantine-unreadable",
    "--remove",
    "--trust-oof",
    "--units",
    "--verify",
    QUIET,
)


class UsageError(InputError):
    """An unknown verb or flag, or a flag in the wrong form."""


def check_words(words: Sequence[str], verbs: Mapping[str, Callable[..., object]]) -> bool:
    """Check the words of a command line; return whether --help is among them.

    words: the verb, then its flags; verbs: {verb: function whose parameters are the flags}

    Raises UsageError for an unknown verb or flag, a flag without a value or given twice, and a
    needed flag that is missing.
    """
    verb, *rest = words
    if verb.startswith("-"):
        raise UsageError(
            f"unexpected {verb!r}; the verb comes first: python run.py VERB --flag=value"
        )
    if verb not in verbs:
        raise UsageError(f"no verb {verb!r}{suggestion(verb, verbs)}")
    complete = _read_flags(rest, verb, [QUIET, *flags_of(verbs[verb])])
    if complete is None:
        return True
    for flag, has_value in complete.items():
        if not has_value:
            raise UsageError(f"{verb}: {flag} needs a value, written {flag}=VALUE")
    missing = [flag for flag in _needed_flags(verbs[verb]) if flag not in complete]
    if missing:
        raise UsageError(f"{verb} needs {', '.join(missing)}; see `python run.py {verb} --help`")
    return False


def flags_of(verb: Callable[..., object]) -> list[str]:
    """Return the flags of a verb's function, as they are typed."""
    return [_flag(name) for name in inspect.signature(verb).parameters if name != "self"]


def _needed_flags(verb: Callable[..., object]) -> list[str]:
    parameters = inspect.signature(verb).parameters
    return [
        _flag(name) for name, p in parameters.items() if name != "self" and p.default is p.empty
    ]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _read_flags(words: Sequence[str], verb: str, known: Sequence[str]) -> dict[str, bool] | None:
    """Return {flag: whether it has its value}, or None where --help is among the words."""
    complete: dict[str, bool] = {}
    open_flag = ""  # a flag that the next word may be the value of
    for word in words:
        if word in ("--help", "-h"):
            return None
        if word.startswith("--"):
            name, equals, _ = word.partition("=")
            flag = name.replace("_", "-")
            if flag not in known:
                raise UsageError(f"{verb}: no flag {flag}{suggestion(flag, known)}")
            if flag in complete:
                raise UsageError(f"{verb}: {flag} is given twice")
            if flag == QUIET and equals:
                raise UsageError(f"{QUIET} takes no value")
            complete[flag] = bool(equals) or flag in SWITCHES
            open_flag = "" if equals or flag == QUIET else flag
        elif open_flag and not word.startswith("-"):
            complete[open_flag], open_flag = True, ""
        else:
            flags = ", ".join(known)
            raise UsageError(
                f"{verb}: unexpected {word!r}; write flags as --name=value, one of {flags}"
            )
    return complete
