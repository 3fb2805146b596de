"""How large a file may become when it is decompressed; a larger one is a decompression bomb."""

ALWAYS_ALLOWED = 64 << 20  # bytes; Kaggle's label csv has 119 MB, compressed to a sixth
MAX_RATIO = 100  # unpacked size over compressed size, above ALWAYS_ALLOWED


def max_unpacked_bytes(packed_bytes: int) -> int:
    """Return how many bytes a file of `packed_bytes` compressed bytes may unpack to."""
    return max(ALWAYS_ALLOWED, MAX_RATIO * packed_bytes)
