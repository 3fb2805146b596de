"""The settings of one CNN of stage one. Importable without torch: the command line checks recipes with it."""

from pydantic import Field, StrictBool, field_validator

from ct.config import Config
from ct.errors import InputError
from ct.windows import window_bounds


class CnnConfig(Config):
    """One model of stage one: its backbone, what it sees and how it is trained. The defaults suit 256 to 512 px on one GPU."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")  # of its folder in the run
    backbone: str = Field(min_length=1)  # any classifier of timm.list_models(), with or without a ".tag" of its weights
    pretrained: StrictBool | str = False  # False from scratch, True weights that timm downloads, or a .safetensors/.pth file
    windows: tuple[str, ...] = Field(("brain", "subdural", "bone"), min_length=1)  # names or "centre/width" in HU
    neighbours: int = Field(0, ge=0, le=8)  # slices on each side that become further channels
    image_size: int | None = Field(None, ge=32, le=1024)  # px a side that the CNN sees; None: as the pixel cache has them

    epochs: int = Field(5, ge=1)  # passes over the training slices; the last one's weights are kept
    batch: int = Field(64, ge=2)  # slices a step
    lr: float = Field(1e-3, gt=0)  # the highest learning rate, after the warm-up
    weight_decay: float = Field(0.02, ge=0)  # AdamW's, on weights only: not on biases and norms
    warmup: float = Field(0.1, ge=0, lt=1)  # share of the steps in which the rate rises from 0; then half a cosine to 0
    dropout: float = Field(0.0, ge=0, lt=1)  # before the last layer

    flip: bool = True  # mirror left and right in half of the slices
    rotate: float = Field(15.0, ge=0, le=180)  # degrees, uniform in ± this
    scale: float = Field(0.1, ge=0, lt=1)  # zoom, uniform in 1 ± this
    shift: float = Field(0.05, ge=0, le=0.5)  # of the width and height, uniform in ± this
    hu_shift: float = Field(0.0, ge=0)  # HU added to a whole slice, standard deviation
    hu_noise: float = Field(0.0, ge=0)  # HU added to each pixel, standard deviation

    threads: int = Field(2, ge=1)  # torch's on the CPU; here and not from the machine, since results depend on them
    deterministic: bool = True  # the same bits again on the same device; slower on CUDA
    amp: bool = True  # bfloat16 on CUDA; without effect on the CPU

    @field_validator("windows")
    @classmethod
    def _windows_exist(cls, windows):
        for spec in windows:
            try:
                window_bounds(spec)
            except InputError as error:
                raise ValueError(error) from None  # pydantic adds where it stands
        return windows

    @property
    def in_channels(self):
        """Channels of the CNN's input: each window of each slice."""
        return len(self.windows) * (2 * self.neighbours + 1)
