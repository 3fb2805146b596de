"""Commands as the program prints them, quoted so that they can be copied into a shell."""

import shlex


def with_flags(verb: str, **values: object) -> str:
    """Return a verb and its flags, quoted for a shell."""
    return shlex.join([verb, *(f"--{name}={value}" for name, value in values.items())])


def run_command(verb: str, **values: object) -> str:
    """Return the command that runs a verb, quoted for a shell."""
    return f"python run.py {with_flags(verb, **values)}"
