"""What the units of stage one take."""

from pipeline.units.unit import Resources
from stage1_cnn.config import CnnConfig

# measured on the CPU, for a forward and a backward pass of batches of 8 slices at 256 px:
BASE_MB = 900  # of a process with torch and timm
PIXEL_BYTES = 3400  # a pixel of a batch; EfficientNetV2-S, more than ConvNeXt-T and DenseNet-121
WITH_GPU_MB = 4000  # CUDA's libraries and context, batches that are read ahead


def cnn_resources(config: CnnConfig, size: int) -> Resources:
    """Return what one training or prediction of a CNN takes. size: of the pixel cache"""
    pixels = config.batch * (config.image_size or size) ** 2
    cores = max(config.threads, 2)  # on the second one batches are read
    return Resources(cores, 1, BASE_MB + pixels * PIXEL_BYTES // 2**20, WITH_GPU_MB)
