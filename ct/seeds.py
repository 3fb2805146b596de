"""Seeds of the program's parts, each a function of the recipe's seed and of what the part is
called.
"""

import hashlib


def derive_seed(seed, *names):
    """Return an int in [0, 2**31) that depends on `seed` and `names` alone, alike on every
    machine.
    """
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1
