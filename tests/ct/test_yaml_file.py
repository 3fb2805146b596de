"""Untrusted YAML: any content gives values or one line of error within a second."""

import time

import pytest

from ct.errors import InputError
from ct.yaml_file import LARGEST, read_yaml, refuse_strange_values
from pipeline.recipe import RECIPES, load_recipe

GROWING = "".join(
    f"{name}: &{name} [{', '.join([value] * 9)}]\n"
    for name, value in zip("abcdefghij", ["x", *(f"*{c}" for c in "abcdefghi")], strict=True)
)
REFUSED = {
    "aliases that grow": (GROWING, "values once its aliases"),
    "an alias of itself": ("a: &a [*a]", "line 1: \\*a contains itself"),
    "a root that holds itself": ("&a\nb: *a", "line 2: \\*a contains itself"),
    "deep lists": ("a: " + "[" * 5000 + "]" * 5000, "deeper than 32"),
    "deep mappings": ("{a: " * 5000 + "1" + "}" * 5000, "deeper than 32"),
    "a huge number": (f"a: {'9' * 5000}", "line 1: a number of 5000 digits"),
    "a huge hexadecimal": (f"a: 0x{'f' * 5000}", "line 1: a number of 5002 digits"),
    "a key twice": ("a: 1\nb: 2\na: 3", "line 3: the key 'a' occurs twice"),
    "a number as key": ("1: a", "line 1: a key is not text"),
    "a list as key": ("? [a]\n: 1", "line 1: a key is not text"),
    "a switch as key": ("on: 1", "line 1: a key is not text"),
    "a tab": ("a:\n\tb: 1", "line 2"),
    "a zero byte": ("a: b\0", "not YAML"),
    "half a number": ("a: 0x_", "not YAML"),
    "an object": ("a: !!python/object/apply:os.getcwd []", "line 1: could not determine"),
    "binary text": ("a: !!binary aGVsbG8=", "line 1: could not determine"),
    "a set": ("a: !!set {b}", "line 1: could not determine"),
    "two documents": ("a: 1\n---\nb: 2", "line 2"),
    "an alias of nothing": ("a: *b", "line 1"),
}


def written(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("kind", REFUSED)
def test_yaml_that_no_recipe_can_hold_is_one_line(kind, tmp_path):
    text, expected = REFUSED[kind]
    start = time.perf_counter()
    with pytest.raises(InputError, match=expected) as caught:
        read_yaml(written(tmp_path, text))
    assert "\n" not in str(caught.value) and "r.yaml" in str(caught.value)
    assert time.perf_counter() - start < 5


def test_a_file_that_is_not_text_is_one_line(tmp_path):
    with pytest.raises(InputError, match="larger than 256 KiB"):
        read_yaml(written(tmp_path, b"#" * (LARGEST + 1)))
    with pytest.raises(InputError, match="byte 4 is not UTF-8"):
        read_yaml(written(tmp_path, b"a: \xe4"))
    for path in (tmp_path, "/dev/zero"):
        with pytest.raises(InputError, match="is no file"):
            read_yaml(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_of_any_windows_editor_is_read(encoding, tmp_path):
    assert read_yaml(written(tmp_path, "a: ü\nb: [1, 2.5]".encode(encoding))) == {
        "a": "ü",
        "b": [1, 2.5],
    }


def test_dates_stay_text(tmp_path):
    assert read_yaml(written(tmp_path, "a: 2020-13-45\nb: 2020-01-02")) == {
        "a": "2020-13-45",
        "b": "2020-01-02",
    }


def test_aliases_and_merges_work_as_in_gold(tmp_path):
    text = "base: &b {lr: 1, epochs: 2}\nmore: {<<: *b, lr: 3}\nlist: [*b, *b]"
    whole = {"lr": 1, "epochs": 2}
    assert read_yaml(written(tmp_path, text)) == {
        "base": whole,
        "more": {"epochs": 2, "lr": 3},
        "list": [whole, whole],
    }
    assert len(load_recipe(RECIPES / "gold.yaml").stage1.models) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", "a\0b"])
def test_values_that_no_setting_can_have_are_refused_at_any_depth(value):
    refuse_strange_values({"a": ["b", 1.5, None]}, "r.yaml")
    for values in ({"a": [1, {"b": value}]}, [value], value):
        with pytest.raises(InputError, match="^r.yaml: "):
            refuse_strange_values(values, "r.yaml")


@pytest.mark.parametrize(
    "line",
    [
        "seed: .inf",
        "seed: 1e400",
        "seed: {a: 1}",
        "features: {clip: .nan}",
        'name: "a\\ud800"',
        "folds: {k: 99999999999}",
    ],
)
def test_a_recipe_of_nonsense_is_one_line(line, tmp_path):
    with pytest.raises(InputError) as caught:
        load_recipe(
            written(
                tmp_path,
                f"name: x\nstage1: {{models: [{{name: a, backbone: b}}]}}\n{line}".replace(
                    "name: x\n", "" if line.startswith("name") else "name: x\n"
                ),
            )
        )
    assert "\n" not in str(caught.value) and "write inf" not in str(caught.value)
