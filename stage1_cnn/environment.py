"""What a CNN is trained and asked under: processes, device, precision. Recorded, never a reason to do it again."""

import torch

from stage1_cnn.device import autocast_type, pick_device
from stage1_cnn.ranks import here

FACTS = ("processes", "device", "precision")
PRECISIONS = {torch.bfloat16: "bf16", torch.float16: "fp16", None: "fp32"}


def environment(config) -> dict[str, int | str]:
    """Return {"processes", "device", "precision"} of what a CnnConfig is trained or asked under in this process."""
    device = pick_device()
    name = f"cuda, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
    return {"processes": here().world, "device": name, "precision": PRECISIONS[autocast_type(config, device)]}
