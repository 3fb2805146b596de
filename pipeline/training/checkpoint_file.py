"""The checkpoint of a training under way as a file: safetensors whose header holds the digest of
all that the file holds.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ct.storage.atomic_write import replacing
from stage1_cnn.checkpoint import Checkpoint, with_prefix
from stage1_cnn.config import CnnConfig
from stage1_cnn.model import build_model

OLDER = {"same", "state"}  # the header of an older version
# of the state: counts, each with the least that it can be
LEAST = {"epoch": 1, "step": 0, "done": 0, "micro": 1}


def write_checkpoint(
    path: Path, checkpoint: Checkpoint, same: str, environment: dict, reasons: list[str]
) -> None:
    """Write a checkpoint.

    same: digest of all that the training depends on; environment: processes, device, precision,
    which may change; reasons: why the training may not be repeatable to the bit so far, one line
    each
    """
    about = {"same": same, "state": json.dumps(checkpoint.state)}
    about |= {"environment": json.dumps(environment), "reasons": json.dumps(reasons)}
    with replacing(path) as part:
        save_file(checkpoint.tensors, part, about | {"digest": _digest(about, checkpoint.tensors)})


def read_checkpoint(
    path: Path, same: str, config: CnnConfig, log: Callable[[str], None]
) -> tuple[Checkpoint | None, dict, list[str]]:
    """Return (Checkpoint, environment, reasons), as written. None, {}, [] where it is of another
    training or damaged.

    log: called with one line where it is damaged. A checkpoint of an older version, without a
    digest and an environment, is taken where it loads and holds numbers.
    """
    if not path.exists():
        return None, {}, []
    try:
        with safe_open(path, "pt") as file:
            about, tensors = (
                file.metadata() or {},
                {name: file.get_tensor(name) for name in file.keys()},
            )  # noqa: SIM118
        _check(about, tensors)
        if about["same"] != same:
            return None, {}, []
        checkpoint = Checkpoint(tensors, json.loads(about["state"]))
        _check_fit(checkpoint, config)
        return (
            checkpoint,
            json.loads(about.get("environment", "{}")),
            json.loads(about.get("reasons", "[]")),
        )
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = (str(error).splitlines() or [""])[0][:100]
        log(
            f"  {config.name} {path.parent.name}: its checkpoint is damaged ({why}); it is trained anew"
        )
        return None, {}, []


def checkpoint_digest(path: Path) -> str:
    """Return the digest of all that the training whose checkpoint lies at `path` depends on; ""
    where there is none.
    """
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("same", "")
    except (
        OSError,
        SafetensorError,
    ):  # none, or a damaged one, which whoever continues it will see
        return ""


def is_whole(path: Path) -> bool:
    """Return whether a checkpoint holds what was written; of an older version, whether it holds
    numbers.
    """
    if not path.is_file():
        return False  # a folder, of which safetensors tells that there is no such device
    try:
        with safe_open(path, "pt") as file:
            _check(file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, ValueError, KeyError, TypeError):
        return False
    return True


def changes(before: dict, now: dict) -> list[str]:
    """Return why a training that began in the environment `before` is not repeatable to the bit in
    `now`, one line each.
    """
    return [
        f"continued with {name} {now[name]} after {before[name]}"
        for name in now
        if before.get(name, now[name]) != now[name]
    ]


def _check(about: dict, tensors: dict[str, torch.Tensor]) -> None:
    """Raise ValueError where a checkpoint does not hold what was written; of an older version,
    where it holds no numbers.
    """
    if set(about) == OLDER:
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise ValueError("not all of its weights are numbers")
    elif set(about) != OLDER | {"environment", "reasons", "digest"} or about["digest"] != _digest(
        about, tensors
    ):
        raise ValueError("it holds other bytes than were written")


def _check_fit(checkpoint: Checkpoint, config: CnnConfig) -> None:
    """Raise ValueError where a checkpoint is not of the CNN of `config`: an older one, or of
    another version of timm.
    """
    state = checkpoint.state
    if lacking := {"loss_sum", "curve", "scaler", *LEAST} - set(state):
        raise ValueError(f"its state lacks {min(lacking)}")
    if wrong := [
        name for name, least in LEAST.items() if type(state[name]) is not int or state[name] < least
    ]:
        raise ValueError(f"its state has {wrong[0]} = {state[wrong[0]]!r}")
    model = build_model(config.model_copy(update={"pretrained": False}), seed=0)
    for name in ("model", "ema")[: 2 if config.ema else 1]:
        shapes = {
            key: tensor.shape for key, tensor in with_prefix(checkpoint.tensors, name).items()
        }
        if shapes != {key: tensor.shape for key, tensor in model.state_dict().items()}:
            raise ValueError("its weights are those of another CNN")
    count = len(list(model.parameters()))
    if any(int(key.split(".")[0]) >= count for key in with_prefix(checkpoint.tensors, "optimizer")):
        raise ValueError("its optimizer is that of another CNN")


def _digest(about: dict, tensors: dict[str, torch.Tensor]) -> str:
    """Return a digest of a checkpoint's header but for the digest itself, and of its tensors, names
    and types included.
    """
    header = {name: value for name, value in about.items() if name != "digest"}
    digest = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
