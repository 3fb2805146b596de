"""What the units of stage one take."""

from ct.run_dir import RunDir
from ct.storage.file_formats import table_rows
from pipeline.units.unit import Resources
from stage1_cnn.config import CnnConfig

# measured on the CPU, for a forward and a backward pass of batches of 8 slices at 256 px:
BASE_MB = 900  # of a process with torch and timm
PIXEL_BYTES = 3400  # a pixel of a batch; EfficientNetV2-S, more than ConvNeXt-T and DenseNet-121
WITH_GPU_MB = 4000  # CUDA's libraries and context, batches that are read ahead
SLICE_BYTES = 1000  # of the slice table; 760 are measured by benchmarks/memory.py


def cnn_resources(config: CnnConfig, size: int, slices: int) -> Resources:
    """Return what one training or prediction of a CNN takes.

    size: of the pixel cache; slices: rows of the slice table
    """
    pixels = config.batch * (config.image_size or size) ** 2
    cores = max(config.threads, 2)  # on the second one batches are read
    table = slices * SLICE_BYTES // 2**20
    on_cpu = BASE_MB + pixels * PIXEL_BYTES // 2**20 + table
    return Resources(cores, 1, on_cpu, WITH_GPU_MB + table)


def count_slices(run: RunDir) -> int:
    """Return the number of rows of the slice table; 0 before `ingest` has written it."""
    return table_rows(run.slices) if run.slices.exists() else 0
