"""The words of source, templates, pages and recipes are those of the field."""

import re
from pathlib import Path

import pytest
from source_tree import HOUSE, ROOT, TEXTS

# for: prediction or probability; what a text contains; as in or as returned by; predict or evaluate
WORDS = r"opinions?|said|as of|look(?:s|ed|ing)? back"
ON_DISK = "said_scale"  # an array in the weights of finished runs and packed models
# a name such as read_opinions holds the word, too; a longer word such as aforesaid does not
FORBIDDEN = re.compile(rf"(?<![a-z])(?:{WORDS})(?![a-z])", re.IGNORECASE)


def texts():
    """{path: text} of everything that a reader of the project or a user of it reads."""
    texts_by_path = {
        name: TEXTS[name] for name in TEXTS if name in HOUSE or name.startswith("benchmarks/")
    }
    patterns = ("*.md", "docs/*.md", "benchmarks/*.md", "recipes/*.yaml", "report/templates/**/*")
    for pattern in patterns:
        for path in filter(Path.is_file, ROOT.glob(pattern)):
            texts_by_path[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
    return texts_by_path


READ = texts()


def strange_words(text):
    """The words of a text that have a better one."""
    return FORBIDDEN.findall(re.sub(r"\s+", " ", text.replace(ON_DISK, "")))


@pytest.mark.parametrize("name", READ)
def test_words_are_the_fields(name):
    assert strange_words(READ[name]) == []


def test_the_check_finds_what_it_looks_for():
    assert {"README.md", "docs/stacking.md", "recipes/gold.yaml", "ct/labels.py"} <= set(READ)
    assert any(name.startswith("report/templates/") for name in READ)
    text = (
        "Opinions of read_opinion, as\nof now; said, looked back. Unsaid, unopinionated, as often."
    )
    assert strange_words(text) == ["Opinions", "opinion", "as of", "said", "looked back"]
