"""Check the weights and probes of a packed model before they are loaded."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ct.errors import printable
from ct.labels import LABELS
from ct.system.machine_faults import raise_fault
from stage1_cnn.backbones.timm_models import timm_errors_as_input_errors
from stage1_cnn.config import CnnConfig
from stage1_cnn.model import Cnn, untrained_model


def cnn_without_weights(config: CnnConfig) -> Cnn:
    """Return the CNN of a recipe's entry on torch's meta device: shapes and types, no memory.

    Raises InputError where timm cannot make it.
    """
    with timm_errors_as_input_errors(config), torch.device("meta"):
        return untrained_model(config)


def check_size(config: CnnConfig, size: int) -> None:
    """Raise InputError where the CNN of a recipe's entry does not accept images of its size.

    The size in pixels a side is the entry's own, else `size`. This builds the CNN with its weights:
    check first that the files hold that many.
    """
    size = config.image_size or size
    with timm_errors_as_input_errors(config), torch.inference_mode():
        cnn = untrained_model(config).eval()
        cnn(torch.zeros(1, config.in_channels, size, size))


def check_weights(cnn: Cnn, path: Path) -> None:
    """Raise ValueError where a safetensors file does not hold exactly the weights of `cnn`.

    All of them must be finite.
    """
    state = cnn.backbone.state_dict().items()
    check_arrays(path, {name: (tuple(value.shape), value.dtype) for name, value in state})


def check_probes(path: Path, prefixes: Iterable[str], width: int) -> None:
    """Raise ValueError where a safetensors file lacks a probe, or one does not fit embeddings.

    prefixes: of the names of the arrays, one a probe; width: of the embeddings
    """
    shapes = {"centre": (width,), "weights": (width, len(LABELS)), "intercept": (len(LABELS),)}
    expected = {
        prefix + part: (shape, torch.float32)
        for prefix in prefixes
        for part, shape in shapes.items()
    }
    check_arrays(path, expected, others=True)


def check_arrays(
    path: Path,
    expected: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    others: bool = False,
) -> None:
    """Raise ValueError where a safetensors file does not hold finite arrays as expected.

    expected: {name: (shape, dtype)}; others: whether the file may hold more arrays, which are not
    read
    """
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            if missing := sorted(set(expected) - names):
                raise ValueError(
                    f"it lacks {len(missing)} arrays, the first {printable(missing[0])}"
                )
            if not others and (extra := sorted(names - set(expected))):
                raise ValueError(
                    f"it has {len(extra)} arrays more than it should, "
                    f"the first {printable(extra[0])}"
                )
            for name, (shape, dtype) in expected.items():
                stored = file.get_slice(name).get_shape()
                if tuple(stored) != shape:
                    raise ValueError(f"{name} has the shape {stored}, not {list(shape)}")
                array = file.get_tensor(name)
                finite = not array.is_floating_point() or torch.isfinite(array).all()
                if array.dtype != dtype or not finite:
                    raise ValueError(
                        f"{name} holds no finite {str(dtype).removeprefix('torch.')} numbers"
                    )
    except (SafetensorError, OSError) as error:
        if path.is_file():
            raise_fault(error, path.name)
        raise ValueError(f"it is no safetensors file ({printable(error)})") from None
