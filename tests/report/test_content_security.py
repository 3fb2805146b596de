"""Content-Security-Policy of a page: its own script and style by their hashes, nothing else."""

import base64
import hashlib
import re

import pytest

from report.content_security import with_policy
from report.rendering import render

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
    """Assert that the policy allows only the script, styles and attributes of the page itself."""
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
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    styles = re.findall(r"<style>(.*?)</style>", page, re.S)
    assert policy["script-src"] == [digest(script) for script in scripts] and len(scripts) == 1
    attributes = sorted(set(re.findall(r'<[^>]* style="([^"]*)"', page)))
    assert policy["style-src"] == ["'unsafe-hashes'"] * bool(attributes) + [
        *map(digest, styles),
        *map(digest, attributes),
    ]
    # a policy holds only for the text after it
    first = min(map(page.index, ("<style", "<title", "<body")))
    assert page.index("Content-Security-Policy") < first
    assert not re.search(r"<[^>]* on\w+=|javascript:", page)  # hashes do not allow event handlers


def test_script_style_and_attributes_have_hashes_in_the_first_placeholder():
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
def test_a_style_attribute_with_another_property_gets_no_hash(attribute):
    page = with_policy(PAGE.replace("fill: red", attribute), "S", "X")
    assert digest(attribute) not in page and "unsafe-hashes" not in page


def test_another_script_gets_no_hash():
    page = with_policy(PAGE.replace("</p>", "<script>alert(1)</script></p>"), "S", "X")
    assert digest("alert(1)") not in page and digest("X") in page


def test_a_page_without_studies_has_a_policy():
    context = {
        "name": "n",
        "study": "S1",
        "browser": {"kinds": [], "studies": [], "labelled": False},
    }
    check(render("study.html", context))
