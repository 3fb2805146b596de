"""A slice as a grey PNG with one byte a pixel, from which the page can show any window.

The bytes stand for HU in steps that are fine in brain and blood, and coarse in air and bone. A JPEG
of each window would be several times as large, and its artifacts beside the skull look like a
subdural bleed.
"""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGEST = 256  # pixels a side of a slice on the page; a larger one is averaged down
HU = np.concatenate(  # (256,) the HU that each byte stands for
    [
        np.arange(-1000, -100, 60),  # air to fat
        np.arange(-100, -20, 4),
        np.arange(-20, 120, 1),  # brain and blood: 1 HU, as fine as the pixel cache
        np.arange(120, 300, 5),
        np.linspace(300, 2000, 45),  # bone
    ]
).astype(np.float32)
# (65536,) the nearest byte of every int16
NEAREST = np.searchsorted((HU[1:] + HU[:-1]) / 2, np.arange(-(2**15), 2**15)).astype(np.uint8)


def encode(hu: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Return the byte of each pixel, any shape; values outside HU get the nearest end."""
    return NEAREST[hu.astype(np.int32) + 2**15]


def slice_png(hu: NDArray[np.int16]) -> str:
    """Return one slice (S, S) in HU as a grey PNG of at most LARGEST pixels a side, base64."""
    if hu.shape[0] > LARGEST:
        image = Image.fromarray(hu.astype(np.float32))
        image = image.resize((LARGEST, LARGEST), Image.Resampling.BOX)
        hu = np.rint(np.asarray(image)).astype(np.int16)
    buffer = io.BytesIO()
    Image.fromarray(encode(hu)).save(buffer, "PNG", compress_level=9)
    return base64.b64encode(buffer.getvalue()).decode()
