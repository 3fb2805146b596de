"""Derive the seed of each part of the program from the recipe's seed and the name of the part."""

import hashlib


def derive_seed(seed: int, *names: object) -> int:
    """Return an int in [0, 2**31) that depends only on `seed` and `names`, on every machine."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1
