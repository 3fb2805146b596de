"""The policy of a page: it allows the page's own script and style by their hashes, and nothing
else.
"""

import base64
import hashlib
import re

import pytest

from report.content_security import with_policy
from report.page import rendered

PAGE = '<meta content="POLICY"><style>S</style><p style="fill: red">POLICY</p><script>X</script>'


def digest(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def policy_of(page):
    """{directive: list of its sources} of a page."""
    (content,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    return {
        name: sources.split(" ")
        for name, _, sources in (part.partition(" ") for part in content.split("; "))
    }


def check(page):
    """What the policy must say of a whole page of the program's."""
    policy = policy_of(page)
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == ["'none'"]
    assert (
        policy["img-src"] == ["data:"]
        and "unsafe-inline" not in str(policy)
        and "http" not in str(policy)
    )
    assert set(policy) == {
        "default-src",
        "script-src",
        "style-src",
        "img-src",
        "base-uri",
        "form-action",
    }
    scripts, styles = (
        re.findall(r"<script>(.*?)</script>", page, re.S),
        re.findall(r"<style>(.*?)</style>", page, re.S),
    )
    assert policy["script-src"] == [digest(script) for script in scripts] and len(scripts) == 1
    attributes = sorted(set(re.findall(r'<[^>]* style="([^"]*)"', page)))
    assert policy["style-src"] == ["'unsafe-hashes'"] * bool(attributes) + [
        *map(digest, styles),
        *map(digest, attributes),
    ]
    assert page.index("Content-Security-Policy") < min(
        map(page.index, ("<style", "<title", "<body"))
    )  # it holds from there on
    assert not re.search(r"<[^>]* on\w+=|javascript:", page)  # which no hash allows


def test_script_style_and_attributes_have_their_hashes_and_the_place_is_the_first():
    page = with_policy(PAGE, "S", "X")
    content = page.partition('content="')[2].partition('"')[0]
    assert f"script-src {digest('X')};" in content
    assert f"style-src 'unsafe-hashes' {digest('S')} {digest('fill: red')};" in content
    assert page.endswith('<p style="fill: red">POLICY</p><script>X</script>')
    assert with_policy(PAGE, "S", "X") == page


@pytest.mark.parametrize(
    "attribute",
    ["background: red", "fill: red; position: fixed", "--w:1%;content:x", "font-family: x"],
)
def test_a_style_that_no_drawing_has_gets_no_hash(attribute):
    page = with_policy(PAGE.replace("fill: red", attribute), "S", "X")
    assert digest(attribute) not in page and "unsafe-hashes" not in page


def test_a_script_that_is_not_the_pages_own_gets_no_hash():
    page = with_policy(PAGE.replace("</p>", "<script>alert(1)</script></p>"), "S", "X")
    assert digest("alert(1)") not in page and digest("X") in page


def test_a_page_without_studies_has_it_as_well():
    context = {
        "name": "n",
        "study": "S1",
        "browser": {"kinds": [], "studies": [], "labelled": False},
    }
    check(rendered("study.html", context))
