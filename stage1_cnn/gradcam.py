"""Grad-CAM (Selvaraju et al. 2017): where in a slice a CNN finds what speaks for a label, by
captum.
"""

import numpy as np
import torch

from ct.errors import InputError
from ct.labels import LABELS
from stage1_cnn.augment import to_channels
from stage1_cnn.device import pick_device, torch_settings, weights_must_fit
from stage1_cnn.inference import for_each_batch

LEAST = 7  # places a side that a map should have: what the paper's CNNs had at 224 px


def explain(model, table_rows, readable, read_hu, config, progress=None):
    """Grad-CAM maps of some slices for each label: what of the last feature map raises the label's
    logit.

    Arguments as of stage1_cnn.inference.predict; only the plain view is explained, not those of
    `config.tta`.

    Returns maps (n, 6, h, w) float32, 0 or more, row 0 at the top of the slice and column 0 at its
    left; 0 for unreadable slices. Values of one CNN compare with each other. Raises InputError for
    a backbone without feature maps, such as a transformer, and where captum is not installed.
    """
    device, seen = pick_device(), np.flatnonzero(readable)
    with weights_must_fit(config, device):
        model = model.eval().to(device, memory_format=torch.channels_last)
    with torch_settings(config):
        _, layer, shape = find_layer(model, config, read_hu(np.empty(0, np.int64)).shape[-1])
        maps = np.zeros((len(table_rows), len(LABELS), *shape), np.float32)
        grad_cam = _captum()(lambda images: model(images)[0], layer)

        def look(at, hu):
            images = to_channels(hu, config)
            for number in range(len(LABELS)):
                found = grad_cam.attribute(images, target=number, relu_attributions=True)
                maps[at, number] = found[:, 0].detach().cpu().numpy()
            if progress:
                progress(len(at))

        for_each_batch(seen, read_hu, table_rows, config, device, look)
    return maps


def find_layer(model, config, size):
    """Return (name, module, (h, w)) of the deepest stage of a Cnn whose map is LEAST places a side,
    else of the finest.

    size: pixels a side of the cached slices. The last stage of a small picture has too few places
    to show anything. Raises InputError where the stages are not feature maps (b, channels, h, w).
    """
    backbone, shapes = model.backbone, {}
    stages = list(getattr(backbone, "feature_info", None) or [])
    hooks = [
        backbone.get_submodule(stage["module"]).register_forward_hook(
            lambda module, given, made, name=stage["module"]: shapes.update(
                {name: tuple(made.shape)}
            )
        )
        for stage in stages
    ]
    side, device = config.image_size or size, next(backbone.parameters()).device
    try:
        with torch.inference_mode():
            model(torch.zeros(1, config.in_channels, side, side, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    flat = [
        s for s in stages if len(shapes[s["module"]]) != 4 or shapes[s["module"]][1] != s["num_chs"]
    ]
    if flat or not stages:
        raise InputError(
            f"{config.name}: backbone {config.backbone!r} has no feature maps for Grad-CAM, as transformers have none; "
            "explain another of the run's CNNs with --model=NAME"
        )
    names = [stage["module"] for stage in stages]
    fine = [name for name in names if min(shapes[name][2:]) >= LEAST]
    name = fine[-1] if fine else max(names, key=lambda each: min(shapes[each][2:]))
    return name, backbone.get_submodule(name), shapes[name][2:]


def scaled(maps):
    """Scale maps (n, 6, h, w) of one study so that each label's strongest place is 1: its slices
    stay comparable.
    """
    top = maps.max(axis=(0, 2, 3), keepdims=True)
    return maps / np.where(top > 0, top, 1)


def to_bytes(maps):
    """Return maps (n, 6, h, w) of one study, scaled, as uint8: 255 is each label's strongest
    place.
    """
    return np.rint(255 * scaled(maps)).astype(np.uint8)


def _captum():
    try:
        from captum.attr import LayerGradCam
    except ModuleNotFoundError as error:
        raise InputError(
            f'explain needs {error.name}, which is not installed: pip install -e ".[explain]"'
        ) from None
    return LayerGradCam
