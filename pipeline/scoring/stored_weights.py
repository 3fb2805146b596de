"""CNN weights and probes that come from a file: whether they are those of the recipe's CNNs, before
they are used.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ct.errors import printable
from ct.labels import LABELS
from ct.system.machine_faults import raise_fault
from stage1_cnn.config import CnnConfig
from stage1_cnn.model import Cnn, build_model, timm_errors_as_input_errors


def outlined_cnn(config: CnnConfig) -> Cnn:
    """Return the CNN of a recipe's entry without its numbers: however large it claims to be, it
    takes no memory.

    Raises InputError where timm cannot make it.
    """
    with timm_errors_as_input_errors(config), torch.device("meta"):
        return build_model(config.model_copy(update={"pretrained": False}), seed=0)


def check_size(config: CnnConfig, size: int) -> None:
    """Raise InputError where the CNN of a recipe's entry takes no image of `size` pixels a side, or
    of the entry's own size.

    It is built for that: the files should be known to hold as many weights first.
    """
    size = config.image_size or size
    with timm_errors_as_input_errors(config), torch.inference_mode():
        cnn = build_model(config.model_copy(update={"pretrained": False}), seed=0).eval()
        cnn(torch.zeros(1, config.in_channels, size, size))


def check_weights(cnn: Cnn, path: Path) -> None:
    """Raise ValueError where a safetensors file does not hold just the weights of `cnn`, all of
    them finite.
    """
    wanted = {
        name: (tuple(value.shape), value.dtype) for name, value in cnn.backbone.state_dict().items()
    }
    check_arrays(path, wanted)


def check_probes(path: Path, of_fold: Iterable[str], width: int) -> None:
    """Raise ValueError where a safetensors file lacks a probe, or one does not take embeddings of
    `width` numbers.

    of_fold: beginnings of the names of the arrays, one a probe
    """
    shapes = {"centre": (width,), "weights": (width, len(LABELS)), "intercept": (len(LABELS),)}
    wanted = {
        begin + part: (shape, torch.float32) for begin in of_fold for part, shape in shapes.items()
    }
    check_arrays(path, wanted, others=True)


def check_arrays(path: Path, wanted: dict, others: bool = False) -> None:
    """Raise ValueError unless a safetensors file holds arrays of these shapes and types, all of
    them finite.

    wanted: {name: (shape, torch dtype)}; others: whether there may be more, which are not read
    """
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            if lacking := sorted(set(wanted) - names):
                raise ValueError(
                    f"it lacks {len(lacking)} arrays, the first {printable(lacking[0])}"
                )
            if not others and (strange := sorted(names - set(wanted))):
                raise ValueError(
                    f"it has {len(strange)} arrays more than it should, the first {printable(strange[0])}"
                )
            for name, (shape, dtype) in wanted.items():
                if tuple(file.get_slice(name).get_shape()) != shape:
                    raise ValueError(
                        f"{name} has the shape {file.get_slice(name).get_shape()}, not {list(shape)}"
                    )
                array = file.get_tensor(name)
                if array.dtype != dtype or (
                    array.is_floating_point() and not torch.isfinite(array).all()
                ):
                    raise ValueError(
                        f"{name} holds no finite {str(dtype).removeprefix('torch.')} numbers"
                    )
    except (SafetensorError, OSError) as error:
        if path.is_file():
            raise_fault(error, path.name)
        raise ValueError(f"it is no safetensors file ({printable(error)})") from None
