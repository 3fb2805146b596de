"""What the units of stage one take."""

from pipeline.units.unit import Resources
from stage1_cnn.config import CnnConfig

BASE_MB = 1200  # of a process with torch and timm
# bytes a pixel of a batch, of the activations of a small CNN on the CPU
PIXEL_BYTES = 800


def cnn_resources(config: CnnConfig, size: int) -> Resources:
    """Return what one training or prediction of a CNN takes. size: of the pixel cache"""
    pixels = config.batch * (config.image_size or size) ** 2
    cores = max(config.threads, 2)  # on the second one batches are read
    return Resources(cores, 1, BASE_MB + pixels * PIXEL_BYTES // 2**20)
