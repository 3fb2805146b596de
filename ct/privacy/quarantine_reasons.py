"""Reasons of the quarantine table, as reports may show them."""

from ct.privacy.redaction import without_quoted_values

# what a reason says of another copy, before the path of the one taken
SAME = "same SOPInstanceUID as "


UNDECODED = "cannot be decoded: "  # likewise, before a decoder's message


def public_reason(reason: str) -> str:
    """Return a reason of quarantine.csv as reports may hold it: without another file's path or, in
    older runs, a value.
    """
    if reason.startswith(SAME):
        return f"{SAME}another file"
    return (
        UNDECODED + without_quoted_values(reason.removeprefix(UNDECODED))
        if reason.startswith(UNDECODED)
        else reason
    )
