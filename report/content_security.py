"""The content-security policy of a page: it runs its own script, wears its own style, and reaches
nowhere.

What a page shows comes from strangers' files. Should a text of theirs ever get past the templates'
escaping, the policy keeps it from running, loading or sending anything (W3C, Content Security
Policy Level 3). The page is one file that is opened from disk, so the policy stands in its head,
and names script and style by their hashes.
"""

import base64
import hashlib
import re

PLACE = "POLICY"  # in the head of the templates, before all that is not theirs
ATTRIBUTE = re.compile(r' style="([^"&<>\\]*)"')
# properties of the style attributes of templates and drawings; an attribute with others gets no
# hash, so no effect
DRAWN = {
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
    """Return a page whose head holds its policy in place of PLACE.

    style, script: what stands between the tags of its own style and script, exactly. The hashes of
    style attributes need 'unsafe-hashes'; they allow these very values and no others.
    """
    attributes = sorted({value for value in ATTRIBUTE.findall(page) if _is_drawn(value)})
    styles = " ".join(map(_hash, [style, *attributes]))
    policy = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": f"'unsafe-hashes' {styles}" if attributes else styles,
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return page.replace(
        PLACE, "; ".join(f"{name} {sources}" for name, sources in policy.items()), 1
    )


def _is_drawn(value):
    return {part.partition(":")[0].strip() for part in value.rstrip("; ").split(";")} <= DRAWN


def _hash(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
