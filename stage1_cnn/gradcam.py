"""Grad-CAM (Selvaraju et al. 2017), by captum: which regions of a slice raise a label's logit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ct.errors import InputError
from ct.labels import LABELS
from stage1_cnn.batches.augment import to_channels
from stage1_cnn.batches.batch_reader import ReadHu
from stage1_cnn.batches.head_crop import crop_to_head, map_shape, maps_of_slices
from stage1_cnn.config import CnnConfig
from stage1_cnn.device import pick_device, torch_settings
from stage1_cnn.gpu_memory import weights_must_fit
from stage1_cnn.inference import for_each_batch
from stage1_cnn.model import Cnn

MIN_SIDE = 7  # least cells a side of a map, as in the paper's CNNs at 224 px


def gradcam_maps(
    model: Cnn,
    table_rows: NDArray[np.int64],
    readable: NDArray[np.bool_],
    read_hu: ReadHu,
    config: CnnConfig,
    progress: Callable[[int], object] | None = None,
) -> NDArray[np.float32]:
    """Return the Grad-CAM maps of some slices for each label, (n, 6, h, w) float32, 0 or more.

    Arguments as in stage1_cnn.inference.predict; only the plain view is explained, not those of
    `config.tta`.

    Row 0 of a map is the top of the slice and column 0 its left, with `config.crop_head`, too;
    unreadable slices have 0. Values of one CNN are comparable. Raises InputError for a backbone
    without feature maps, such as a transformer, and where captum is not installed.
    """
    device, readable_rows = pick_device(), np.flatnonzero(readable)
    with weights_must_fit(config, device):
        model = model.eval().to(device).to(memory_format=torch.channels_last)
    with torch_settings(config):
        _, layer, shape = find_layer(model, config, read_hu(np.empty(0, np.int64)).shape[-1])
        maps = np.zeros((len(table_rows), len(LABELS), *map_shape(shape, config)), np.float32)
        grad_cam = _import_layer_gradcam()(lambda images: model(images)[0], layer)

        def explain_batch(rows: NDArray[np.int64], hu: Tensor) -> None:
            images = to_channels(crop_to_head(hu, config), config)
            for number in range(len(LABELS)):
                attribution = grad_cam.attribute(images, target=number, relu_attributions=True)
                whole = maps_of_slices(attribution[:, :1].detach(), hu, config)
                maps[rows, number] = whole[:, 0].cpu().numpy()
            if progress:
                progress(len(rows))

        for_each_batch(readable_rows, read_hu, table_rows, config, device, explain_batch)
    return maps


def find_layer(model: Cnn, config: CnnConfig, size: int) -> tuple[str, nn.Module, tuple[int, int]]:
    """Return (name, module, (h, w)) of the backbone's stage whose feature map Grad-CAM uses.

    size: pixels a side of the cached slices

    The stage is the deepest one with a map of at least MIN_SIDE cells a side, or else the one with
    the finest map: the last stage of a small image has too few cells to show anything. Raises
    InputError where the stages are not feature maps (b, channels, h, w).
    """
    stages = _stages(model.backbone)
    shapes = _output_shapes(model, config, size, [stage["module"] for stage in stages])
    for stage in stages:
        shape = shapes[stage["module"]]
        if len(shape) != 4 or shape[1] != stage["num_chs"]:
            raise _no_feature_maps(config)
    if not stages:
        raise _no_feature_maps(config)
    fine = [name for name in shapes if min(shapes[name][2:]) >= MIN_SIDE]
    name = fine[-1] if fine else max(shapes, key=lambda each: min(shapes[each][2:]))
    height, width = shapes[name][2:]
    return name, model.backbone.get_submodule(name), (height, width)


def _stages(backbone: Any) -> list[dict[str, Any]]:
    """Return timm's feature_info of a backbone, of stages that are modules of it; [] without."""
    stages = list(getattr(backbone, "feature_info", None) or [])
    modules = dict(backbone.named_modules())
    return stages if all(stage.get("module") in modules for stage in stages) else []


def _output_shapes(
    model: Cnn, config: CnnConfig, size: int, names: list[str]
) -> dict[str, tuple[int, ...]]:
    """Return {name: shape of the output} of modules of the backbone for one black image."""
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, ())

    def record(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):  # not the list of several branches
                shapes[name] = tuple(output.shape)

        return hook

    hooks = [
        model.backbone.get_submodule(name).register_forward_hook(record(name)) for name in names
    ]
    side, device = config.image_size or size, next(model.parameters()).device
    try:
        with torch.inference_mode():
            model(torch.zeros(1, config.in_channels, side, side, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def _no_feature_maps(config: CnnConfig) -> InputError:
    return InputError(
        f"{config.name}: backbone {config.backbone!r} has no feature maps for Grad-CAM, "
        "as transformers have none; explain another of the run's CNNs with --model=NAME"
    )


def scaled(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale maps (n, 6, h, w) of one study: the largest value of each label becomes 1.

    The slices of a study stay comparable.
    """
    largest: NDArray[np.float32] = maps.max(axis=(0, 2, 3), keepdims=True)
    largest[largest == 0] = 1
    return maps / largest


def to_bytes(maps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return maps (n, 6, h, w) of one study as uint8; each label's largest value becomes 255."""
    return np.rint(255 * scaled(maps)).astype(np.uint8)


def _import_layer_gradcam() -> Any:
    """Return captum's class LayerGradCam. Raises InputError where captum is not installed."""
    try:
        from captum.attr import LayerGradCam
    except ModuleNotFoundError as error:
        raise InputError(
            f'explain needs {error.name}, which is not installed: pip install -e ".[explain]"'
        ) from None
    return LayerGradCam
