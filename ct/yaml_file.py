"""Read untrusted YAML: limited in size, depth and aliases; text, numbers, lists and mappings."""

import math
import re
from pathlib import Path
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from ct.errors import InputError

LARGEST = 256 << 10  # bytes; the largest recipe of recipes/ has 4 KiB
DEEPEST = 32  # nested mappings and lists
MOST_VALUES = 100_000  # after every alias is replaced by its values
LONGEST_NUMBER = 40  # digits; no setting has more than 10, and Python refuses more than 4300
MERGE, TIMESTAMP = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:timestamp"
TEXT = "tag:yaml.org,2002:str"
PLAIN = {
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")
}


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without dates, sets and binary data: a date stays text."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag in PLAIN
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a dict. Raises ConstructorError for a key that is not text or occurs twice."""
        if isinstance(node, yaml.MappingNode):
            keys = [key for key, _ in node.value if key.tag != MERGE]
            for key in keys:
                if key.tag != TEXT:
                    raise _fault("a key is not text; put it in quotes", key)
            names: set[str] = set()
            for key in keys:
                if key.value in names:
                    raise _fault(f"the key {key.value!r} occurs twice; keep one", key)
                names.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Return an int. Raises ConstructorError for a number longer than any setting."""
        if len(node.value) > LONGEST_NUMBER:
            raise _fault(f"a number of {len(node.value)} digits", node)
        return super().construct_yaml_int(node)


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)


def _fault(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def read_yaml(path: Path | str) -> Any:
    """Return the content of a YAML file as plain values; dates stay text.

    Raises InputError with the line where the file is not YAML, or a key occurs twice or is not
    text; and for a file that is too large, too deep, or has more than MOST_VALUES values. Raises
    FileNotFoundError where there is none.
    """
    path = Path(path)
    text = _read_text(path)
    try:
        _check_size(text, path)
        return _PlainLoader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path} is not YAML{line}: {problem}") from None
    except ValueError as error:  # a number that Python does not accept, such as 0b2
        raise InputError(f"{path} is not YAML: {error}") from None


def _read_text(path: Path) -> str:
    """Return a file's text: UTF-8, or UTF-16 with a byte order mark.

    Raises InputError where it is no regular file, too large, or neither of the two.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no file; it should be a YAML file")
    with open(path, "rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise InputError(
            f"{path} is larger than {LARGEST >> 10} KiB, too large for a recipe; "
            "name a YAML file of settings"
        )
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not YAML: byte {error.start + 1} is not UTF-8 text; save it as UTF-8"
        ) from None


def _check_size(text: str, path: Path) -> None:
    """Raise InputError where a text is too deep, or has too many values with aliases replaced.

    Only YAML events are read: they need no memory for values or depth.
    """
    sizes: dict[str | None, int] = {}  # anchor -> number of values that its alias is replaced by
    open_nodes: list[tuple[str | None, int]] = []  # (anchor, total before it), outermost first
    total = 0
    for event in yaml.parse(text, _PlainLoader):
        if not isinstance(event, (NodeEvent, MappingEndEvent, SequenceEndEvent)):
            continue
        if isinstance(event, MappingStartEvent | SequenceStartEvent):
            open_nodes.append((event.anchor, total))
            if len(open_nodes) > DEEPEST:
                raise InputError(
                    f"{path}, {_line(event)}: lists and mappings are deeper than {DEEPEST}"
                )
        elif isinstance(event, AliasEvent):
            if event.anchor in (anchor for anchor, _ in open_nodes):
                raise InputError(f"{path}, {_line(event)}: *{event.anchor} contains itself")
            total += sizes.get(event.anchor, 0)
        elif isinstance(event, NodeEvent):
            sizes[event.anchor] = 1
        else:
            anchor, before = open_nodes.pop()
            sizes[anchor] = total - before + 1
        total += not isinstance(event, MappingEndEvent | SequenceEndEvent)
        if total > MOST_VALUES:
            raise InputError(
                f"{path} holds more than {MOST_VALUES} values once its aliases (*name) are replaced"
            )


def _line(event: Event) -> str:
    return f"line {event.start_mark.line + 1}" if event.start_mark else "unknown line"


def refuse_strange_values(values: Any, where: object) -> None:
    """Raise InputError for text that cannot be written as UTF-8, for infinity and for NaN.

    values: plain values, nested; where: the file, for the message
    """
    if isinstance(values, dict):
        values = [*values, *values.values()]
    if isinstance(values, list):
        for value in values:
            refuse_strange_values(value, where)
    if isinstance(values, str) and re.search("[\ud800-\udfff\0]", values):
        raise InputError(f"{where}: the text {values[:40]!r} holds characters that no text has")
    if isinstance(values, float) and not math.isfinite(values):
        raise InputError(f"{where}: {values} is not a finite number")
