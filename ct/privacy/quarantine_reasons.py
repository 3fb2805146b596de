"""Reasons of quarantine.csv that name a file or quote a decoder, and how reports show them."""

from ct.privacy.redaction import without_quoted_values

# begins the reason of a second copy; the path of the copy that is used follows
SAME_SLICE = "same SOPInstanceUID as "
UNDECODED = "cannot be decoded: "  # begins a reason; the decoder's message follows


def public_reason(reason: str) -> str:
    """Return a reason of quarantine.csv without the path of another file.

    Runs of older versions may hold a tag's value in it, which is taken out, too.
    """
    if reason.startswith(SAME_SLICE):
        return f"{SAME_SLICE}another file"
    if reason.startswith(UNDECODED):
        return UNDECODED + without_quoted_values(reason.removeprefix(UNDECODED))
    return reason
