"""YAML of people one does not know: bounded in size, depth and aliases; plain text, numbers, lists
and mappings alone.
"""

import math
import re
from pathlib import Path

import yaml
from yaml.events import (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from ct.errors import InputError

LARGEST = 256 << 10  # bytes; the largest recipe of recipes/ has 4 KiB
DEEPEST = 32  # mappings and lists in one another
MOST_VALUES = 100_000  # with every alias written out
LONGEST_NUMBER = 40  # digits; Python refuses more than 4300, and no setting has more than 10
MERGE, TIMESTAMP = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:timestamp"
PLAIN = {
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")
}


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without dates, sets and binary text: what looks like a date stays the text that it
    is.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag in PLAIN
    }

    def construct_mapping(self, node, deep=False):
        """Make a dict. Raises ConstructorError for a key that is no text or is there twice."""
        if isinstance(node, yaml.MappingNode):
            own = [key for key, _ in node.value if key.tag != MERGE]
            names = [key.value for key in own if key.tag == "tag:yaml.org,2002:str"]
            if len(names) < len(own):
                bad = next(key for key in own if key.tag != "tag:yaml.org,2002:str")
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is no text; put it in quotes", bad.start_mark
                )
            if len(set(names)) < len(names):
                at = next(number for number, name in enumerate(names) if name in names[:number])
                what = f"the key {names[at]!r} is there twice; keep one"
                raise yaml.constructor.ConstructorError(None, None, what, own[at].start_mark)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node):
        """Make an int. Raises ConstructorError for one that no setting can be."""
        if len(node.value) > LONGEST_NUMBER:
            what = f"a number of {len(node.value)} digits"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)
        return super().construct_yaml_int(node)


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)


def read_yaml(path):
    """Return what a YAML file holds, as plain values; dates stay text.

    Raises InputError with the line for what is no YAML, for a key that is there twice or is no
    text, and for a file that is too large, too deep, or whose aliases grow beyond MOST_VALUES.
    Raises FileNotFoundError where there is none.
    """
    path = Path(path)
    text = _text(path)
    try:
        _refuse_growth(text, path)
        return _PlainLoader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(
            f"{path} is not YAML{f', line {mark.line + 1}' if mark else ''}: {what}"
        ) from None
    except ValueError as error:  # a number that Python does not take, such as 0b2
        raise InputError(f"{path} is not YAML: {error}") from None


def _text(path):
    """Return a file's text. Raises InputError where it is no file, too large, or neither UTF-8 nor
    marked as UTF-16.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no file; it should be a YAML file")
    with open(path, "rb") as file:
        raw = file.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise InputError(
            f"{path} is larger than {LARGEST >> 10} KiB, which no recipe is; name a YAML file of settings"
        )
    try:
        return raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not YAML: byte {error.start + 1} is no UTF-8 text; save it as UTF-8"
        ) from None


def _refuse_growth(text, path):
    """Raise InputError where a text is too deep, or has too many values once its aliases are
    written out.

    Only events are read, which keep neither values nor depth in memory.
    """
    sizes, open_nodes, total = {}, [], 0  # sizes: anchor -> values that an alias of it stands for
    for event in yaml.parse(text, _PlainLoader):
        if not isinstance(event, (NodeEvent, MappingEndEvent, SequenceEndEvent)):
            continue
        if isinstance(event, MappingStartEvent | SequenceStartEvent):
            open_nodes.append((event.anchor, total))
            if len(open_nodes) > DEEPEST:
                raise InputError(
                    f"{path}, line {event.start_mark.line + 1}: lists and mappings are deeper than {DEEPEST}"
                )
        elif isinstance(event, AliasEvent):
            if event.anchor in (anchor for anchor, _ in open_nodes):
                raise InputError(
                    f"{path}, line {event.start_mark.line + 1}: *{event.anchor} holds itself"
                )
            total += sizes.get(event.anchor, 0)
        elif isinstance(event, NodeEvent):
            sizes[event.anchor] = 1
        else:
            anchor, before = open_nodes.pop()
            sizes[anchor] = total - before + 1
        total += not isinstance(event, MappingEndEvent | SequenceEndEvent)
        if total > MOST_VALUES:
            raise InputError(
                f"{path} holds more than {MOST_VALUES} values once its aliases (*name) are written out"
            )


def refuse_strange_values(values, where):
    """Raise InputError for text that cannot be written as UTF-8, and for a number that is infinite
    or none at all.
    """
    if isinstance(values, dict):
        values = [*values, *values.values()]
    if isinstance(values, list):
        for value in values:
            refuse_strange_values(value, where)
    if isinstance(values, str) and re.search("[\ud800-\udfff\0]", values):
        raise InputError(f"{where}: the text {values[:40]!r} holds characters that no text has")
    if isinstance(values, float) and not math.isfinite(values):
        raise InputError(f"{where}: {values} is no number; settings are finite")
