"""The checkpoint file of an unfinished training: safetensors with a digest in the header."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ct.storage.atomic_write import replacing
from ct.storage.digests import new_digest
from stage1_cnn.config import CnnConfig
from stage1_cnn.model import untrained_model
from stage1_cnn.state_tensors import TrainingState, with_prefix

OLDER_HEADER = {"same", "state"}  # of an older version
HEADER = OLDER_HEADER | {"environment", "reasons", "digest"}
# of the counts in the state
MINIMA = {"epoch": 1, "step": 0, "done": 0, "micro": 1, "processes": 1}

Tensors = dict[str, torch.Tensor]
Environment = dict[str, int | str]  # as returned by stage1_cnn.device.environment


def write_checkpoint(
    path: Path,
    checkpoint: TrainingState,
    training_digest: str,
    environment: Environment,
    reasons: list[str],
) -> None:
    """Write a checkpoint.

    training_digest: of everything that the training depends on; environment: processes, device and
    precision, which may change; reasons: why the training so far may not be repeatable to the bit,
    one line each
    """
    header = {"same": training_digest, "state": json.dumps(checkpoint.state)}
    header |= {"environment": json.dumps(environment), "reasons": json.dumps(reasons)}
    with replacing(path) as part:
        digest = _digest(header, checkpoint.tensors)
        save_file(checkpoint.tensors, part, header | {"digest": digest})


def read_checkpoint(
    path: Path, training_digest: str, config: CnnConfig, log: Callable[[str], None]
) -> tuple[TrainingState | None, Environment, list[str]]:
    """Return (TrainingState, environment, reasons) as written.

    Returns (None, {}, []) where there is none, or it is of another training, or it is damaged; then
    `log` is called with one line. A checkpoint of an older version, without digest and environment,
    is used where it loads, fits and is finite.
    """
    if not path.exists():
        return None, {}, []
    try:
        header, tensors = _load(path)
        _check_content(header, tensors)
        if header["same"] != training_digest:
            return None, {}, []
        environment = json.loads(header.get("environment", "{}"))
        # of an older version, the environment alone names the processes, or there was just one
        state = {"processes": environment.get("processes", 1)} | json.loads(header["state"])
        checkpoint = TrainingState(tensors, state)
        _check_fit(checkpoint, config)
        return checkpoint, environment, json.loads(header.get("reasons", "[]"))
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = (str(error).splitlines() or [""])[0][:100]
        log(
            f"  {config.name} {path.parent.name}: its checkpoint is damaged ({why}); "
            "it is trained anew"
        )
        return None, {}, []


def checkpoint_digest(path: Path) -> str:
    """Return the `training_digest` of a checkpoint; "" where there is none, or it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("same", "")
    except (OSError, SafetensorError):
        return ""


def is_whole(path: Path) -> bool:
    """Return whether a checkpoint holds what was written.

    Of an older version, which has no digest, return whether it is finite.
    """
    if not path.is_file():
        return False  # safetensors reports a folder as a missing device
    try:
        _check_content(*_load(path))
    except (SafetensorError, ValueError, KeyError, TypeError):
        return False
    return True


def environment_changes(before: Environment, now: Environment) -> list[str]:
    """Return a line for each difference of two environments of one training.

    With one of them the training is not repeatable to the bit.
    """
    return [
        f"continued with {name} {now[name]} after {before[name]}"
        for name in now
        if before.get(name, now[name]) != now[name]
    ]


def _load(path: Path) -> tuple[dict[str, str], Tensors]:
    """Return the header and the tensors of a file."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
        return file.metadata() or {}, tensors


def _check_content(header: Mapping[str, str], tensors: Tensors) -> None:
    """Raise ValueError where a checkpoint is not what was written, or an older one not finite."""
    if set(header) == OLDER_HEADER:
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise ValueError("not all of its weights are finite")
    elif set(header) != HEADER or header["digest"] != _digest(header, tensors):
        raise ValueError("it holds other bytes than were written")


def _check_fit(checkpoint: TrainingState, config: CnnConfig) -> None:
    """Raise ValueError where a checkpoint does not fit the CNN of `config`.

    That is possible for an older one, or for one of another version of timm.
    """
    state = checkpoint.state
    minima = MINIMA | ({"averaged": 0} if config.average_epochs > 1 else {})
    if missing := {"loss_sum", "curve", "scaler", *minima} - set(state):
        raise ValueError(f"its state lacks {min(missing)}")
    for name, minimum in minima.items():
        if type(state[name]) is not int or state[name] < minimum:
            raise ValueError(f"its state has {name} = {state[name]!r}")
    model = untrained_model(config)
    kinds = {"model": True, "ema": config.ema, "average": state.get("averaged")}
    for name in (name for name, holds in kinds.items() if holds):
        tensors = with_prefix(checkpoint.tensors, name)
        if _shapes(tensors) != _shapes(model.state_dict()):
            raise ValueError("its weights are those of another CNN")
    count = len(list(model.parameters()))
    if any(int(key.split(".")[0]) >= count for key in with_prefix(checkpoint.tensors, "optimizer")):
        raise ValueError("its optimizer is that of another CNN")


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _digest(header: Mapping[str, Any], tensors: Tensors) -> str:
    """Return the digest of a header without its digest, and of the tensors, names and types."""
    values = {name: value for name, value in header.items() if name != "digest"}
    digest = new_digest(json.dumps(values, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
