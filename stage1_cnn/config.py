"""The settings of one CNN of stage one. Needs no torch: the command line checks recipes with it."""

from typing import Literal

from pydantic import Field, StrictBool, field_validator

from ct.config import Config
from ct.errors import InputError
from ct.windows import window_bounds

# variable of a process that was started for one GPU: the name of the GPU, and of another machine
GPU_OF_PROCESS = "ICH_GPU"
PACKAGE = "package"  # the value of `pretrained` for weights of an installed package


class CnnConfig(Config):
    """One CNN of stage one: backbone, input and training.

    The defaults suit 256 to 512 px on one GPU.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")  # of its folder in the run
    # any classifier of timm.list_models(), with or without a ".tag" of its weights
    backbone: str = Field(min_length=1)
    # False: from scratch; True: weights that timm downloads; package: those of an installed package
    # (stage1_cnn/backbones/weight_packages.py); or a .safetensors/.pth file
    pretrained: StrictBool | str = False
    # names or "centre/width" in HU
    windows: tuple[str, ...] = Field(("brain", "subdural", "bone"), min_length=1)
    # mean and deviation that are subtracted and divided by: those of ImageNet's images, or those
    # that timm lists for the backbone
    normalisation: Literal["imagenet", "backbone"] = "imagenet"
    neighbours: int = Field(0, ge=0, le=8)  # slices on each side, as further channels
    # px a side of the CNN's input; None: the size in the pixel cache
    image_size: int | None = Field(None, ge=32, le=1024)
    # before it is resized, each slice is cropped to the head: a square around skull and brain
    crop_head: bool = False

    # CNNs that stand before this one in the recipe: the mean of their probabilities of the test
    # slices, by their models of the same fold, are soft labels on which this one is trained, too
    pseudo_from: tuple[str, ...] = ()
    pseudo_weight: float = Field(0.5, gt=0, le=1)  # of a slice with soft labels in the loss

    # fits for each fold that differ in their seed; the mean of their logits is the CNN's prediction
    seeds: int = Field(1, ge=1, le=20)
    epochs: int = Field(5, ge=1)  # passes over the training slices; the last weights are kept
    batch: int = Field(64, ge=2)  # slices in one forward pass
    accumulate: int = Field(1, ge=1)  # batches whose gradients are summed before a step
    lr: float = Field(1e-3, gt=0)  # the highest learning rate, after the warm-up
    # the rate of a layer is that of the layer behind it times this; the last layer has `lr` itself
    layer_decay: float = Field(1.0, gt=0, le=1)
    # learning rate of all but the last layers, as a share of `lr`; 0: frozen, and then the plain
    # slices are trained on; None: by the number of positive patients where `pretrained`
    # (stage1_cnn/training_methods/held_body.py), else 1
    body_rate: float | None = Field(None, ge=0, le=1)
    # batch norms keep their weights and statistics; None: as body_rate
    freeze_norms: StrictBool | None = None
    weight_decay: float = Field(0.02, ge=0)  # of AdamW, on weights only, not on biases and norms
    # share of the steps in which the rate rises from 0; then half a cosine to 0
    warmup: float = Field(0.1, ge=0, lt=1)
    # largest norm of the gradient of all weights, which is scaled down to it; 0: no limit
    clip: float = Field(1.0, ge=0)
    # decay of a moving average of the weights, which is then kept; 0: no average
    ema: float = Field(0.0, ge=0, lt=1)
    # the mean of the weights after each of the last so many epochs is kept, that of the moving
    # averages where `ema` is set; 0 and 1: those of the last epoch
    average_epochs: int = Field(0, ge=0)
    dropout: float = Field(0.0, ge=0, lt=1)  # before the last layer
    # each batch is mixed with its reverse, by a share drawn from Beta(mixup, mixup); 0: off
    mixup: float = Field(0.0, ge=0)
    # share of positives among the drawn slices: a study is drawn, then a slice of it;
    # None: each slice once an epoch
    positive_share: float | None = Field(None, gt=0, lt=1)

    flip: bool = True  # mirror left and right in half of the slices
    rotate: float = Field(15.0, ge=0, le=180)  # degrees, uniform in ± this
    scale: float = Field(0.1, ge=0, lt=1)  # zoom, uniform in 1 ± this; above 1 it crops
    shift: float = Field(0.05, ge=0, le=0.5)  # of the width and height, uniform in ± this
    # share of the slices in which a rectangle of 2 to 20 % of the area becomes air
    erase: float = Field(0.0, ge=0, le=1)
    reverse: bool = False  # reverse the order of the neighbours in half of the slices
    hu_shift: float = Field(0.0, ge=0)  # HU added to a whole slice, standard deviation
    hu_noise: float = Field(0.0, ge=0)  # HU added to each pixel, standard deviation
    # views whose logits are averaged with those of the plain slices, held out and test
    tta: tuple[Literal["flip", "reverse"], ...] = ()

    # what is kept of a prediction: float32 logits; or probabilities, as older versions did, which
    # features.clip clips
    outputs: Literal["logits", "probabilities"] = "logits"
    # threads of torch on the CPU; not taken from the machine, since results depend on it
    threads: int = Field(2, ge=1, le=1024)
    deterministic: bool = True  # the same bits again on the same device; slower on CUDA
    # auto: on CUDA bf16, or fp16 where it has none; fp32: no TF32
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    # activations are computed again in the backward pass, not kept: less memory, but slower
    grad_checkpointing: bool = False
    # by torch.compile: slow to start, then faster on CUDA; not the same bits again
    compile: bool = False

    @field_validator("windows")
    @classmethod
    def _windows_exist(cls, windows: tuple[str, ...]) -> tuple[str, ...]:
        for spec in windows:
            try:
                window_bounds(spec)
            except InputError as error:
                raise ValueError(error) from None  # pydantic adds the place
        return windows

    @property
    def weights_file(self) -> str | None:
        """The file of weights that the CNN starts from; None where there is none."""
        is_file = isinstance(self.pretrained, str) and self.pretrained != PACKAGE
        return str(self.pretrained) if is_file else None

    @property
    def in_channels(self) -> int:
        """Channels of the CNN's input: each window of each slice."""
        return len(self.windows) * (2 * self.neighbours + 1)


class DistilledCnn(CnnConfig):
    """One CNN in place of all others for new patients, trained on all labelled slices.

    Its targets are the labels mixed with what the folds' CNNs predict out of fold.
    """

    # share of the out-of-fold probabilities, the mean over the CNNs, in the targets; 0: labels
    soft_share: float = Field(0.5, ge=0, le=1)

    @field_validator("seeds", "pseudo_from")
    @classmethod
    def _one_fit(cls, value: int | tuple[str, ...]) -> int | tuple[str, ...]:
        if value not in (1, ()):
            raise ValueError("a distilled CNN has neither seeds nor soft labels of test slices")
        return value
