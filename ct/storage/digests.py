"""Digests of bytes, texts and files: blake2b of 16 bytes, as 32 hexadecimal digits."""

import hashlib
from pathlib import Path


def new_digest(data: bytes = b"") -> "hashlib.blake2b":
    """Return a digest of `data`, for more data: `update`, then `hexdigest`."""
    return hashlib.blake2b(data, digest_size=16)


def text_digest(text: str) -> str:
    """Return the digest of a text."""
    return new_digest(text.encode()).hexdigest()


def bytes_digest(path: Path) -> str:
    """Return the digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, new_digest).hexdigest()
