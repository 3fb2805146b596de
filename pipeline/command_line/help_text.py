"""What `python run.py` and `python run.py VERB --help` print, made from the verbs' docstrings."""

import inspect
from collections.abc import Callable, Mapping

from pipeline.command_line.flag_check import QUIET, flags_of

COMMON_FLAGS = {  # parameter of several verbs -> its description, if a verb's Args have none
    "run": "the run folder",
    "allow_unlabelled": "do not train on train slices without all six labels, instead of stopping "
    "(saved in the run's recipe)",
    "missing": 'for sample rows without a file: "refuse", or "prior" for the training prior '
    "(saved in the run's recipe)",
    "workers": "number of processes on the CPU; as cores and memory allow if not given",
    "gpus": "numbers of GPUs, separated by commas, each for one CNN at a time; all GPUs if not "
    'given; "cpu,cpu" trains two at a time without',
    "shard": "2/8 does the second of every eight units of work, beside seven other processes that "
    "do the others; the one that ends last finishes the stage",
    "engine": '"local" for this machine, "ray" for Ray, which is installed by `pip install -e '
    "'.[cluster]'`",
    "address": "host:port of a Ray cluster that this machine is part of; if not given, "
    "--engine=ray starts a Ray of its own on this machine",
    "quarantine_unreadable": "quarantine files that the system cannot read while it reads others, "
    "instead of stopping",
}


def overview(program: type, verbs: Mapping[str, Callable[..., object]]) -> str:
    """Return what `python run.py` prints: the program's docstring and a line for each verb.

    program: class with a docstring; verbs: {verb: its function}
    """
    lines = [inspect.getdoc(program) or "", "", "  python run.py VERB --flag=value ...", ""]
    for name, verb in verbs.items():
        lines.append(f"  {name:18} {(inspect.getdoc(verb) or '').splitlines()[0]}")
    lines += [
        "",
        "To begin: python run.py demo. A verb's flags: python run.py VERB --help.",
        f"With any verb, {QUIET} prints only errors. Not a medical device.",
    ]
    return "\n".join(lines)


def verb_help(name: str, verb: Callable[..., object]) -> str:
    """Return what `python run.py VERB --help` prints, from the function's docstring."""
    summary, _, args = (inspect.getdoc(verb) or "").partition("\n\nArgs:\n")
    descriptions = COMMON_FLAGS | _descriptions(args)
    flags = " --flag=value ..." if flags_of(verb) else ""
    lines = [f"python run.py {name}{flags}", "", summary, ""]
    for parameter in inspect.signature(verb).parameters.values():
        if parameter.name != "self":
            flag = parameter.name.replace("_", "-")
            text = descriptions[parameter.name] + _default(parameter)
            lines.append(f"  --{flag:17} {text}")
    lines.append(f"  {QUIET:19} print only errors")
    return "\n".join(lines)


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return " (needed)"
    return "" if parameter.default in (None, False) else f" (default {parameter.default})"


def _descriptions(args: str) -> dict[str, str]:
    """Return {argument: description} of a docstring's Args; deeper lines continue one."""
    descriptions: dict[str, str] = {}
    name = ""
    for line in args.splitlines():
        if line.startswith("        "):
            descriptions[name] += f" {line.strip()}"
        else:
            name, _, text = line.strip().partition(": ")
            descriptions[name] = text
    return descriptions
