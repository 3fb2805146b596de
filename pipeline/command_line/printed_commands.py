"""Commands as they are printed, quoted so that they can be copied, and what a shell needs to
complete the words of them.
"""

import shlex


def with_flags(verb: str, **values: object) -> str:
    """Return a verb and its flags as they are typed in a shell."""
    return shlex.join([verb, *(f"--{name}={value}" for name, value in values.items())])


def run_command(verb: str, **values: object) -> str:
    """Return the command that runs a verb, as it is typed in a shell."""
    return f"python run.py {with_flags(verb, **values)}"
