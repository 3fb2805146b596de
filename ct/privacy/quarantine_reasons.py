"""Reasons of quarantine.csv that name a file or quote a decoder, and how reports show them."""

from ct.privacy.redaction import without_quoted_values

# begins the reason of a second copy; the path of the copy that is used follows
SAME_SLICE = "same SOPInstanceUID as "
UNDECODED = "cannot be decoded: "  # begins a reason; the decoder's message follows


def public_reason(reason: str) -> str:
    """Return a reason of quarantine.csv without the path of another file.

    In runs of older versions it may quote a tag's value, which is removed, too.
    """
    if reason.startswith(SAME_SLICE):
        return f"{SAME_SLICE}another file"
    if reason.startswith(UNDECODED):
        return UNDECODED + without_quoted_values(reason.removeprefix(UNDECODED))
    return reason
