"""How large a file may become when it is decompressed: beyond that it is a decompression bomb."""

ALWAYS_ALLOWED = 64 << 20  # bytes; Kaggle's label csv has 119 MB, compressed to a sixth
MAX_RATIO = 100  # beyond ALWAYS_ALLOWED: unpacked size over compressed size


def max_unpacked_bytes(packed_bytes: int) -> int:
    """Return how many bytes a file of `packed_bytes` compressed bytes may unpack to."""
    return max(ALWAYS_ALLOWED, MAX_RATIO * packed_bytes)
