"""HU in one byte a pixel: fine where bleeds are, coarse in air and bone, so that the page can show
any window of a slice.

A JPEG of each window would be several times as large, and its ringing beside the skull looks like a
subdural bleed.
"""

import base64
import io

import numpy as np
from PIL import Image

MOST = 256  # pixels a side of a slice on the page; a larger one is averaged down
HU = np.concatenate(  # (256,) the HU that each byte stands for
    [
        np.arange(-1000, -100, 60),  # air to fat
        np.arange(-100, -20, 4),
        np.arange(-20, 120, 1),  # brain and blood: 1 HU, as fine as the cache itself
        np.arange(120, 300, 5),
        np.linspace(300, 2000, 45),  # bone
    ]
).astype(np.float32)
# of every int16
NEAREST = np.searchsorted((HU[1:] + HU[:-1]) / 2, np.arange(-(2**15), 2**15)).astype(np.uint8)


def encode(hu):
    """Return the byte of each pixel. hu: int16 array of any shape; beyond the ends of HU the end
    stands. Returns uint8.
    """
    return NEAREST[hu.astype(np.int32) + 2**15]


def picture(hu):
    """Return one slice, int16 (S, S) in HU, as a grey PNG of MOST pixels a side at most, base64."""
    if hu.shape[0] > MOST:
        small = Image.fromarray(hu.astype(np.float32)).resize((MOST, MOST), Image.Resampling.BOX)
        hu = np.rint(np.asarray(small)).astype(np.int16)
    buffer = io.BytesIO()
    Image.fromarray(encode(hu)).save(buffer, "PNG", compress_level=9)
    return base64.b64encode(buffer.getvalue()).decode()
