"""Content-Security-Policy of a page: only its own script and style, and no connections.

Text on the page comes from files of unknown origin. If a text ever passed the templates' escaping,
the policy would keep it from running, loading or sending anything (W3C, Content Security Policy
Level 3). The page is one file that is opened from disk, so the policy stands in its head and allows
script and style by their hashes.
"""

import base64
import hashlib
import re

PLACEHOLDER = "POLICY"  # in the head of layout.html, before any text from files
STYLE_ATTRIBUTE = re.compile(r' style="([^"&<>\\]*)"')
# CSS properties in the style attributes of templates and drawings; an attribute with any other
# property gets no hash, and so has no effect
PROPERTIES = {
    "--n",
    "--w",
    "fill",
    "fill-opacity",
    "font",
    "font-size",
    "font-style",
    "font-weight",
    "opacity",
    "stroke",
    "stroke-dasharray",
    "stroke-dashoffset",
    "stroke-linecap",
    "stroke-linejoin",
    "stroke-miterlimit",
    "stroke-opacity",
    "stroke-width",
    "text-anchor",
}


def with_policy(page: str, style: str, script: str) -> str:
    """Return the page with its policy in place of PLACEHOLDER.

    style, script: the exact text between the tags of the page's own style and script. The hashes of
    style attributes need 'unsafe-hashes'; they allow these values and no others.
    """
    attributes = sorted({value for value in STYLE_ATTRIBUTE.findall(page) if _is_allowed(value)})
    styles = " ".join(map(_hash, [style, *attributes]))
    policy = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": f"'unsafe-hashes' {styles}" if attributes else styles,
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    text = "; ".join(f"{directive} {sources}" for directive, sources in policy.items())
    return page.replace(PLACEHOLDER, text, 1)


def _is_allowed(value: str) -> bool:
    """Return whether a style attribute sets only PROPERTIES."""
    declarations = value.rstrip("; ").split(";")
    return {declaration.partition(":")[0].strip() for declaration in declarations} <= PROPERTIES


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
