"""One model of each of timm's families, the smallest: taken by `new`, with timm's own logits.

    python -m benchmarks.stage_one.families [--quick]    --quick: families of unusual ends

Weights are random; the last layers are drawn anew, because some start at 0. For each model: what
`new` checks (forward, backward, prediction), the largest difference between the logits and those
of timm's model with the same arrays, and the layer that Grad-CAM explains. Exits with 1 where a
model is refused or differs by more than 1e-5. The sizes are the model's own, or 128 px where it
takes that.
"""

import sys
import time
import warnings

import timm
import torch
from torch import nn

from benchmarks.command_line import flag_parser
from ct.errors import InputError
from ct.labels import LABELS
from stage1_cnn.backbones.last_layers import PooledEncoder, last_layers
from stage1_cnn.config import CnnConfig
from stage1_cnn.gradcam import find_layer
from stage1_cnn.model import check_trainable, untrained_model

BAR = 1e-5  # of the difference of the logits
SIDE = 128  # px of models that take several sizes
QUICK = (
    *("cpubone", "crossvit", "deit", "dla", "dpn", "efficientformer", "efficientformer_v2"),
    *("efficientvim", "iformer", "levit", "metaformer", "pit", "repvit", "resnetv2", "sequencer"),
    *("swiftformer", "vision_transformer_sam", "volo"),
)


def main():
    families = QUICK if flag_parser(__doc__).parse_args().quick else timm.list_modules()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("family | model | million weights | px | difference | Grad-CAM | seconds")
    missed = []
    for family in families:
        for name in smallest(family):
            start = time.perf_counter()
            try:
                cells = measure(name)
            except InputError as error:
                missed.append(f"{family}: {error}")
                cells = ["refused"]
            if cells[0] != "refused" and not cells[2] <= BAR:  # NaN is missed, too
                missed.append(f"{family}: the logits of {name} differ by {cells[2]}")
            seconds = f"{time.perf_counter() - start:.1f}"
            print(" | ".join(map(str, [family, name, *cells, seconds])), flush=True)
    print("\n".join(missed) if missed else f"every bar is met in {len(families)} families")
    return 1 if missed else 0


def smallest(family):
    """Return the names of the smallest classifier of a family, and of its smallest encoder."""
    sizes = {}
    for name in timm.list_models(module=family):
        with torch.device("meta"):
            sizes[name] = count(untrained_model(config(name)))
    encoders = {name: size for name, size in sizes.items() if name.endswith("_enc")}
    others = {name: size for name, size in sizes.items() if name not in encoders}
    return [min(group, key=group.get) for group in (others, encoders) if group]


def config(name):
    """Return the recipe's entry of a model: its own size where it has one, or SIDE."""
    known = timm.get_pretrained_cfg(name)
    fixed = known is not None and known.fixed_input_size
    size = known.input_size[-1] if fixed else SIDE
    return CnnConfig(name="a", backbone=name, image_size=size, threads=1)


def count(model):
    return sum(weight.numel() for weight in model.parameters())


def measure(name):
    """Return the cells of a model: million weights, px, difference, Grad-CAM.

    Raises InputError where it is refused.
    """
    settings = config(name)
    try:
        check_trainable(settings, SIDE)
    except InputError:  # such as attention in blocks that 128 px are no multiple of
        own = timm.get_pretrained_cfg(name).input_size[-1]
        if own == settings.image_size:
            raise
        settings = settings.model_copy(update={"image_size": own})
        check_trainable(settings, own)
    torch.manual_seed(1)
    size, model = settings.image_size, untrained_model(settings)
    for layer in last_layers(model.backbone):
        nn.init.normal_(layer.weight, std=0.02)
    images = torch.randn(2, settings.in_channels, size, size)
    with torch.inference_mode():
        logits, _ = model.eval()(images)
        difference = float((logits - timms_own(model, settings)(images)).abs().max())
    try:
        layer = find_layer(model, settings, size)[0]
    except InputError:
        layer = "none"
    return [round(count(model) / 1e6, 1), size, difference, layer]


def timms_own(model, settings):
    """Return timm's model of six classes with the arrays of `model`, in evaluation mode."""
    if isinstance(model.backbone, PooledEncoder):  # timm has no classifier of it
        return model.backbone
    known = timm.get_pretrained_cfg(settings.backbone)
    fixed = {"img_size": settings.image_size} if known and known.fixed_input_size else {}
    whole = timm.create_model(settings.backbone, num_classes=len(LABELS), **fixed).eval()
    whole.load_state_dict(model.backbone.state_dict())
    return whole


if __name__ == "__main__":
    sys.exit(main())
